"""The manifest of an artifact folder, its signature, and the offline check of both."""

from __future__ import annotations

import base64
import getpass
import hashlib
import json
import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from credscale.core.context import STOP_FILE
from credscale.core.errors import JournalBroken
from credscale.core.journal import FIRST, read_journal, run_status, utc_now, verify_journal
from credscale.evidence.keys import (
    SigningKey,
    fingerprint_of,
    key_folder,
    load_or_create_key,
    own_fingerprint,
    trusted_fingerprints,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

__all__ = ["SigningKey", "Verification", "journal_head", "load_or_create_key", "sign", "verify", "write_manifest"]

MANIFEST, SIGNATURE, JOURNAL = "manifest.json", "manifest.sig", "journal.jsonl"
_PACKAGES = ("credscale", "invoke", "papermill", "nbconvert", "nbformat", "ipykernel", "pymongo", "cryptography")
_ABOUT_RUN = (
    "run", "runbook", "environment", "engine", "target", "operator", "host", "requested_by", "ticket", "dry_run",
)  # fmt: skip


@dataclass(frozen=True)
class Verification:
    """What an offline check found.

    Args:
        ok: whether there are no problems.
        problems: sentences, each of which names a file and, for the journal, a line.
        fingerprint: the key the folder was signed with; None without a readable signature.
        signer_known: whether that is a key known here; None when there is nothing to compare it with.
        files: how many files the manifest lists.
        journal_lines: how many journal lines chain, counted from the first.
    """

    ok: bool
    problems: list[str]
    fingerprint: str | None
    signer_known: bool | None
    files: int
    journal_lines: int

    @property
    def signer(self) -> str:
        """What is known about the signer, in a sentence."""
        if self.fingerprint is None:
            return "There is no readable signature."
        if self.signer_known:
            return f"Signed with {self.fingerprint}, a key that is known here."
        return (
            f"Signed with {self.fingerprint}. The public key comes with the evidence, so this alone says nothing about "
            f"who signed. Ask the operator for the fingerprint by another way and add it to "
            f"{key_folder() / 'trusted_keys'}."
        )


def write_manifest(folder: Path, info: dict[str, Any]) -> Path:
    """Write manifest.json: the sha256 and size of every other file, and what was run by whom with which software.

    Args:
        folder: the artifact folder, redacted and otherwise complete.
        info: goes into the manifest and wins over what the journal's first line says.

    Returns:
        the path of the manifest.
    """
    lines, head = journal_head(folder / JOURNAL)
    manifest = {
        "format": 1,
        "created": utc_now(),
        "operator": _operator(),
        "host": socket.gethostname(),
        **_about_run(folder / JOURNAL),
        **info,
        "git": _git(),
        "versions": _versions(),
        "journal": {"lines": lines, "head": head},
        "files": {name: _describe(path) for name, path in _files(folder).items()},
    }
    path = folder / MANIFEST
    draft = path.with_name(f".{MANIFEST}.{os.getpid()}")
    draft.write_text(
        json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    draft.replace(path)
    return path


def journal_head(path: Path) -> tuple[int, str]:
    """Return how many whole lines a journal has and the sha256 of the last of them.

    Args:
        path: the journal; an absent one has no lines.
    """
    if not path.exists():
        return 0, FIRST
    number, head = 0, FIRST
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                number, head = number + 1, hashlib.sha256(line[:-1]).hexdigest()
    return number, head


def sign(folder: Path, key: SigningKey) -> Path:
    """Write manifest.sig, an Ed25519 signature over the bytes of manifest.json.

    Args:
        folder: the artifact folder with its manifest.
        key: the operator's key.

    Returns:
        the path of the signature.
    """
    signature = key.private.sign((folder / MANIFEST).read_bytes())
    path = folder / SIGNATURE
    path.write_bytes(_signature_file(key.private.public_key().public_bytes_raw(), signature))
    return path


def verify(folder: Path, trusted: Collection[str] | None = None) -> Verification:
    """Check an artifact folder without a network: signature, files, journal chain.

    Broken evidence is never an exception.

    Args:
        folder: the artifact folder.
        trusted: the fingerprints that may sign; None means the file ``trusted_keys`` in the key folder and the
            operator's own key. A signer outside of a given list, or of that file, is a problem.
    """
    if not folder.is_dir():
        return Verification(False, [f"{folder}: is not a folder"], None, None, 0, 0)
    problems: list[str] = []
    manifest = _read_manifest(folder, problems)
    fingerprint = _check_signature(folder, problems)
    known = _check_signer(fingerprint, trusted, problems)
    lines = _check_journal(folder / JOURNAL, manifest, problems)
    files = _check_files(folder, manifest, problems)
    return Verification(not problems, problems, fingerprint, known, files, lines)


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _about_run(journal: Path) -> dict[str, Any]:
    try:
        first = next(read_journal(journal), {})
    except (OSError, JournalBroken):
        return {}
    return {key: first[key] for key in _ABOUT_RUN if key in first}


def commit_text() -> str:
    """Return the commit of the working folder's repository as one text, for a run that is sent elsewhere."""
    found = _git()
    return f"{found['commit']} {found['dirty']}"


def _git() -> dict[str, Any]:
    """Return the commit where tasks and runbooks come from: here, or on the machine that sent this run."""
    sent = os.environ.get("CREDSCALE_COMMIT", "").split()
    if len(sent) == 2:
        return {"commit": sent[0], "dirty": {"True": True, "False": False}.get(sent[1], "unknown")}
    commit = _run_git("rev-parse", "--verify", "HEAD")
    if commit is None:
        return {"commit": "unknown", "dirty": "unknown"}
    status = _run_git("status", "--porcelain", "--", ".", ":(exclude)artifacts")
    return {"commit": commit, "dirty": "unknown" if status is None else bool(status)}


def _run_git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _files(folder: Path) -> dict[str, Path]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path for name, path in files.items() if name not in {MANIFEST, SIGNATURE} and not _is_late(path)}


def _is_late(path: Path) -> bool:
    """Tell whether this is a request to stop that came after the last step had begun; an empty file, no evidence."""
    return path.name == STOP_FILE and path.is_file() and not path.is_symlink() and path.stat().st_size == 0


def _describe(path: Path) -> dict[str, Any]:
    if path.is_symlink():
        # a link stands for its target's name, so that a file replaced by a link to a copy of it shows
        data = b"link to " + os.fsencode(path.readlink())
        return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "bytes": file.tell()}


