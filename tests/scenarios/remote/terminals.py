"""Commands that people give at a terminal, and programs where there is none."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from credscale.testing import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEADLINE = 60.0  # seconds for any command; nobody waits for it but a test that fails
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class Command:
    """A command at a terminal, or where no terminal is.

    Args:
        words: after ``invoke``.
        cwd: the checkout that it is given in.
        environment: of its process.
        log: a file for what people read there.
        typed: whether somebody sits at a terminal.
    """

    def __init__(
        self, words: Sequence[str], *, cwd: Path, environment: dict[str, str], log: Path, typed: bool = False
    ) -> None:
        self.log, self._master = log, -1
        command = [sys.executable, "-m", "invoke", *words]
        with log.open("wb") as out:
            if not typed:
                self.process = subprocess.Popen(
                    command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if "--json" in words else out, stderr=out, start_new_session=True,
                )  # fmt: skip
                return
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], cwd=cwd, env=environment | {"TERM": "xterm", "COLUMNS": "150"},
            stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        os.close(slave)
        threading.Thread(target=self._keep, daemon=True).start()

    def _keep(self) -> None:
        with suppress(OSError), self.log.open("ab") as log:  # EIO: nobody has the other end open any more
            while data := os.read(self._master, 65536):
                log.write(data)
                log.flush()

    @property
    def shown(self) -> str:
        """What people have seen so far, without colours."""
        return _CONTROL.sub("", self.log.read_text(encoding="utf-8", errors="replace"))

    def sees(self, text: str, times: int = 1) -> None:
        """Wait until a text was shown so many times."""

        def there() -> bool:
            ended = self.process.poll() is not None
            if self.shown.count(text) >= times:
                return True
            assert not ended, f"it ended with {self.process.returncode} without {text!r}:\n{self.shown}"
            return False

        try:
            wait_for(there, DEADLINE)
        except AssertionError:
            raise AssertionError(f"waited in vain for {text!r}:\n{self.shown}") from None

    def type(self, keys: str) -> None:
        """Press keys; ``\\x03`` is Ctrl-C."""
        os.write(self._master, keys.encode())

    def interrupt(self) -> None:
        """Send what Ctrl-C sends where no terminal is."""
        os.kill(self.process.pid, signal.SIGINT)

    def hang_up(self) -> None:
        """End it as a terminal does that is closed."""
        os.kill(self.process.pid, signal.SIGHUP)

    def end(self, deadline: float = DEADLINE) -> int:
        """Wait for its end and return the exit code."""
        if self.process.stdout is None:
            return self.process.wait(timeout=deadline)
        self.answered = self.process.communicate(timeout=deadline)[0].decode()
        return self.process.returncode

    def answer(self) -> dict[str, Any]:
        """Return the JSON object on its output, once it has ended."""
        found: dict[str, Any] = json.loads(self.answered.splitlines()[-1])
        return found

    def close(self) -> None:
        """Kill it, if it still is there."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self._master >= 0:
            os.close(self._master)
