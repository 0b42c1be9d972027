"""Where a run is shown and who is asked: the terminal here, or one on another machine (``remote``)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console

from credscale.frontends.progress import RunView

if TYPE_CHECKING:
    from types import TracebackType

    from credscale.core.journal import Event
    from credscale.frontends.policy import Ask

WIDTH = 160  # of what is no terminal


class View(Protocol):
    """Takes a run's events while it is entered."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture standing."""

    def update(self, event: Event) -> None:
        """Take one journal event."""


class Front(Protocol):
    """Shows runs and puts questions."""

    @property
    def console(self) -> Console:
        """Where sentences and tables go."""

    @property
    def ask(self) -> Ask | None:
        """Puts a question and returns the answer; None where nobody can answer."""

    def view(self, title: str) -> View:
        """Return what shows a run's events under a title."""


@dataclass(frozen=True)
class Terminal:
    """The terminal of this process.

    Args:
        console: where everything for people goes.
        ask: as for ``Front``.
    """

    console: Console
    ask: Ask | None = None

    def view(self, title: str) -> View:
        """Return the list of steps with the progress of the current one."""
        return RunView(self.console, title)


def terminal(*, json: bool) -> Terminal:
    """Return this process's terminal.

    Args:
        json: stdout is for one JSON object, so people read stderr, and nobody is asked.
    """
    stream = sys.stderr if json else sys.stdout
    console = Console(stderr=json, highlight=False, width=None if stream.isatty() else WIDTH)
    ask = partial(console.input, markup=False)  # "[yes/no]" is no style
    return Terminal(console, ask if sys.stdin.isatty() and not json else None)
