"""What this process and its children let others reach: nothing beyond the loopback interface without TLS that wants a certificate of ours."""

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Collection, Iterator
from typing import NamedTuple

from curate.errors import SafetyError

_PATIENCE = 5.0  # seconds for one handshake


class Listener(NamedTuple):
    """A socket that takes connections."""

    pid: int
    address: str
    port: int

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback


def listening(*, children: bool = True) -> set[Listener]:
    """Every listening TCP socket of this process, and of its children."""
    import psutil

    me = psutil.Process()
    return {one for process in (me, *(me.children(recursive=True) if children else ())) for one in _of(process)}


def _of(process: object) -> Iterator[Listener]:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        for one in process.net_connections("tcp"):  # type: ignore[attr-defined]
            if one.status == psutil.CONN_LISTEN:
                yield Listener(process.pid, one.laddr.ip, one.laddr.port)  # type: ignore[attr-defined]


def exposed(known: Collection[int]) -> list[str]:
    """`address:port` of what this process itself opens to other machines, but for the ports that are known to speak TLS."""
    return [f"{one.address}:{one.port}" for one in sorted(listening(children=False)) if not one.loopback and one.port not in known]


def audit(before: Collection[Listener]) -> None:
    """SafetyError where something that listens now, and did not before, can be reached from elsewhere without a certificate of ours."""
    for one in sorted(listening() - set(before)):
        if not one.loopback and not demands_certificate(one):
            raise SafetyError(
                f"process {one.pid} listens on {one.address}:{one.port}, beyond this machine, and wants no certificate: anyone who reaches this port "
                "could run code as you; everything was stopped"
            )


def demands_certificate(one: Listener) -> bool:
    """Whether a TLS handshake is asked for there, and a client without certificate is turned away."""
    place = ipaddress.ip_address(one.address)
    host = ("::1" if place.version == 6 else "127.0.0.1") if place.is_unspecified else one.address
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, one.port), _PATIENCE) as plain:
            try:
                with context.wrap_socket(plain) as secured:
                    try:
                        return not secured.recv(1)  # who wants none greets us with bytes of its own
                    except TimeoutError:
                        return False
                    except OSError:
                        return True  # turned away
            except (ssl.SSLError, OSError) as error:
                return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")
    except OSError:
        return True  # closed meanwhile
