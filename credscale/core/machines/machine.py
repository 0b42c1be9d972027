"""What a machine can do: run a program, keep files, and let a port of its loopback be reached.

Files go through the machine's own POSIX tools rather than through SFTP, so that the same few lines serve this machine,
a remote one, and a remote one where only ``sudo`` may write. No shell text is ever built from a value: the scripts are
constants, and values are their positional arguments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.core.errors import PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

COMMAND_SECONDS = 60.0
TAIL_BYTES = 65536  # how much of a stream is kept for the message of a program that failed
_ABSENT, _CLOSED = 44, 45
# In a folder that we may not enter nothing seems to exist, which must not be taken for its absence.
_THERE = (
    'd=$1; while d=$(dirname -- "$d"); [ ! -d "$d" ]; do :; done; '
    f'[ -x "$d" ] || exit {_CLOSED}; [ -e "$1" ] || exit {_ABSENT}'
)
_READ = f'{_THERE}; exec cat -- "$1"'
# mktemp makes the file with mode 0600 under a name nobody could prepare; rename is what makes the change atomic. When
# the connection or this process ends, that looks like the end of the data, so their length tells.
_WRITE = (
    'set -eu; new=$(mktemp "$1.XXXXXX"); trap \'rm -f -- "$new"\' EXIT; trap "exit 1" HUP PIPE TERM; cat >"$new"; '
    '[ "$(wc -c <"$new")" -eq "$4" ] || { echo "not all of its $4 bytes arrived" >&2; exit 1; }; chmod "$2" "$new"; '
    '[ -z "$3" ] || chown -- "$3" "$new"; sync "$new"; mv -f -- "$new" "$1"; trap - EXIT'
)
# One that is there and empty may be what a run left that ended before it gave the folder to its owner.
_MAKE = (
    'set -eu; if [ ! -d "$1" ]; then umask 022; mkdir -p -- "$(dirname -- "$1")"; mkdir -m "$2" -- "$1"; fi; '
    '[ -z "$3" ] || [ -n "$(ls -A -- "$1")" ] || chown -- "$3" "$1"'
)
_OWNER = 'stat -c %U -- "$1" 2>/dev/null || exec stat -f %Su -- "$1"'
_NUMBERS = 'stat -c %u:%g -- "$1" 2>/dev/null || exec stat -f %u:%g -- "$1"'
_MODE = 'stat -c %a -- "$1" 2>/dev/null || stat -f %Lp -- "$1"'
_LOOK = f'{_THERE}; {_MODE}; exec cat -- "$1"'


@dataclass(frozen=True)
class Completed:
    """A program's end: exit code, negative when a signal ended it, and what it printed."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """What it printed, as text."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def complaint(self) -> str:
        """The last lines of its error output, or of its output when it wrote no error."""
        told = (self.stderr.strip() or self.stdout.strip()).decode("utf-8", "replace")
        return "\n".join(told.splitlines()[-10:])


