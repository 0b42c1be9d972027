"""What people see while a run works: the journal's events, drawn with rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from credscale.core.step import mark_of

if TYPE_CHECKING:
    from types import TracebackType

    from credscale.core.journal import Event

_STYLES = {"ok": "green", "changed": "cyan", "planned": "yellow", "skipped": "dim", "failed": "bold red"}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PLAIN_SECONDS = 5.0


def human_bytes(count: float) -> str:
    """Return bytes in the nearest binary unit."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


class Tracker:
    """Reduce progress events to done, total, rate and ETA."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self.event: Event = {}

    def update(self, event: Event) -> None:
        """Take the next progress event of a step; a smaller ``done`` starts a new measure."""
        if self._first is None or event["done"] < self.event.get("done", 0) or event["unit"] != self.event.get("unit"):
            self._first = (time.monotonic(), event["done"])
        self.event = event

    @property
    def text(self) -> str:
        """Done of total, rate, ETA."""
        event = self.event
        done, total, unit = event["done"], event["total"], event["unit"]
        if unit == "s":
            return f"{event.get('what', 'waiting')}: {event.get('seen', '')} ({done:.0f} s, at most {total:.0f} s)"
        show = human_bytes if unit == "bytes" else lambda count: f"{count:,.0f}"
        parts = [f"{show(done)} of {show(total)}" if total else show(done)]
        if unit != "bytes":
            parts[0] += f" {unit}"
        rate = self._rate()
        if rate > 0:
            parts.append(f"{show(rate)}/s" if rate >= 1 or unit == "bytes" else f"{human_seconds(1 / rate)} each")
        if done < total:
            parts += self._left(rate)
        shards = event.get("shards") or {}
        if isinstance(shards, dict) and shards:
            parts.append("  ".join(f"{name} {_shard(value)}" for name, value in shards.items()))
        return " · ".join(parts)

    def _left(self, rate: float) -> list[str]:
        """Return how long it will still take: as the step says it, or else by the rate seen."""
        done, total = self.event["done"], self.event["total"]
        if "left" in self.event:
            return [self.event["left"]]
        eta = self.event.get("eta", (total - done) / rate if rate > 0 and total else None)
        return [f"{human_seconds(eta)} left"] if eta is not None else []

    def _rate(self) -> float:
        if self._first is None:
            return 0.0
        seconds = time.monotonic() - self._first[0]
        return float(self.event["done"] - self._first[1]) / seconds if seconds > 0.5 else 0.0


def _shard(value: Any) -> str:
    if isinstance(value, dict):
        chunks = f"{value.get('chunks', '?')} chunks"
        return f"{chunks} {human_bytes(value['bytes'])}" if value.get("bytes") else chunks
    return str(value)


class RunView:
    """The step list, the current change and its bar.

    Args:
        console: where to draw; plain lines are printed when it is no terminal.
        title: the first line.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._rows: list[tuple[str, Event]] = []
        self._current, self._change, self._hold = "", "", ""
        self._tracker: Tracker | None = None
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self.render, transient=False)
        self._plain = not console.is_terminal
        self._last_plain = 0.0

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._plain:
            self._console.print(self._title)
        else:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture standing."""
        if not self._plain:
            self._live.stop()

    def update(self, event: Event) -> None:
        """Take one journal event."""
        kind = event["event"]
        if event.get("waiting"):
            return
        if kind == "step_started":
            self._current, self._change, self._hold, self._tracker = event["step"], "", "", None
        elif kind == "change_started":
            self._change, self._hold, self._tracker = event["what"], "", None
        elif kind == "change_finished":
            self._change = ""
        elif kind == "hold":
            self._hold = event["reason"]
        elif kind == "progress":
            self._tracker = self._tracker if self._tracker is not None else Tracker()
            self._tracker.update(event)
        elif kind == "step_finished":
            self._rows.append(("step", event))
            self._current = ""
        elif kind == "note":
            self._rows.append(("note", event))
        if self._plain:
            self._print(event)

    def _print(self, event: Event) -> None:
        kind = event["event"]
        if kind == "step_finished":
            self._line(f"{mark_of(event['status'])} {event['step']}: {event['summary']}")
        elif kind == "change_started":
            self._line(f"  ✎ {event['what']}")
        elif kind in ("note", "hold"):
            self._line(f"  · {event.get('text', event.get('reason'))}")
        elif kind == "progress" and self._tracker is not None and time.monotonic() - self._last_plain > PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            self._line(f"  … {self._tracker.text}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def render(self) -> Group:
        """Return the picture; rich calls it eight times a second."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold", ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        for kind, event in self._rows:
            if kind == "note":
                grid.add_row("", "", Text(f"· {event['text']}", "dim"), "")
            else:
                style = _STYLES[event["status"]]
                sign, name = Text(mark_of(event["status"]), style), Text(event["step"], style)
                grid.add_row(sign, name, Text(event["summary"]), Text(human_seconds(event["duration"]), "dim"))
        parts: list[Any] = [Text(self._title, "bold"), grid]
        if self._current:
            spinner = _SPINNER[int(time.monotonic() * 8) % len(_SPINNER)]
            grid.add_row(Text(spinner, "cyan"), Text(self._current, "bold"), Text(self._hold or self._change), "")
        if self._current and self._tracker is not None:
            event = self._tracker.event
            if event["total"]:
                parts.append(ProgressBar(total=event["total"], completed=event["done"], width=60))
            parts.append(Text(self._tracker.text, "cyan"))
        return Group(*parts)
