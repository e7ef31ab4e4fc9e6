"""Certificates by which scheduler, workers and driver know each other: TLS 1.3, and each side proves itself to the other.

A fresh authority signs one certificate, whose key all processes of one cluster share; the authority's own key is forgotten, so that nobody can add
to it. Valid from a day ago, for clocks of machines differ, and for a year.
"""

import contextlib
import datetime
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import ConfigError
from curate.store import atomic_write

if TYPE_CHECKING:
    from distributed import Security

FILES = ("ca.pem", "node.pem", "node.key")
_SLACK = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificates:
    """PEM texts, or paths of files that hold them: of the authority, of a node, and of its key."""

    authority: str
    node: str
    key: str

    def __repr__(self) -> str:
        """Without the key."""
        return f"{type(self).__name__}(...)"

    def security(self) -> "Security":
        """As Dask takes them, for every role."""
        import ssl

        from distributed import Security

        pair = {f"tls_{role}_{part}": value for role in ("client", "scheduler", "worker") for part, value in (("cert", self.node), ("key", self.key))}
        return Security(require_encryption=True, tls_ca_file=self.authority, tls_min_version=ssl.TLSVersion.TLSv1_3, **pair)


class Authority:
    """Who signs; its key, on the curve P-256, is in memory only."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _named("authority")

    def node(self, days: float = 365) -> Certificates:
        """A certificate for so many days from now, with a new key."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        own, node = self._signed(self._name, self._key.public_key(), 365, True), self._signed(_named("node"), key.public_key(), days, False)
        return Certificates(own, node, secret.decode())

    def _signed(self, name: Any, public: Any, days: float, signs: bool) -> str:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        start = min(datetime.datetime.now(datetime.UTC), end) - _SLACK
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(public).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(start).not_valid_after(end)
        builder = builder.add_extension(x509.BasicConstraints(ca=signs, path_length=0 if signs else None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _named(what: str) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"curate {what} {secrets.token_hex(4)}")])


def made() -> Certificates:
    """New certificates in memory, of an authority that nobody can use again."""
    return Authority().node()


def written(certificates: Certificates, folder: Path) -> Certificates:
    """The same as files that only their owner can read, in a new folder that only its owner can enter; the paths."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError as error:
        raise ConfigError(f"{folder} exists; keys are written to a new folder only, so name another one") from error
    for name, text in zip(FILES, (certificates.authority, certificates.node, certificates.key), strict=True):
        atomic_write(folder / name, text.encode())
        os.chmod(folder / name, 0o600)
    return Certificates(*(str(folder.absolute() / name) for name in FILES))


@contextlib.contextmanager
def lent(run: Path) -> Iterator[Certificates]:
    """Certificates as files in a folder of a random name in the run's folder, for workers on other machines; gone afterwards."""
    remove_left(run)
    folder = run / f".tls-{secrets.token_hex(16)}"
    try:
        yield written(made(), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left(run: Path) -> None:
    """Remove the keys of a process that was killed; the run's folder is locked by this one, so they are nobody's."""
    for left in run.glob(".tls-*"):
        shutil.rmtree(left, ignore_errors=True)
