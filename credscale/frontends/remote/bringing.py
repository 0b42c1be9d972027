"""How a run's evidence comes back: every file, its hash compared on both ends, then checked as a whole."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.evidence import manifest, redact

if TYPE_CHECKING:
    from credscale.core.secrets import Secrets
    from credscale.frontends.remote.host import RemoteHost

LOCK = Path(".credscale/remote/evidence.lock")  # two terminals of one checkout may watch the same run


def bring(host: RemoteHost, run: str, folder: Path, secrets: Secrets, signer: str) -> str:
    """Bring the evidence of a run here; done before, it is compared again.

    Args:
        host: where it ran.
        run: its id.
        folder: where it goes; appears whole or not at all.
        secrets: none of those known here may stand in it.
        signer: fingerprint of the host's key, told by the host itself; empty for a run that died before it was signed.

    Returns:
        what was compared and found, in a sentence.

    Raises:
        VerificationFailed: a file differs from what the host says it has, or the evidence is not intact.
        PreconditionFailed: it cannot be written here.
        ConnectFailed: the connection broke; nothing was left behind.
    """
    wanted = host.call("evidence", run)["files"]
    if not wanted:
        return f"{host.name} has no evidence of it"
    data = host.fetch(run)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            arrived = Path(scratch) / folder.name
            arrived.mkdir()
            _unpack(data, arrived)
            told = _judge(host.name, arrived, wanted, secrets, signer)
            LOCK.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(LOCK):
                return told + _put(arrived, folder)
    except OSError as error:
        raise PreconditionFailed(
            f"the evidence cannot be written to {folder}: {error.strerror}. It is safe on {host.name}. "
            f"Make room, then: invoke report.attach {run}"
        ) from None


def _judge(host: str, arrived: Path, wanted: dict[str, dict[str, object]], secrets: Secrets, signer: str) -> str:
    """Compare what arrived with what the host says it has, and verify it."""
    _compare(host, arrived, wanted)
    leaking = redact.find_secrets(arrived, secrets.values)
    if leaking:
        names = ", ".join(path.name for path in leaking)
        raise VerificationFailed(
            f"a secret stands in {names} of the evidence on {host}, so it was not brought here. Look at it there, and "
            "change the secret"
        )
    same = f"{len(wanted)} files came back from {host}, their hashes equal on both ends"
    if not signer and not (arrived / manifest.SIGNATURE).exists():
        return f"{same}; they are not signed, because the run did not come to its end"
    found = manifest.verify(arrived, trusted={signer} if signer else None)
    if not found.ok:
        raise VerificationFailed(f"{same}, but the evidence is not intact: {'; '.join(found.problems)}")
    return f"{same}; intact, signed on {host} with {found.fingerprint}"


def _unpack(data: bytes, folder: Path) -> None:
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is None or Path(member.name).name != member.name:
                    raise VerificationFailed(f"the evidence has an entry {member.name!r}, which is no plain file")
                with file, (folder / member.name).open("wb") as target:
                    shutil.copyfileobj(file, target)
    except tarfile.TarError as error:
        raise VerificationFailed(f"the evidence came in pieces ({error})") from None


def _put(arrived: Path, folder: Path) -> str:
    """Move what arrived to its place, unless good evidence is there; returns what to say about that."""
    if folder.is_dir() and (_hashes(folder) == _hashes(arrived)):
        return ""
    if folder.is_dir() and manifest.verify(folder).ok:
        return f"; other evidence, intact as well, is in {folder} already and was left alone"
    if folder.exists():
        shutil.rmtree(folder)  # a part of it, from while the run was at work
    arrived.rename(folder)
    return ""


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _compare(host: str, folder: Path, wanted: dict[str, dict[str, object]]) -> None:
    arrived = _hashes(folder)
    expected = {name: each["sha256"] for name, each in wanted.items()}
    if arrived != expected:
        names = sorted(name for name in {*arrived, *expected} if arrived.get(name) != expected.get(name))
        raise VerificationFailed(f"{', '.join(names)} came back from {host} otherwise than it says it has them")