class Machine(ABC):
    """One machine.

    Args:
        name: how the inventory calls it, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def run(self, argv: Sequence[str], *, stdin: bytes | BinaryIO = b"", timeout: float = COMMAND_SECONDS) -> Completed:
        """Run a program to its end, whatever its exit code.

        A child that it leaves behind may keep the streams open; it is not waited for.

        Args:
            argv: program and arguments; visible to every user of the machine, so never a secret.
            stdin: what the program reads; the way for secrets. A file opened for reading bytes is sent from where it
                stands, without ever being held in memory as a whole.
            timeout: seconds, for connecting too.

        Raises:
            ConnectFailed: the machine cannot be reached, or the program did not end in time.
            PreconditionFailed: there is no such program.
        """

    def stream(self, argv: Sequence[str], *, stdin: bytes = b"", silence: float) -> Iterator[bytes]:
        """Run a program and yield what it prints as it comes, in chunks of any length, until it ended with 0.

        Closing the iterator lets go of the program: here it is killed, elsewhere its output is closed. A machine that
        cannot do better yields everything at the end.

        Args:
            argv: as for ``run``.
            stdin: what the program reads.
            silence: seconds without any output after which the program or the way to it counts as dead.

        Raises:
            ConnectFailed: nothing came for ``silence`` seconds (``timed out``), the connection ended before the
                program did (``broken``), or the machine cannot be reached.
            PreconditionFailed: there is no such program, or it ended with another exit code; carries what it said.
        """
        yield self.must_run(argv, stdin=stdin, timeout=silence).stdout

    @abstractmethod
    def tunnel(self, port: int) -> str:
        """Return how to reach a port of the machine's loopback from here: host:port or a socket's path."""

    @abstractmethod
    def listens(self, port: int) -> bool:
        """Tell whether somebody listens on a port of the machine's loopback."""

    def close(self) -> None:
        """Close connections and tunnels."""
        return

    def must_run(
        self, argv: Sequence[str], *, stdin: bytes | BinaryIO = b"", timeout: float = COMMAND_SECONDS
    ) -> Completed:
        """Run a program that has to succeed.

        Raises:
            PreconditionFailed: it ended with another exit code than 0; carries what it said.
            ConnectFailed: as for ``run``.
        """
        return self._succeeded(argv, self.run(argv, stdin=stdin, timeout=timeout))

    def _succeeded(self, argv: Sequence[str], done: Completed) -> Completed:
        if done.code:
            raise PreconditionFailed(f"{self.name}: {argv[0]} ended with exit code {done.code}: {done.complaint}")
        return done

    def read(self, path: str) -> bytes | None:
        """Return a file's contents, or None when there is none.

        Raises:
            PreconditionFailed: it cannot be read.
        """
        done = self._script(_READ, path)
        return done.stdout if self._is_there(done, path) else None

    def read_with_mode(self, path: str) -> tuple[bytes, int] | None:
        """Return a file's contents and permission bits in one go, or None when there is none.

        Raises:
            PreconditionFailed: it cannot be read.
        """
        done = self._script(_LOOK, path)
        if not self._is_there(done, path):
            return None
        mode, _, data = done.stdout.partition(b"\n")
        return data, int(mode, 8)

    def write(self, path: str, data: bytes, *, mode: int, owner: str = "") -> None:
        """Replace a file atomically; at no moment is it half written or more readable than its mode says.

        Args:
            path: absolute.
            data: the whole contents.
            mode: permission bits, such as 0o400.
            owner: user that shall own it; empty for whoever writes.

        Raises:
            PreconditionFailed: it cannot be written; what was there is untouched.
        """
        done = self._script(_WRITE, path, f"{mode:o}", owner, str(len(data)), stdin=data)
        if done.code:
            raise PreconditionFailed(f"{self.name}: {path} cannot be written: {done.complaint}")

    def make_folder(self, path: str, *, mode: int, owner: str = "") -> None:
        """Make a folder unless it is there; one that is there stays as it is, but an empty one is given to its owner.

        Raises:
            PreconditionFailed: it cannot be made.
        """
        done = self._script(_MAKE, path, f"{mode:o}", owner)
        if done.code:
            raise PreconditionFailed(f"{self.name}: the folder {path} cannot be made: {done.complaint}")

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there.

        Raises:
            PreconditionFailed: nobody lets us look.
        """
        return self._is_there(self._script(_THERE, path), path)

    def _is_there(self, done: Completed, path: str) -> bool:
        """Tell absence from a refusal."""
        if done.code == _CLOSED:
            raise PreconditionFailed(
                f"{self.name}: this user may not look into the folder of {path}. Give the host sudo: true, or "
                "log in as the folder's owner"
            )
        if done.code not in (0, _ABSENT):
            raise PreconditionFailed(f"{self.name}: {path} cannot be read: {done.complaint}")
        return done.code == 0

    def mode(self, path: str) -> int:
        """Return the permission bits of a file or folder that is there."""
        done = self._script(_MODE, path)
        if done.code:
            raise PreconditionFailed(f"{self.name}: {path} cannot be looked at: {done.complaint}")
        return int(done.text, 8)

    def owner(self, path: str, *, numbers: bool = False) -> str:
        """Return the name of the user who owns a file or folder that is there, or its ``uid:gid``."""
        done = self._script(_NUMBERS if numbers else _OWNER, path)
        if done.code:
            raise PreconditionFailed(f"{self.name}: {path} cannot be looked at: {done.complaint}")
        return done.text.strip()

    def find_program(self, name: str) -> str | None:
        """Return the absolute path of a program on PATH, or None."""
        done = self._script('command -v -- "$1"', name)
        return done.text.strip() if done.code == 0 and done.text.startswith("/") else None

    def _script(self, script: str, *values: str, stdin: bytes = b"") -> Completed:
        return self.run(["sh", "-c", script, "sh", *values], stdin=stdin)
