"""A machine that answers from a list and writes down what it was asked to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.machines import Machine
from credscale.core.machines.machine import Completed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class FakeMachine(Machine):
    """Answers by words that stand in the command, the first that fits; everything else succeeds and prints nothing.

    Args:
        answers: words, and what is printed or the exit code of a failure.
        files: contents by path.
    """

    def __init__(
        self, answers: Mapping[str, str | int | Callable[[], str]] | None = None, files: Mapping[str, str] | None = None
    ) -> None:
        super().__init__("redis1")
        self.answers, self.files = answers or {}, files or {}
        self.ran: list[list[str]] = []
        self.given: list[bytes] = []

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> Completed:
        self.ran.append(list(argv))
        self.given.append(stdin)
        text = " ".join(argv)
        for words, answer in self.answers.items():
            if words in text:
                if isinstance(answer, int):
                    return Completed(answer, b"", b"it says no")
                return Completed(0, (answer if isinstance(answer, str) else answer()).encode(), b"")
        return Completed(0, b"", b"")

    def read(self, path: str) -> bytes | None:
        return self.files[path].encode() if path in self.files else None

    def find_program(self, name: str) -> str | None:
        return f"/usr/bin/{name}"

    def tunnel(self, port: int) -> str:
        return f"127.0.0.1:{port}"

    def listens(self, port: int) -> bool:
        return False
