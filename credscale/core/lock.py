"""One run of an environment at a time on this machine: a file lock, which dies with its process."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from credscale.core.errors import ConnectFailed, Refused

if TYPE_CHECKING:
    from pathlib import Path

    from filelock import BaseFileLock


def lock_file(path: Path) -> BaseFileLock:
    """Take the file lock of an environment on this machine.

    Args:
        path: the lock file; the holder's name is beside it.

    Returns:
        the held lock; ``release()`` gives it back, and so does the end of the process.

    Raises:
        Refused: a run of the same environment is under way here.
        ConnectFailed: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    owner = path.with_suffix(".owner")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=0)
        owner.write_text(f"{getpass.getuser()} (pid {os.getpid()})", encoding="utf-8")
    except Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "somebody"
        raise Refused(
            f"{who} is running on this environment from this machine (lock {path}). Nothing was changed. "
            "Wait until it ends, or follow it with: invoke report.list"
        ) from None
    except OSError as error:
        raise ConnectFailed(f"the lock file {path} cannot be written: {error.strerror}") from None
    return lock
