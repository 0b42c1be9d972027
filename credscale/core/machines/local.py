"""This machine."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, cast

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.machines.machine import COMMAND_SECONDS, TAIL_BYTES, Completed, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import IO, BinaryIO

LISTEN_SECONDS = 3.0
_CHUNK = 65536
_LOOK_SECONDS = 0.2  # how often a silent program is looked at: a child of it may hold the streams open for ever


def _unchanged(text: str) -> str:
    return text


class LocalMachine(Machine):
    """Run programs as the user who runs credscale.

    Args:
        mask: hides secrets in a text; an environment variable that holds one is not passed on, because what is started
            here may run for years and shows its environment to its user.
    """

    def __init__(self, mask: Callable[[str], str] = _unchanged) -> None:
        super().__init__("this machine")
        self._mask = mask

    def run(self, argv: Sequence[str], *, stdin: bytes | BinaryIO = b"", timeout: float = COMMAND_SECONDS) -> Completed:
        """Run a program to its end; see ``Machine.run``."""
        # files rather than pipes: a server that forks away may keep its streams, and a pipe would wait for its end
        with _given(stdin) as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self._start(argv, given, out, err)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                problem = f"{self.name}: {argv[0]} did not end within {timeout:g} s and was killed"
                raise ConnectFailed(problem, "timed out") from None
            finally:
                _end(process)
            out.seek(0)
            err.seek(0)
            return Completed(code, out.read(), err.read())

    def stream(self, argv: Sequence[str], *, stdin: bytes = b"", silence: float) -> Iterator[bytes]:
        """Run a program and yield what it prints as it comes; see ``Machine.stream``."""
        with _given(stdin) as given:
            process = self._start(argv, given, subprocess.PIPE, subprocess.PIPE)
        tails = {"out": b"", "err": b""}
        try:
            with selectors.DefaultSelector() as selector:
                for stream, name in ((process.stdout, "out"), (process.stderr, "err")):
                    selector.register(cast("IO[bytes]", stream), selectors.EVENT_READ, name)
                heard = time.monotonic()
                while selector.get_map():
                    ready = selector.select(_LOOK_SECONDS)
                    for key, _ in ready:
                        data = os.read(key.fd, _CHUNK)
                        heard = time.monotonic()
                        if not data:
                            selector.unregister(key.fileobj)
                            continue
                        tails[key.data] = (tails[key.data] + data)[-TAIL_BYTES:]
                        if key.data == "out":
                            yield data
                            heard = time.monotonic()  # what the caller did meanwhile is not the program's silence
                    if not ready and process.poll() is not None:
                        break
                    if time.monotonic() - heard > silence:
                        problem = f"{self.name}: {argv[0]} printed nothing for {silence:g} s and was killed"
                        raise ConnectFailed(problem, "timed out")
            try:
                code = process.wait(silence)
            except subprocess.TimeoutExpired:
                problem = f"{self.name}: {argv[0]} closed its output and did not end within {silence:g} s"
                raise ConnectFailed(f"{problem}; it was killed", "timed out") from None
            self._succeeded(argv, Completed(code, tails["out"], tails["err"]))
        finally:
            with process:  # closes its streams
                _end(process)

    def _start(
        self, argv: Sequence[str], given: IO[bytes], out: IO[bytes] | int, err: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                list(argv),
                stdin=given,
                stdout=out,
                stderr=err,
                bufsize=0,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if self._mask(value) == value},
            )
        except OSError as error:
            raise PreconditionFailed(f"{self.name}: {argv[0]} cannot be run: {error.strerror}") from None

    def tunnel(self, port: int) -> str:
        """Return the address of a port on the loopback."""
        return f"127.0.0.1:{port}"

    def listens(self, port: int) -> bool:
        """Tell whether somebody listens on a port of the loopback."""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=LISTEN_SECONDS):
                return True
        except OSError:
            return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that did not end, and all that it started: it leads a process group of its own."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _given(stdin: bytes | BinaryIO) -> IO[bytes]:
    """Return a file of its own, at its start, that holds what a program shall read."""
    given = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    shutil.copyfileobj(BytesIO(stdin) if isinstance(stdin, bytes) else stdin, given)
    given.seek(0)
    return given
