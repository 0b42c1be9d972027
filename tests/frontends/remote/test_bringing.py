"""Evidence comes back whole, compared and verified, or not at all."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import VerificationFailed
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.evidence import manifest
from credscale.evidence.keys import load_or_create_key
from credscale.frontends.remote.bringing import bring

if TYPE_CHECKING:
    from pathlib import Path

RUN = "20261123T220000Z-abcdef"


class Host:
    """A host that holds files, and may tell or send others."""

    name = "bastion"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.sent = files, dict(files)
        self.told = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()
        }

    def call(self, verb: str, run: str) -> dict[str, Any]:
        assert (verb, run) == ("evidence", RUN)
        return {"files": self.told}

    def fetch(self, run: str) -> bytes:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            for name, content in self.sent.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return data.getvalue()


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Host, str]:
    """Return a host with the sealed evidence of a run, and the fingerprint of its key."""
    monkeypatch.setenv("CREDSCALE_KEY_DIR", str(tmp_path / "host-keys"))
    folder = tmp_path / "there"
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl")
    journal.append("note", text="done")
    journal.append("run_finished", status="ok", text="", changes=0)
    journal.close()
    manifest.write_manifest(folder, {})
    key = load_or_create_key()
    manifest.sign(folder, key)
    monkeypatch.setenv("CREDSCALE_KEY_DIR", str(tmp_path / "own-keys"))
    return Host({path.name: path.read_bytes() for path in folder.iterdir()}), key.fingerprint


def test_intact_evidence_arrives_and_arrives_again(sealed: tuple[Host, str], tmp_path: Path) -> None:
    host, signer = sealed
    target = tmp_path / "artifacts" / "prod" / RUN
    for _ in range(2):
        told = bring(host, RUN, target, Secrets(), signer)  # type: ignore[arg-type]
        assert told == (
            f"3 files came back from bastion, their hashes equal on both ends; intact, signed on bastion with {signer}"
        )
    assert sorted(path.name for path in target.iterdir()) == ["journal.jsonl", "manifest.json", "manifest.sig"]
    assert [path.name for path in target.parent.iterdir()] == [RUN]


def test_good_evidence_here_is_never_replaced_by_worse(sealed: tuple[Host, str], tmp_path: Path) -> None:
    host, signer = sealed
    target = tmp_path / "artifacts" / RUN
    bring(host, RUN, target, Secrets(), signer)  # type: ignore[arg-type]
    kept = {path.name: path.read_bytes() for path in target.iterdir()}
    damaged = Host(host.files | {"journal.jsonl": b"{}\n"})
    with pytest.raises(VerificationFailed):
        bring(damaged, RUN, target, Secrets(), signer)  # type: ignore[arg-type]
    told = bring(Host({"plan.json": b"{}"}), RUN, target, Secrets(), "")  # type: ignore[arg-type]
    assert "was left alone" in told
    assert {path.name: path.read_bytes() for path in target.iterdir()} == kept


def test_a_run_that_was_sealed_and_died_then_is_verified(sealed: tuple[Host, str], tmp_path: Path) -> None:
    host, signer = sealed
    told = bring(host, RUN, tmp_path / RUN, Secrets(), "")  # type: ignore[arg-type]
    assert told.endswith(f"intact, signed on bastion with {signer}")


@pytest.mark.parametrize("what", ["changed", "lost", "added"])
def test_a_difference_on_the_way_brings_nothing(sealed: tuple[Host, str], tmp_path: Path, what: str) -> None:
    host, signer = sealed
    if what == "changed":
        host.sent["journal.jsonl"] += b" "
    elif what == "lost":
        del host.sent["journal.jsonl"]
    else:
        host.sent["more"] = b""
    with pytest.raises(VerificationFailed, match="journal.jsonl|more"):
        bring(host, RUN, tmp_path / RUN, Secrets(), signer)  # type: ignore[arg-type]
    assert not (tmp_path / RUN).exists()


def test_evidence_changed_on_the_host_is_told(sealed: tuple[Host, str], tmp_path: Path) -> None:
    host, signer = sealed
    host = Host(host.files | {"journal.jsonl": host.files["journal.jsonl"].replace(b"done", b"fine")})
    with pytest.raises(VerificationFailed, match="not intact: .*journal.jsonl"):
        bring(host, RUN, tmp_path / RUN, Secrets(), signer)  # type: ignore[arg-type]


def test_another_key_than_the_host_named_is_told(sealed: tuple[Host, str], tmp_path: Path) -> None:
    host, signer = sealed
    other = "SHA256:" + "A" * 43
    assert other != signer
    with pytest.raises(VerificationFailed, match="not intact"):
        bring(host, RUN, tmp_path / RUN, Secrets(), other)  # type: ignore[arg-type]


def test_a_secret_known_here_keeps_it_away(
    sealed: tuple[Host, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, signer = sealed
    monkeypatch.setenv("CREDSCALE_PLANTED", "done")  # the journal's own word
    secrets = Secrets()
    secrets.resolve("env:CREDSCALE_PLANTED")
    with pytest.raises(VerificationFailed, match="a secret stands in journal.jsonl"):
        bring(host, RUN, tmp_path / RUN, secrets, signer)  # type: ignore[arg-type]
    assert not (tmp_path / RUN).exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside-of-evidence", "folder/file"])  # noqa: S108 - never written
def test_a_name_that_leads_elsewhere_is_refused(sealed: tuple[Host, str], tmp_path: Path, name: str) -> None:
    host, signer = sealed
    host.sent[name] = b"x"
    with pytest.raises(VerificationFailed, match="no plain file"):
        bring(host, RUN, tmp_path / "deep" / RUN, Secrets(), signer)  # type: ignore[arg-type]
    assert not (tmp_path / "outside").exists()


def test_what_a_dead_run_left_comes_unsigned(tmp_path: Path) -> None:
    told = bring(Host({"journal.jsonl": b"{}\n"}), RUN, tmp_path / RUN, Secrets(), "")  # type: ignore[arg-type]
    assert "not signed, because the run did not come to its end" in told
    assert bring(Host({}), RUN, tmp_path / "x", Secrets(), "") == "bastion has no evidence of it"  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()
