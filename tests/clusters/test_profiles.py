"""Profiles: those that ship are valid, wrong ones are refused with file and line, and a dry run shows what would be started."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from curate.cluster import InProcess, Workers
from curate.clusters.certificates import Certificates, made
from curate.clusters.chosen import launcher_of, shown, with_workers
from curate.clusters.kubernetes import manifest
from curate.clusters.profile import SHIPPED, parse_profile, read_profile, shipped
from curate.clusters.settings import KINDS, KubernetesProfile, LaptopProfile, SlurmProfile, SshProfile, seconds
from curate.clusters.site import Site
from curate.clusters.slurm import job_options, lifetime
from curate.errors import ConfigError, SafetyError
from curate.pipelines.launch import _cluster
from curate.progress import Progress
from curate.recipe import Runtime
from curate.strict_yaml import load


def test_every_kind_ships_a_profile_that_is_valid_and_short() -> None:
    assert shipped() == sorted(KINDS)
    for name in shipped():
        assert read_profile(name).kind == name
        assert len((SHIPPED / f"{name}.yaml").read_text().splitlines()) < 30


def test_every_field_says_what_it_means() -> None:
    silent = {f"{kind}.{name}" for kind, profile in KINDS.items() for name, field in profile.model_fields.items() if name != "kind" and not field.description}
    assert silent <= {"kubernetes.namespace", "ssh.username", "ssh.port"}  # whose names say all


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: slrum", r"mine.yaml:1: kind is 'slrum'; did you mean slurm\?"),
        ("workers: 2", "mine.yaml:1: kind is missing; kinds: laptop, gpus"),
        ("kind: slurm\n\nqueu: x", r"mine.yaml:3: queu is not a field; did you mean queue\?"),
        ("kind: slurm\nworkers: two", "mine.yaml:2: workers is 'two'; it must be a whole number"),
        ("kind: slurm\nworkers: 0", "mine.yaml:2: workers is 0; it must"),
        ("kind: slurm\nwalltime: '4h'", "mine.yaml:2: walltime: '4h' is not understood; write .*hours:minutes:seconds"),
        ("kind: slurm\nwalltime: '00:01:00'", "a walltime of 00:01:00 leaves no time to work"),
        ("kind: slurm\nmemory: lots", "mine.yaml:2: memory: 'lots' is not understood; write a number and KB"),
        ("kind: slurm\nqueue: 'a; rm -rf x'", "mine.yaml:2: queue: .* it goes into a shell script"),
        ("kind: slurm\nprologue: [\"a\\nb\"]", "mine.yaml:2: prologue.0: .* write one line"),
        ("kind: slurm\nworkers: 2\nadaptive: {maximum: 4}", "workers and adaptive exclude each other; remove one"),
        ("kind: slurm\nadaptive:\n  minimum: 4\n  maximum: 2", "mine.yaml:2: adaptive: maximum is 2, less than minimum 4"),
        ("kind: slurm\nadaptive: {most: 2}", r"mine.yaml:2: adaptive.most is not a field"),
        ("kind: slurm\nhost: a\ninterface: b", "host and interface exclude each other"),
        ("kind: scheduler\naddress: tls://a:1", "a tls:// address needs ca, certificate and key"),
        ("kind: scheduler\naddress: https://a", "mine.yaml:2: address: .* write tls://HOST:PORT"),
        ("kind: ssh\nhosts: []", "mine.yaml:2: hosts"),
        ("kind: laptop\nenvironment: {HF_TOKEN: x}", "mine.yaml:2: environment: HF_TOKEN looks like a secret"),
        ("kind: laptop\nenvironment: {DASK_X: x}", "mine.yaml:2: environment: DASK_X would change Dask"),
        ("kind: laptop\nenvironment: {'A B': x}", "mine.yaml:2: environment: 'A B' is no name of a variable"),
        ("kind: laptop\ntask_deadline: 0", "mine.yaml:2: task_deadline is 0"),
        ("kind: kubernetes", "mine.yaml:1: image is missing; add it"),
        ("- kind", "mine.yaml:1: the top level is a list"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_profile(load(text, "mine.yaml"))


def test_a_profile_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no profile 'labtop'; did you mean laptop\? .*\./labtop.yaml"):
        read_profile("labtop")
    with pytest.raises(ConfigError, match="cannot read the profile .*absent.yaml: No such file"):
        read_profile(str(tmp_path / "absent.yaml"))


def test_walltimes_are_read_as_slurm_reads_them() -> None:
    assert [seconds(text) for text in ("00:10:00", "1-00:00:00", "2-03:04:05")] == [600, 86400, 183845]


@pytest.mark.parametrize(("walltime", "end"), [("04:00:00", 14400), ("00:10:00", 600), ("00:02:00", 120)])
def test_workers_end_before_their_job_does_even_the_last_of_them(walltime: str, end: int) -> None:
    words = lifetime(SlurmProfile(walltime=walltime))
    life, stagger = (int(words[place].removesuffix("s")) for place in (1, 3))
    assert words[::2] == ["--lifetime", "--lifetime-stagger"]
    assert 0 < life - stagger and life + stagger <= end - min(300, end // 4) and stagger > 0
    assert lifetime(SlurmProfile()) == []


def test_a_path_that_a_shell_would_take_apart_is_refused() -> None:
    files = Certificates("/a/ca.pem", "/a/node.pem", "/a/node.key")
    with pytest.raises(ConfigError, match=r"/run/it is goes into a job script"):
        job_options(SlurmProfile(), Path("/run/it is"), files)
    with pytest.raises(ConfigError, match="python"):
        job_options(SlurmProfile(python="/bin/python; rm"), Path("/run/it"), files)


def test_a_job_sees_no_other_port_than_tls_and_no_configuration_of_others() -> None:
    options = job_options(SlurmProfile(gpus=1, environment={"HF_HOME": "/a b"}), Path("/run/it"), Certificates("/a/ca.pem", "/a/node.pem", "/a/node.key"))
    arguments = options["worker_extra_args"]
    assert arguments[arguments.index("--dashboard-address") + 1] == "127.0.0.1:0"
    assert "--gres=gpu:1" in options["job_extra_directives"] and "export HF_HOME='/a b'" in options["job_script_prologue"]
    assert any(line.startswith("export DASK_INTERNAL_INHERIT_CONFIG=") for line in options["job_script_prologue"])


def test_the_manifest_holds_the_keys_in_its_secret_only_and_opens_no_plain_port() -> None:
    certificates = made()
    secret, resource = manifest(KubernetesProfile(image="i", workers=3, gpus=1, claims={"data": "/data"}), "curate-x", certificates)
    said = json.dumps(resource)
    assert "PRIVATE KEY" not in said and set(secret["data"]) == {"ca.pem", "node.pem", "node.key"}
    spec = resource["spec"]
    for part, pods in (("scheduler", spec["scheduler"]["spec"]), ("worker", spec["worker"]["spec"])):
        (container,) = pods["containers"]
        arguments = container["args"]
        assert arguments[1] == part and arguments[arguments.index("--protocol") + 1] == "tls"
        assert arguments[arguments.index("--dashboard-address") + 1].startswith("127.0.0.1:")
        assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    assert spec["worker"]["replicas"] == 3 and spec["worker"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["worker"]["spec"]["containers"][0]["args"][2] == "tls://curate-x-scheduler.default.svc:8786"


def test_every_part_of_the_manifest_is_known_to_kubernetes_own_models() -> None:
    client = pytest.importorskip("kubernetes.client", reason="needs the kubernetes package, whose models name every field")
    secret, resource = manifest(KubernetesProfile(image="i", gpus=1, claims={"data": "/data"}), "curate-x", made())
    spec = resource["spec"]
    parts = {"V1Secret": [secret], "V1PodSpec": [spec["scheduler"]["spec"], spec["worker"]["spec"]], "V1ServiceSpec": [spec["scheduler"]["service"]]}
    models = client.ApiClient()

    def through(kind: str, part: Any) -> Any:
        """Back and forth: a field that the model does not know is lost on the way."""
        return models.sanitize_for_serialization(models._ApiClient__deserialize(part, kind))

    for kind, some in parts.items():
        assert [through(kind, part) for part in some] == some
    assert through("V1PodSpec", {**spec["worker"]["spec"], "volume": []}) == spec["worker"]["spec"]  # one is lost, where it is wrong


def test_what_a_dry_run_shows_of_kubernetes_can_be_read_by_kubectl() -> None:
    documents = [yaml.safe_load(part) for part in shown(read_profile("kubernetes"), Path("/run"), 1).split("\n---\n")]
    assert [document["kind"] for document in documents] == ["Secret", "DaskCluster"] and set(documents[0]["data"].values()) == {""}


def test_a_dry_run_prints_and_starts_nothing(command_line: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("laptop", "ssh"):
        assert command_line("run", "quickstart", "--profile", name, "--dry-run", "--runs", tmp_path / "runs", "--store", tmp_path / "store") == 0
        assert f"kind: {name}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("curate.clusters.extras.find_spec", lambda name: None)
    for profile, extra in ((SlurmProfile(), "slurm"), (KubernetesProfile(image="i"), "kubernetes"), (SshProfile(hosts=["a"]), "ssh")):
        launcher = launcher_of(profile, Site(tmp_path / "store", tmp_path / "run"), 1)
        with pytest.raises(ConfigError, match=rf"not installed; run: pip install 'curate\[{extra}\]'"):
            launcher.start(print)


def test_a_scheduler_without_tls_is_refused_unless_that_is_understood() -> None:
    profile = parse_profile(load("kind: scheduler\naddress: tcp://127.0.0.1:1", "p.yaml"))
    with pytest.raises(SafetyError, match="anyone who reaches this port can run code as you; .*--i-understand-insecure-cluster"):
        launcher_of(profile, Site(), 1)
    assert launcher_of(profile, Site(), 1, insecure=True).workers == 1


def test_the_command_line_changes_the_number_of_workers() -> None:
    assert with_workers(LaptopProfile(), 3).workers == 3
    adaptive = parse_profile(load("kind: slurm\nadaptive: {maximum: 4}", "p.yaml"))
    assert launcher_of(adaptive, Site(), 1).workers == 4
    assert launcher_of(with_workers(adaptive, 3), Site(), 1).workers == 3
    with pytest.raises(ConfigError, match="workers_per_host"):
        with_workers(SshProfile(hosts=["a"]), 2)


def test_one_worker_on_this_machine_is_this_process_unless_the_profile_gives_it_variables(tmp_path: Path) -> None:
    def cluster(text: str) -> InProcess | Workers:
        runtime = Runtime(store=tmp_path / "store", profile=parse_profile(load(text, "p.yaml")))
        return _cluster(runtime, "cpu", tmp_path, Progress(None, quiet=True))

    alone = cluster("kind: laptop\nworkers: 1\ntask_deadline: 7")
    assert isinstance(alone, InProcess) and alone._deadline == 7.0
    apart = cluster("kind: laptop\nworkers: 1\nenvironment: {HF_HOME: /models}")
    assert isinstance(apart, Workers) and not apart.launcher.local
    several = cluster("kind: laptop\nworkers: 2")
    assert isinstance(several, Workers) and several.launcher.local
