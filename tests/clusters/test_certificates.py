"""Certificates: files that only their owner reads, in folders of random names that do not stay."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from curate.clusters.certificates import FILES, lent, made, written
from curate.errors import ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_written_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files = written(made(), tmp_path / "new" / "tls")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new" / "tls") == 0o700
    assert {mode(tmp_path / "new" / "tls" / name) for name in FILES} == {0o600}
    assert "PRIVATE KEY" in Path(files.key).read_text() and "PRIVATE KEY" not in Path(files.node).read_text() + Path(files.authority).read_text()


def test_a_folder_that_exists_is_not_written_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists; keys are written to a new folder only"):
        written(made(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nobody_sees_a_key_in_what_is_printed() -> None:
    assert "KEY" not in repr(made()) and "KEY" not in f"{made().security()!r}"


def test_a_node_is_signed_by_its_authority_and_cannot_sign_others() -> None:
    certificates, other = made(), made()
    authority, node = (x509.load_pem_x509_certificate(text.encode()) for text in (certificates.authority, certificates.node))
    node.verify_directly_issued_by(authority)
    assert not node.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    stranger = x509.load_pem_x509_certificate(other.authority.encode())
    with pytest.raises(ValueError, match="subject"):
        node.verify_directly_issued_by(stranger)


def test_it_is_valid_since_yesterday_for_clocks_of_machines_differ() -> None:
    node = x509.load_pem_x509_certificate(made().node.encode())
    span = node.not_valid_after_utc - node.not_valid_before_utc
    assert 365 <= span.days <= 367


def test_lent_files_are_gone_afterwards_and_so_are_those_of_a_run_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / ".tls-0123").mkdir()
    (tmp_path / ".tls-0123" / "node.key").write_text("left by a kill")
    with lent(tmp_path) as first:
        (folder,) = tmp_path.iterdir()
        assert folder.name.startswith(".tls-") and len(folder.name) == 5 + 32 and Path(first.key).parent == folder
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), lent(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_them_and_says_how_to_use_them(command_line: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line("certificates", tmp_path / "tls") == 0
    said = capsys.readouterr().out
    assert "dask scheduler --protocol tls" in said and "dask worker tls://HOST:8786" in said and "PRIVATE" not in said
    assert command_line("certificates", tmp_path / "tls") == 2
