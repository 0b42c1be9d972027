"""The program mongodump as the engine of a backup."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from credscale.core.errors import CredscaleError

if TYPE_CHECKING:
    from credscale.mongo.digest import Progress

TERMINATION_GRACE = 10.0


@dataclass(frozen=True)
class Access:
    """How mongodump reaches the cluster; neither part shows in a repr.

    Args:
        uri: the connection string, without the password.
        password: the password, or None where the cluster asks for none.
    """

    uri: str = field(repr=False)
    password: str | None = field(default=None, repr=False)


def mongodump_path() -> str | None:
    """Return where mongodump is on PATH, or None."""
    return shutil.which("mongodump")


def run_mongodump(
    program: str, access: Access, namespace: str, out: Path, *, on_progress: Progress | None = None, poll: float = 1.0
) -> None:
    """Dump one collection with mongodump.

    The connection string goes into a file that only this user can read, since the process list shows arguments to all.

    Args:
        program: path of mongodump.
        access: how to reach the cluster.
        namespace: ``database.collection``.
        out: the folder in which mongodump makes the database's folder.
        on_progress: called at every poll with 0 documents (mongodump does not say) and the bytes written.
        poll: seconds between two looks at the file sizes.

    Raises:
        OSError: ENOSPC when the disk is full.
        CredscaleError: mongodump failed; carries the end of its output without the secrets.
    """
    database, _, collection = namespace.partition(".")
    with tempfile.TemporaryDirectory(prefix="credscale-") as private:
        config, log = Path(private, "config.yaml"), Path(private, "log")
        secrets = {"uri": access.uri} | ({} if access.password is None else {"password": access.password})
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            yaml.safe_dump(secrets, stream, width=1 << 16)
        command = [program, "--config", str(config), "--db", database, "--collection", collection, "--out", str(out)]
        code = _run(command, log, out, on_progress, poll)
        output = log.read_text(errors="replace")
    if code == 0:
        return
    if "no space left on device" in output.lower():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
    raise CredscaleError(f"mongodump of {namespace} ended with exit code {code}: {_tail(output, access)}")


def _run(command: list[str], log: Path, out: Path, on_progress: Progress | None, poll: float) -> int:
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, umask=0o077
        ) as process,
    ):
        try:
            while True:
                try:
                    return process.wait(poll)
                except subprocess.TimeoutExpired:
                    if on_progress is not None:
                        on_progress(0, sum(path.stat().st_size for path in out.rglob("*.bson")))
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs because this one was interrupted."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(TERMINATION_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()


def _tail(output: str, access: Access) -> str:
    for secret in filter(None, (access.uri, access.password)):
        output = output.replace(secret, "***")
    return " / ".join(output.strip().splitlines()[-3:])[-500:]
