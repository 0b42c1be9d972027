from __future__ import annotations

import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from credscale.core.errors import EnvironmentInvalid
from credscale.evidence import keys

if TYPE_CHECKING:
    from pathlib import Path


def test_first_use_makes_a_private_key_and_later_ones_find_it(key_folder: Path) -> None:
    first, second = keys.load_or_create_key(), keys.load_or_create_key()
    assert (first.created, second.created) == (True, False)
    assert first.fingerprint == second.fingerprint == keys.own_fingerprint()
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_folder.stat().st_mode) == 0o700
    assert [path.name for path in key_folder.iterdir()] == ["signing_key.pem"]
    assert "private=" not in repr(first)


def test_processes_that_start_together_agree_on_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: keys.load_or_create_key(), range(16)))
    assert len({key.fingerprint for key in found}) == 1
    assert sum(key.created for key in found) == 1


def test_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDSCALE_KEY_DIR")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert keys.key_folder() == tmp_path / "xdg" / "credscale"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keys.key_folder() == tmp_path / ".config" / "credscale"


def test_refuses_a_key_that_others_can_read(key_folder: Path) -> None:
    path = keys.load_or_create_key().path
    path.chmod(0o644)
    with pytest.raises(EnvironmentInvalid, match=f"chmod 600 {path}"):
        keys.load_or_create_key()
    assert keys.own_fingerprint() is None


def test_refuses_what_is_no_key(key_folder: Path) -> None:
    path = keys.load_or_create_key().path
    path.write_text("nonsense")
    with pytest.raises(EnvironmentInvalid, match="not an unencrypted PEM key"):
        keys.load_or_create_key()


def test_reads_trusted_fingerprints_with_remarks(key_folder: Path) -> None:
    assert keys.trusted_fingerprints() is None
    own = keys.load_or_create_key().fingerprint
    (key_folder / "trusted_keys").write_text(f"# operators\n\n{own} ana\nSHA256:short\n")
    assert keys.trusted_fingerprints() == {own}


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_fingerprint_is_the_one_ssh_keygen_shows(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = keys.load_or_create_key()
    public = tmp_path / "key.pub"
    public.write_bytes(key.private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    shown = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True)
    assert key.fingerprint in shown.stdout
