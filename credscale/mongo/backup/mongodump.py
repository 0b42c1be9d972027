"""The program mongodump as the engine of a backup."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

import yaml

from credscale.core.errors import CredscaleError, PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from credscale.mongo.documents.digest import Progress

TERMINATION_GRACE = 10.0
STILL_SECONDS = 600.0  # an election takes seconds and the slowest batch minutes; after this it waits for nothing
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_URI = re.compile(r"(?P<start>mongodb(?:\+srv)?://(?P<user>[^@/?]*@)?[^/?]*)/?(?P<database>[^?]*)\??(?P<options>.*)")
# These keep their users elsewhere, and mongodump knows where.
_OUTSIDE = re.compile(r"authMechanism=(MONGODB-X509|MONGODB-AWS|MONGODB-OIDC|GSSAPI|PLAIN)", re.IGNORECASE)


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


def without_database(uri: str) -> str:
    """Return a connection string without its database, which mongodump refuses beside ``--db``.

    The database also says where the user is kept. Without it mongodump would look in that of ``--db``, so it is named
    as ``authSource`` where a user logs in and none is named yet; ``admin`` is MongoDB's default.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        return uri
    options = [found["options"]] if found["options"] else []
    names = {option.partition("=")[0].lower() for option in found["options"].split("&")}
    if found["user"] and "authsource" not in names and not _OUTSIDE.search(found["options"]):
        options.append(f"authSource={found['database'] or 'admin'}")
    return f"{found['start']}/" + (f"?{'&'.join(options)}" if options else "")


def run_mongodump(
    program: str, access: Access, namespace: str, out: Path, *, on_progress: Progress | None = None, poll: float = 1.0,
    still: float = STILL_SECONDS,
) -> None:  # fmt: skip
    """Dump one collection with mongodump.

    The connection string goes through a pipe, since the process list shows arguments to all, and since a file would be
    left behind, with the password, by whoever kills this process. Its output goes into a file without a name.

    Args:
        program: path of mongodump.
        access: how to reach the cluster.
        namespace: ``database.collection``.
        out: the folder in which mongodump makes the database's folder.
        on_progress: called at every poll with 0 documents (mongodump does not say) and the bytes written.
        poll: seconds between two looks at the file sizes.
        still: seconds in which its files do not grow after which it is ended; a mongos that neither answers nor closes
            the connection would else hold it for ever.

    Raises:
        OSError: ENOSPC when the disk is full.
        PreconditionFailed: it stood still for so long.
        CredscaleError: mongodump failed; carries the end of its output without the secrets.
    """
    with tempfile.TemporaryFile() as log:
        config = _config_pipe(access)
        try:
            process = _start(arguments(program, f"/dev/fd/{config}", namespace, str(out)), config, log)
        finally:
            os.close(config)
        code = _wait(process, out, on_progress, poll, still)
        log.seek(0)
        output = log.read().decode(errors="replace")
    if code is None:
        raise PreconditionFailed(
            f"mongodump of {namespace} wrote nothing for {still / 60:.0f} minutes and was ended: "
            f"{tail(output, access) or 'it has said nothing'}. Nothing was changed. Check that mongos answers and "
            "every shard has a primary, and the load of the disks, then run the same command again"
        )
    if code == 0:
        return
    if (full := disk_full(output)) is not None:
        raise OSError(full, os.strerror(full), str(out))
    raise CredscaleError(f"mongodump of {namespace} ended with exit code {code}: {tail(output, access)}")


def arguments(program: str, config: str, namespace: str, out: str) -> list[str]:
    """Return mongodump's command line for one collection.

    No ``--oplog``: routers and dumps of one collection refuse it (§7.1), so the dump is of no single moment.

    Args:
        program: path of mongodump.
        config: the file, or pipe, with the connection string.
        namespace: ``database.collection``.
        out: the folder in which it makes the database's folder.
    """
    database, _, collection = namespace.partition(".")
    return [program, "--config", config, "--db", database, "--collection", collection, "--out", out]


def config_text(access: Access) -> bytes:
    """Return the content of mongodump's config file, for a pipe and nothing else."""
    secrets = {"uri": without_database(access.uri)}
    if access.password is not None:
        secrets["password"] = access.password
    return yaml.safe_dump(secrets, width=1 << 16).encode()


def disk_full(output: str) -> int | None:
    """Return the error number where mongodump's output says that it could not write for want of room."""
    texts = {"no space left on device": errno.ENOSPC, "disk quota exceeded": errno.EDQUOT}
    texts |= {"file too large": errno.EFBIG}
    return next((number for text, number in texts.items() if text in output.lower()), None)


def tail(output: str, access: Access) -> str:
    """Return the end of mongodump's output, without the secrets."""
    for secret in filter(None, (access.uri, without_database(access.uri), access.password)):
        output = output.replace(secret, "***")
    return " / ".join(output.strip().splitlines()[-3:])[-500:]


def _config_pipe(access: Access) -> int:
    """Return the reading end of a pipe that holds mongodump's config file; a pipe takes 64 kB without a reader."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stream:
        stream.write(config_text(access))
    return reading


def _start(command: list[str], config: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, umask=0o077, pass_fds=(config,),
        preexec_fn=_die_with_parent(),
    )  # fmt: skip


def _die_with_parent() -> Callable[[], None] | None:
    """Return what makes a child on Linux end with this process, so that no dump goes on for a run that was killed."""
    if sys.platform != "linux":
        return None
    # Found before the fork: after it the child may only make calls that need no lock of another thread.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def arm() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # killed before the line above
            os._exit(1)

    return arm


def _wait(
    process: subprocess.Popen[bytes], out: Path, on_progress: Progress | None, poll: float, still: float
) -> int | None:
    """Return the exit code; None when the files did not grow for too long."""
    size, grown = 0, time.monotonic()
    with process:
        try:
            while True:
                try:
                    return process.wait(poll)
                except subprocess.TimeoutExpired:
                    before, size = size, sum(path.stat().st_size for path in out.rglob("*.bson"))
                    if on_progress is not None:
                        on_progress(0, size)
                    if size != before:
                        grown = time.monotonic()
                    if time.monotonic() - grown > still:
                        return None
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
