"""P18, S04: whoever has no valid certificate of the cluster is turned away by scheduler and workers, also on the loopback interface."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from curate.clusters.audit import Listener, audit, demands_certificate, exposed, listening
from curate.clusters.certificates import Authority, Certificates, made, written
from curate.clusters.laptop import Laptop
from curate.clusters.scheduler import Scheduler
from curate.clusters.settings import SchedulerProfile
from curate.errors import ClusterError, ConfigError, SafetyError


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """The ports of a scheduler and of its worker, and certificates: of this cluster, of another, expired, and none."""
    authority = Authority()
    own = authority.node()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curate.clusters.laptop.made", lambda: own)
        launcher = Laptop(1)
        client = launcher.start(print)
    folder = tmp_path_factory.mktemp("tls")
    try:
        worker = next(iter(client.scheduler_info()["workers"]))
        yield {
            "ports": {"scheduler": port_of(client.scheduler.address), "worker": port_of(worker)},
            "own": written(own, folder / "own"),
            "other": written(made(), folder / "other"),
            "expired": written(authority.node(days=-1), folder / "expired"),
            "client": client,
        }
    finally:
        launcher.close()


def port_of(address: str) -> int:
    assert address.startswith("tls://127.0.0.1:")
    return int(address.rsplit(":", 1)[1])


def greeted(port: int, files: Certificates | None) -> bool:
    """Whether Dask's own first words come after a handshake with this certificate; the server is not checked, as an attacker would not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if files is not None:
        context.load_cert_chain(files.node, files.key)
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as secured:
            return bool(secured.recv(1))
    except (ssl.SSLError, ConnectionError):
        return False


@pytest.mark.parametrize("server", ["scheduler", "worker"])
def test_who_has_the_certificate_is_let_in(cluster: dict[str, dict[str, int]], server: str) -> None:
    assert greeted(cluster["ports"][server], cluster["own"])  # type: ignore[arg-type]


@pytest.mark.parametrize("server", ["scheduler", "worker"])
@pytest.mark.parametrize("whose", ["other", "expired", "none"])
def test_a_wrong_an_expired_or_no_certificate_is_turned_away(cluster: dict[str, dict[str, int]], server: str, whose: str) -> None:
    assert not greeted(cluster["ports"][server], cluster.get(whose))  # type: ignore[arg-type]


@pytest.mark.parametrize("server", ["scheduler", "worker"])
def test_plain_tcp_is_turned_away(cluster: dict[str, dict[str, int]], server: str) -> None:
    with socket.create_connection(("127.0.0.1", cluster["ports"][server]), 10) as plain:
        plain.sendall(b"\0" * 64)
        try:
            said = plain.recv(64)
        except ConnectionError:
            said = b""
    assert said == b"" or said[0] == 0x15  # nothing, or an alert of TLS


def test_a_driver_with_certificates_of_another_authority_does_not_trust_the_scheduler(
    cluster: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.clusters.scheduler._CONNECT", 3.0)
    address = f"tls://127.0.0.1:{cluster['ports']['scheduler']}"  # type: ignore[index]
    other: Certificates = cluster["other"]  # type: ignore[assignment]
    profile = SchedulerProfile(address=address, ca=other.authority, certificate=other.node, key=other.key)
    with pytest.raises(ClusterError, match="no scheduler answers at tls://127.0.0.1"):
        Scheduler(profile).start(print)


def test_a_certificate_that_is_no_file_is_named(tmp_path: Path) -> None:
    profile = SchedulerProfile(address="tls://127.0.0.1:1", ca=str(tmp_path / "ca.pem"), certificate="b", key="c")
    with pytest.raises(ConfigError, match="the profile's ca is .*ca.pem, which is no file; `curate certificates DIR`"):
        Scheduler(profile).start(print)


@pytest.fixture
def everywhere() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        yield listener


def test_a_plain_port_that_others_reach_stops_everything(everywhere: socket.socket) -> None:
    port = everywhere.getsockname()[1]
    assert exposed([]) == [f"0.0.0.0:{port}"] and exposed([port]) == []
    with pytest.raises(SafetyError, match=f"0.0.0.0:{port}, beyond this machine, and wants no certificate: anyone who reaches this port could run code"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("curate.clusters.audit._PATIENCE", 0.5)
            audit([])


def test_a_port_that_was_open_before_is_not_ours_to_judge(everywhere: socket.socket) -> None:
    audit(listening())


def test_a_port_that_asks_for_a_certificate_is_told_from_one_that_does_not(cluster: dict[str, dict[str, int]]) -> None:
    assert demands_certificate(Listener(0, "127.0.0.1", cluster["ports"]["scheduler"]))
    assert demands_certificate(Listener(0, "0.0.0.0", cluster["ports"]["worker"]))


@pytest.mark.parametrize("asks", [True, False])
def test_tls_alone_is_not_enough(asks: bool, tmp_path: Path) -> None:
    """A server that speaks TLS and lets in anyone, or that asks for a certificate and takes none of another authority."""
    import threading

    files = written(made(), tmp_path / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.node, files.key)
    if asks:
        context.load_verify_locations(files.authority)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                with context.wrap_socket(listener.accept()[0], server_side=True) as taken:
                    taken.sendall(b"hello")
            except OSError:
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        assert demands_certificate(Listener(0, "127.0.0.1", listener.getsockname()[1])) is asks
        thread.join(10)
