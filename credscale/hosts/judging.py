"""What is wrong with hosts: those that do not answer, their disks, their clocks. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from credscale.hosts.readings import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from credscale.core.machines.fanout import Answer
    from credscale.hosts.readings import Disk, Reading

Severity = Literal["stop", "warn", "unknown", "note", "ok"]
ORDER: dict[str, int] = {"stop": 0, "warn": 1, "unknown": 2, "note": 3, "ok": 4}
GIGABYTE = 1 << 30
SKEW_WARN, SKEW_STOP = 1.0, 5.0  # as the pre-flight has it
_REMEDIES = {
    "unreachable": "check its address, the network and the firewall",
    "refused": "start sshd there, or correct the port in the section hosts",
    "host key": "compare its fingerprint on its console before you accept it",
    "auth": "check user and key in the section hosts, and the agent: ssh-add -l",
    "timed out": "look at its load on its console; a slow host may need a longer --timeout",
    "broken": "run it again; when it breaks again, look at sshd's log",
    "failed": "look at it by hand: ssh, then what stands before",
    "not asked": "run it again once the others answer",
}


@dataclass(frozen=True)
class Seen:
    """One row: a host, or a thing of it, and what is wrong with it.

    Args:
        severity: ``stop`` fails the probe, ``warn`` is a risk, ``unknown`` could not be looked at, ``note`` is only
            worth knowing.
        host: its name.
        columns: figures, by column.
        what: what is wrong, with what was expected; empty when nothing is.
        remedy: what to do about it.
    """

    severity: Severity
    host: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    what: str = ""
    remedy: str = ""

    def row(self, columns: Sequence[str] = ()) -> dict[str, Any]:
        """Return it as a row of a table with these columns, and what is wrong behind them."""
        return {**self.figures(columns), "what": self.what, "what to do": self.remedy}

    def figures(self, columns: Sequence[str]) -> dict[str, Any]:
        """Return it as a row of a table with these columns alone."""
        return {"severity": self.severity, "host": self.host, **{name: self.columns.get(name) for name in columns}}


def ordered(seen: Iterable[Seen]) -> list[Seen]:
    """Return rows with the worst first, otherwise in their order."""
    return sorted(seen, key=lambda each: ORDER[each.severity])


def judge_answers(answers: Sequence[Answer[Any]], errors_allowed: int) -> list[Seen]:
    """Return a row for each host that did not answer; a warning where so many may fail."""
    silent = [answer for answer in answers if answer.why]
    severity: Severity = "warn" if errors_allowed < 0 or len(silent) <= errors_allowed else "stop"
    return [
        Seen(severity, each.host, {}, f"{each.why}: {each.problem}", _REMEDIES.get(each.why, "")) for each in silent
    ]


def judge_disks(readings: Iterable[Reading], most_percent: float, least_free: float) -> Iterator[Seen]:
    """Yield a row for each disk.

    Args:
        readings: of the hosts that answered.
        most_percent: how full a file system may be, in bytes and in inodes.
        least_free: gigabytes that must be free.
    """
    for reading in readings:
        for disk in reading.disks:
            columns = {
                "path": disk.path, "mount": disk.mount or None, "size": disk.size, "free": disk.free,
                "full": _percent(disk.used_percent), "inodes": _percent(disk.inodes_percent),
            }  # fmt: skip
            if disk.problem:
                yield Seen("stop", reading.host, columns, f"{disk.path}: {disk.problem}",
                           "correct --paths, or mount it")  # fmt: skip
                continue
            wrong = list(_wrong_with(disk, most_percent, least_free))
            remedy = "free space or grow it; MongoDB and Redis stop writing when it is full" if wrong else ""
            yield Seen("stop" if wrong else "ok", reading.host, columns, "; ".join(wrong), remedy)


def _wrong_with(disk: Disk, most_percent: float, least_free: float) -> Iterator[str]:
    full, inodes, free = disk.used_percent or 0.0, disk.inodes_percent or 0.0, disk.free or 0
    if full > most_percent:
        yield f"{disk.mount} is {full:.1f} % full, allowed are {most_percent:g} %"
    if free < least_free * GIGABYTE:
        yield f"{disk.mount} has {free / GIGABYTE:.1f} GB free, expected are {least_free:g} GB"
    if inodes > most_percent:
        yield f"{inodes:.1f} % of the inodes of {disk.mount} are taken, allowed are {most_percent:g} %"


def judge_clocks(readings: Iterable[Reading]) -> Iterator[Seen]:
    """Yield a row for each clock, judged by what it differs at least from the middle one; a slow network is no skew."""
    told = [each for each in readings if each.most < UNLIMITED]
    middle = sorted(told, key=lambda each: each.least + each.most)[len(told) // 2] if told else None
    for reading in readings:
        if middle is None or reading.most == UNLIMITED:
            yield Seen("unknown", reading.host, {}, "its date prints no time that can be read",
                       "look at the clock by hand: date")  # fmt: skip
            continue
        ahead, behind = reading.least - middle.most, middle.least - reading.most
        apart = max(ahead, behind, 0.0)
        direction = "ahead of" if ahead > behind else "behind"
        what = f"its clock is at least {apart:.1f} s {direction} that of {middle.host}" if apart > SKEW_WARN else ""
        remedy = "let chrony or ntpd set the clock, and see that it runs: chronyc tracking" if what else ""
        yield Seen(_skew(apart), reading.host, _clock_columns(reading), what, remedy)
    if middle is not None:
        ours = max(middle.least, -middle.most, 0.0)
        if ours > SKEW_WARN:
            yield Seen(_skew(ours), "this machine", {}, f"its clock differs by at least {ours:.1f} s from the hosts'",
                       "set this machine's clock: it decides whether the maintenance window is open")  # fmt: skip


def _clock_columns(reading: Reading) -> dict[str, Any]:
    return {
        "seconds ahead": round((reading.least + reading.most) / 2, 3) + 0.0,  # no minus before a zero
        "known to (s)": round((reading.most - reading.least) / 2, 3),
    }


def _skew(seconds: float) -> Severity:
    return "stop" if seconds > SKEW_STOP else "warn" if seconds > SKEW_WARN else "ok"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f} %"
