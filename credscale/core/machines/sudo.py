"""How a program becomes root: sudo gets its password when it asks, and nothing else ever does."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from credscale.core.errors import ConnectFailed, EnvironmentInvalid, PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NOT_FOUND = 127
# Says that sudo is done, then becomes the program; the program's own input may only be sent after that.
_START = 'printf %s "$1"; shift; exec "$@"'


class Sudo:
    """What sudo says before one program starts, and what it is told.

    Its password is not sent unasked: a sudo that needs none would leave it to the program, which may print it. Both
    the prompt and the sign that the program starts now are random, so nothing else can be taken for them.

    Args:
        name: of the machine.
        password: returns the password; None when sudo must not need one.
        reference: where the password comes from, for messages.
    """

    def __init__(self, name: str, password: Callable[[], str] | None, reference: str) -> None:
        self._name, self._password, self._reference = name, password, reference
        token = secrets.token_hex(12)
        self._prompt, self._mark = f"[credscale {token}]", f"<credscale {token}>"
        self._out, self._err = b"", b""
        self._answered = False
        self.started = False

    def words(self, argv: Sequence[str]) -> list[str]:
        """Return the program and its arguments as they are run."""
        how = ["-n"] if self._password is None else ["-S", "-p", self._prompt]
        return ["sudo", *how, "--", "sh", "-c", _START, "sh", self._mark, *argv]

    def hear(self, out: bytes, err: bytes) -> tuple[bytes, bytes, bytes]:
        """Take what came while the program had not started yet.

        Args:
            out: on the output, in pieces of any length.
            err: on the error output.

        Returns:
            what to send now, and of both streams what is the program's own.

        Raises:
            ConnectFailed: the password is wrong.
            EnvironmentInvalid: it cannot be resolved, or is none.
        """
        self._out += out
        self._err += err
        _, mark, rest = self._out.partition(self._mark.encode())
        if mark:
            self.started = True
            return b"", rest, self._err.rpartition(self._prompt.encode())[2]
        asked = self._err.count(self._prompt.encode())
        if asked > 1:
            raise ConnectFailed(
                f"sudo refused the password of {self._name}; the program was not started. Check the reference "
                f"{self._reference} (hosts.{self._name}.sudo)",
                "auth",
            )
        if asked and not self._answered and self._password is not None:
            self._answered = True
            return self._answer(self._password), b"", b""
        return b"", b"", b""

    def _answer(self, resolve: Callable[[], str]) -> bytes:
        password = resolve()
        if "\n" in password or "\r" in password:
            raise EnvironmentInvalid(
                f"the password behind {self._reference} (hosts.{self._name}.sudo) has more than one line"
            )
        return password.encode() + b"\n"

    def refusal(self, code: int) -> ConnectFailed | PreconditionFailed:
        """Return what to raise when sudo ended and the program never started.

        Args:
            code: sudo's exit code.
        """
        said = self._err.replace(self._prompt.encode(), b"").decode("utf-8", "replace").strip()
        where = f"{self._name}: sudo did not start the program"
        if code == _NOT_FOUND:
            return PreconditionFailed(
                f"{self._name}: sudo cannot be run there: {said}. Install it, or log in as root and leave out "
                f"hosts.{self._name}.sudo"
            )
        if "have a tty" in said:
            return ConnectFailed(
                f"{where}: {said}. Its sudoers file asks for a terminal (requiretty), which we have none of: exempt "
                "this user with: Defaults:USER !requiretty",
                "auth",
            )
        if self._password is None:
            return ConnectFailed(
                f"{where} (exit code {code}): {said}. Allow this user NOPASSWD in sudoers, or give hosts.{self._name}."
                "sudo a reference to the password, such as env:NAME",
                "auth",
            )
        return ConnectFailed(
            f"{where} (exit code {code}): {said}. Check the password behind {self._reference} and what sudoers allows "
            "this user (sudo -l)",
            "auth",
        )

    def waiting(self) -> str:
        """Return what sudo waits for, as far as it said so, for a program that did not start in time."""
        said = self._err.replace(self._prompt.encode(), b"").decode("utf-8", "replace").strip()
        return f"; sudo did not start it and said: {said or 'nothing'}"