def _signature_file(public: bytes, signature: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    content = {
        "algorithm": "Ed25519",
        "public_key": base64.b64encode(public).decode(),
        "fingerprint": fingerprint_of(Ed25519PublicKey.from_public_bytes(public)),
        "signature": base64.b64encode(signature).decode(),
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _read_manifest(folder: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
            return manifest
        problems.append(f"{MANIFEST}: is not a manifest; it lists no files")
    except FileNotFoundError:
        problems.append(f"{MANIFEST}: is missing; there is nothing to compare the files with")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{MANIFEST}: cannot be read ({error})")
    return None


def _check_signature(folder: Path, problems: list[str]) -> str | None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        written = (folder / SIGNATURE).read_bytes()
        content = json.loads(written)
        raw, signature = base64.b64decode(content["public_key"]), base64.b64decode(content["signature"])
        public = Ed25519PublicKey.from_public_bytes(raw)
        # the same signature can be spelled in several ways; only the way we write it passes
        if written != _signature_file(raw, signature):
            problems.append(f"{SIGNATURE}: was changed; it is not as it was written")
    except FileNotFoundError:
        problems.append(f"{SIGNATURE}: is missing; nobody signed this folder")
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        problems.append(f"{SIGNATURE}: is not a signature that can be read")
        return None
    try:
        public.verify(signature, (folder / MANIFEST).read_bytes())
    except InvalidSignature:
        problems.append(f"{SIGNATURE}: the signature does not fit {MANIFEST}; one of the two was changed after signing")
    except OSError:
        problems.append(f"{SIGNATURE}: signs a {MANIFEST} that cannot be read")
    return fingerprint_of(public)


def _check_signer(fingerprint: str | None, trusted: Collection[str] | None, problems: list[str]) -> bool | None:
    if fingerprint is None:
        return None
    listed = trusted_fingerprints() if trusted is None else set(trusted)
    own = own_fingerprint() if trusted is None else None
    if fingerprint == own or fingerprint in (listed or ()):
        return True
    if listed is not None:
        problems.append(f"{SIGNATURE}: signed with {fingerprint}, which is none of the trusted keys")
        return False
    return None if own is None else False


def _check_journal(path: Path, manifest: dict[str, Any] | None, problems: list[str]) -> int:
    if not path.is_file():
        problems.append(f"{JOURNAL}: is missing")
        return 0
    try:
        lines = verify_journal(path)
        killed = run_status({"event": "", **event} for event in read_journal(path)) == "killed"
    except JournalBroken as broken:
        problems.append(f"{JOURNAL}: line {broken.line}: {broken.reason}")
        return broken.line - 1
    except (OSError, KeyError, RecursionError) as error:
        problems.append(f"{JOURNAL}: cannot be read ({error})")
        return 0
    if killed:
        problems.append(f"{JOURNAL}: has no run_finished line; it belongs to a process that was killed")
    problems.extend(_compare_head(path, manifest))
    return lines


def _compare_head(path: Path, manifest: dict[str, Any] | None) -> list[str]:
    signed = (manifest or {}).get("journal")
    if not isinstance(signed, dict):
        return []
    lines, head = journal_head(path)
    if signed.get("head") == head:
        return []
    if signed.get("lines") == lines:
        return [f"{JOURNAL}: line {lines}: is not the last line that was signed; it, or the whole journal, was changed"]
    return [f"{JOURNAL}: line {lines}: is the last line, but {signed.get('lines')} lines were signed"]


def _check_files(folder: Path, manifest: dict[str, Any] | None, problems: list[str]) -> int:
    if manifest is None:
        return 0
    signed, present = manifest["files"], _files(folder)
    problems.extend(f"{name}: is missing" for name in sorted(signed.keys() - present.keys()))
    added = sorted(present.keys() - signed.keys())
    problems.extend(f"{name}: was added; the manifest does not list it" for name in added)
    for name in sorted(signed.keys() & present.keys()):
        try:
            if _describe(present[name]) != signed[name]:
                problems.append(f"{name}: was changed; its sha256 is not the one in {MANIFEST}")
        except OSError as error:
            problems.append(f"{name}: cannot be read ({error.strerror})")
    return len(signed)
