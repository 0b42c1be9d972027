"""This machine."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from typing import TYPE_CHECKING

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.machines.machine import COMMAND_SECONDS, Completed, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LISTEN_SECONDS = 3.0


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

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Completed:
        """Run a program to its end; see ``Machine.run``."""
        # files rather than pipes: a server that forks away may keep its streams, and a pipe would wait for its end
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            try:
                code = subprocess.run(
                    list(argv),
                    stdin=given,
                    stdout=out,
                    stderr=err,
                    timeout=timeout,
                    check=False,
                    start_new_session=True,
                    env={name: value for name, value in os.environ.items() if self._mask(value) == value},
                ).returncode
            except subprocess.TimeoutExpired:
                raise ConnectFailed(f"{self.name}: {argv[0]} did not end within {timeout:.0f} s") from None
            except OSError as error:
                raise PreconditionFailed(f"{self.name}: {argv[0]} cannot be run: {error.strerror}") from None
            out.seek(0)
            err.seek(0)
            return Completed(code, out.read(), err.read())

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
