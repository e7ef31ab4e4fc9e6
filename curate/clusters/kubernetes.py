"""Workers as pods of a DaskCluster resource, which the Dask operator runs; this process reaches their scheduler by a forwarded port.

dask-kubernetes' KubeCluster knows addresses of the form tcp:// only, so the resource is made here: with a secret that holds the certificates, and
probes that need no open port. Worker groups that shrink lose their youngest pods, for the operator cannot ask a scheduler that wants a certificate.
"""

import base64
import contextlib
import secrets
from typing import TYPE_CHECKING, Any

from curate.clusters.certificates import FILES, Certificates, made
from curate.clusters.extras import needs
from curate.clusters.settings import KubernetesProfile
from curate.clusters.settled import ENVIRONMENT, inherited
from curate.clusters.site import ANYWHERE, Site
from curate.clusters.started import Notify, Started, let_go
from curate.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

_PORT, _PAGES = 8786, 8787
_MOUNT = "/etc/curate-tls"
_PROBE = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{_PAGES}/health', timeout=3)"


class Kubernetes(Started):
    """A scheduler pod and `workers` worker pods."""

    def __init__(self, profile: KubernetesProfile, site: Site = ANYWHERE) -> None:
        super().__init__(profile.workers, site, profile.worker_timeout, profile.task_deadline)
        self._profile = profile

    def connect(self, held: contextlib.ExitStack, notify: Notify) -> "Client":
        needs("kr8s", "kubernetes")
        if self.site.run is None:
            raise ConfigError("workers in pods need a run folder that they see; see claims in the profile")
        from distributed import Client
        from kr8s.objects import Pod, Secret, new_class

        name, certificates = f"curate-{secrets.token_hex(4)}", made()
        secret, resource = manifest(self._profile, name, certificates)
        dask_cluster = new_class("DaskCluster", "kubernetes.dask.org/v1", namespaced=True)
        for one in (Secret(secret), dask_cluster(resource)):
            one.create()
            held.callback(_delete, one)
        notify(f"made DaskCluster {name} in namespace {self._profile.namespace}; waiting for its scheduler")
        pod = Pod.get(
            namespace=self._profile.namespace,
            label_selector={"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
            timeout=int(self.worker_timeout),
        )
        pod.wait("condition=Ready", timeout=int(self.worker_timeout))
        forward = pod.portforward(remote_port=_PORT, local_port="auto", address=["127.0.0.1"])
        forward.start()
        held.callback(forward.stop)
        client = Client(f"tls://127.0.0.1:{forward.local_port}", security=certificates.security(), set_as_default=False)
        return let_go(held, client)  # type: ignore[no-any-return]


def _delete(resource: Any) -> None:
    with contextlib.suppress(Exception):
        resource.delete()


def manifest(profile: KubernetesProfile, name: str, certificates: Certificates | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The secret and the DaskCluster; without certificates, what stands in their place is not filled in."""
    texts = dict(zip(FILES, (certificates.authority, certificates.node, certificates.key), strict=True)) if certificates else dict.fromkeys(FILES, "")
    about = {"name": name, "namespace": profile.namespace, "labels": {"app.kubernetes.io/name": "curate"}}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**about, "name": f"{name}-tls"},
        "type": "Opaque",
        "data": {file: base64.b64encode(text.encode()).decode() for file, text in texts.items()},
    }
    ports = [{"name": "tcp-comm", "port": _PORT, "protocol": "TCP"}, {"name": "http-dashboard", "port": _PAGES, "protocol": "TCP"}]
    chosen = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    spec = {
        "idleTimeout": 0,
        "scheduler": {
            "spec": {"containers": [_scheduler(profile, name)], "volumes": _volumes(profile, name)},
            "service": {"type": "ClusterIP", "selector": chosen, "ports": [{**port, "targetPort": port["name"]} for port in ports]},
        },
        "worker": {"replicas": profile.workers, "spec": {"containers": [_worker(profile, name)], "volumes": _volumes(profile, name)}},
    }
    return secret, {"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "metadata": about, "spec": spec}


def _tls() -> list[str]:
    authority, node, key = (f"{_MOUNT}/{file}" for file in FILES)
    return ["--tls-ca-file", authority, "--tls-cert", node, "--tls-key", key, "--protocol", "tls"]


def _container(profile: KubernetesProfile, name: str, what: str, command: list[str], gpus: int) -> dict[str, Any]:
    variables = {**ENVIRONMENT, **profile.environment, "DASK_INTERNAL_INHERIT_CONFIG": inherited()}
    amounts = {"cpu": f"{profile.cores:g}", "memory": profile.memory.replace(" ", "").removesuffix("B")} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    mounts = [{"name": "tls", "mountPath": _MOUNT, "readOnly": True}, *({"name": claim, "mountPath": path} for claim, path in profile.claims.items())]
    return {
        "name": what,
        "image": profile.image,
        "args": command,
        "env": [{"name": variable, "value": value} for variable, value in variables.items()],
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": mounts,
    }


def _scheduler(profile: KubernetesProfile, name: str) -> dict[str, Any]:
    command = ["dask", "scheduler", "--host", "0.0.0.0", "--port", str(_PORT), "--dashboard-address", f"127.0.0.1:{_PAGES}", *_tls()]
    probe = {"exec": {"command": ["python", "-c", _PROBE]}, "periodSeconds": 5, "timeoutSeconds": 10}
    ports = [{"name": "tcp-comm", "containerPort": _PORT, "protocol": "TCP"}, {"name": "http-dashboard", "containerPort": _PAGES, "protocol": "TCP"}]
    made_of = _container(profile, name, "scheduler", command, 0)
    return {**made_of, "ports": ports, "readinessProbe": probe, "livenessProbe": {**probe, "initialDelaySeconds": 15, "periodSeconds": 20}}


def _worker(profile: KubernetesProfile, name: str) -> dict[str, Any]:
    address = f"tls://{name}-scheduler.{profile.namespace}.svc:{_PORT}"
    command = ["dask", "worker", address, "--name", "$(DASK_WORKER_NAME)", "--nthreads", "1", "--dashboard-address", "127.0.0.1:0", *_tls()]
    return _container(profile, name, "worker", command, profile.gpus)


def _volumes(profile: KubernetesProfile, name: str) -> list[dict[str, Any]]:
    tls = {"name": "tls", "secret": {"secretName": f"{name}-tls", "defaultMode": 0o400}}
    return [tls, *({"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in profile.claims)]
