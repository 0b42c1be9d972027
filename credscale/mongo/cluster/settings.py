"""The balancer's settings: what stands in config.settings, and whether the server can read it.

A malformed document stops all balancing without a word up to 5.0: ``balancerStatus`` goes on to answer ``full`` and to
count rounds (measured on 4.4.6, reference §1.5), so the documents are judged here by the server's own rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo.cluster.commands import config_collection, retrying, run

if TYPE_CHECKING:
    from datetime import datetime

    from credscale.mongo.cluster.commands import Client

Window = tuple[str, str]
SMALLEST_CHUNK_MB, LARGEST_CHUNK_MB = 1, 1024
DAY = 86_400
MODES = ("full", "autoSplitOnly", "off")  # since 7.0 another one than full turns the balancer off (reference §1.5)
# What servers themselves keep in config.settings, up to 8.2; 8.3 reads activeWindowDOW of the balancer as well.
DOCUMENTS = frozenset({"balancer", "chunksize", "autosplit", "automerge", "ReadWriteConcernDefaults", "audit"})
FIELDS = frozenset({
    "_id", "stopped", "mode", "activeWindow", "_secondaryThrottle", "_waitForDelete", "attemptToBalanceJumboChunks",
})  # fmt: skip
_STRICT = re.compile(r"^([01]\d|2[0-3]):[0-5]\d$")
# The server reads with sscanf("%d:%d"): blanks, single digits and anything behind are taken (S44, §1.5).
_SLOPPY = re.compile(r"\s*\+?(\d+):\s*\+?(\d+)")


@dataclass(frozen=True)
class BalancerSettings:
    """What the balancer is told.

    Args:
        mode: full, autoSplitOnly or off, as balancerStatus answers.
        in_round: whether a round is under way.
        rounds: rounds since the config primary was elected.
        window: start and stop as HH:MM in the config primary's local time; None for the whole day.
        chunk_size_mb: the persisted size; None where the server's default holds.
        autosplit: whether chunks are split by themselves (up to 6.0.2).
        problems: why the server cannot read the documents, one sentence each; then nothing is balanced.
        unread: documents, and fields of the balancer's, that no server reads: (document, field), the field empty for
            a whole document. The balancer works as if they were not there: a window that is misspelt is none.
    """

    mode: str
    in_round: bool
    rounds: int
    window: Window | None
    chunk_size_mb: int | None
    autosplit: bool
    problems: tuple[str, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()

    @property
    def is_off(self) -> bool:
        """Whether the balancer is off and its last round over."""
        return self.mode == "off" and not self.in_round


def balancer_settings(client: Client) -> BalancerSettings:
    """Read the balancer's state and settings through mongos."""
    status = run(client, "admin", {"balancerStatus": 1})
    return parse_settings(retrying(lambda: list(config_collection(client, "settings").find())), status)


def parse_settings(documents: Iterable[Mapping[str, Any]], status: Mapping[str, Any]) -> BalancerSettings:
    """Judge the documents of config.settings and the reply of balancerStatus.

    Args:
        documents: config.settings.
        status: the reply of balancerStatus.
    """
    by_id = {str(document["_id"]): document for document in documents}
    balancer = by_id.get("balancer", {})
    problems = [*_flag_problems(balancer), *_size_problems(by_id)]
    window: Window | None = None
    if "activeWindow" in balancer:
        window, problem = _window_of(balancer["activeWindow"])
        problems += [problem] if problem else []
    for name in ("autosplit", "automerge"):
        if name in by_id and not isinstance(by_id[name].get("enabled"), bool):
            value = repr(by_id[name]["enabled"]) if "enabled" in by_id[name] else "missing"
            problems.append(f"config.settings {name}: enabled is {value}, it must be true or false")
    size: Any = by_id.get("chunksize", {}).get("value")
    return BalancerSettings(
        mode=str(status["mode"]),
        in_round=bool(status.get("inBalancerRound", False)),
        rounds=int(status.get("numBalancerRounds", 0)),
        window=window,
        chunk_size_mb=int(size) if size is not None and not _size_problems(by_id) else None,
        autosplit=bool(by_id.get("autosplit", {}).get("enabled", True)),
        problems=tuple(problems),
        unread=(*((name, "") for name in sorted(by_id.keys() - DOCUMENTS)), *_unread_fields(balancer)),
    )


def _unread_fields(balancer: Mapping[str, Any]) -> list[tuple[str, str]]:
    window = balancer.get("activeWindow")
    inner = window.keys() - {"start", "stop"} if isinstance(window, Mapping) else ()
    return [("balancer", name) for name in sorted([*(balancer.keys() - FIELDS), *(f"activeWindow.{x}" for x in inner)])]


def _flag_problems(balancer: Mapping[str, Any]) -> list[str]:
    wanted: dict[str, tuple[type, ...]] = {
        "stopped": (bool,), "mode": (str,), "_waitForDelete": (bool,), "attemptToBalanceJumboChunks": (bool,),
        "_secondaryThrottle": (bool, Mapping),
    }  # fmt: skip
    found = [
        f"config.settings balancer: {name} is {balancer[name]!r}, which is of the wrong type"
        for name, kinds in wanted.items()
        if name in balancer and not isinstance(balancer[name], kinds)
    ]
    mode = balancer.get("mode", "full")
    # The server looks at the mode only where stopped is not true.
    if balancer.get("stopped") is not True and isinstance(mode, str) and mode not in MODES:
        found.append(f"config.settings balancer: mode is {mode!r}, it must be one of {', '.join(MODES)}")
    return found


def _size_problems(by_id: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if "chunksize" not in by_id:
        return []
    size: Any = by_id["chunksize"].get("value", None)
    number = isinstance(size, int | float) and not isinstance(size, bool) and math.isfinite(size)
    if number and size == int(size) and SMALLEST_CHUNK_MB <= size <= LARGEST_CHUNK_MB:
        return []
    return [f"config.settings chunksize: value is {size!r}, it must be a whole number of MB from 1 to 1024"]


def _window_of(value: Any) -> tuple[Window | None, str]:
    """Return the window the server reads, or why it cannot."""
    start = stop = None
    if isinstance(value, Mapping):
        start, stop = _clock(value.get("start")), _clock(value.get("stop"))
    if start is None or stop is None:
        return None, (
            f"config.settings balancer: activeWindow is {value!r}, it must be "
            '{start: "HH:MM", stop: "HH:MM"} with times from 00:00 to 23:59'
        )
    if start == stop:
        return None, f"config.settings balancer: activeWindow starts and stops at {start}, which the server refuses"
    return (start, stop), ""


def _clock(text: Any) -> str | None:
    found = _SLOPPY.match(text) if isinstance(text, str) else None
    if found is None or int(found[1]) > 23 or int(found[2]) > 59:
        return None
    return f"{int(found[1]):02}:{int(found[2]):02}"


def parse_window(text: str) -> Window | None:
    """Read a window written ``02:00-06:00``; empty means: leave it as it is.

    Stricter than the server, which takes ``2:0`` and ``02:00abc`` and means something else by them.

    Raises:
        EnvironmentInvalid: not two different times HH:MM.
    """
    if not text.strip():
        return None
    start, dash, stop = (part.strip() for part in text.partition("-"))
    if not dash or not _STRICT.match(start) or not _STRICT.match(stop):
        raise EnvironmentInvalid(f"the balancer window {text!r} is not written HH:MM-HH:MM, such as 02:00-06:00")
    if start == stop:
        raise EnvironmentInvalid(f"the balancer window {text!r} starts when it stops; MongoDB refuses that")
    return start, stop


def check_chunk_size(megabytes: int) -> int:
    """Return the size when MongoDB accepts it; one outside would stop all balancing (§1.6).

    Raises:
        EnvironmentInvalid: not a whole number from 1 to 1024.
    """
    if isinstance(megabytes, bool) or not isinstance(megabytes, int):
        raise EnvironmentInvalid(f"chunk_size_mb must be a whole number, not {megabytes!r}")
    if not SMALLEST_CHUNK_MB <= megabytes <= LARGEST_CHUNK_MB:
        raise EnvironmentInvalid(f"chunk_size_mb must be from 1 to 1024, not {megabytes}")
    return megabytes


def _second_of(clock: str) -> int:
    return int(clock[:2]) * 3600 + int(clock[3:]) * 60


def seconds_until_open(window: Window | None, now: datetime) -> float:
    """Return how long until the window lets chunks move; 0 inside it, both ends included as the server has it.

    Args:
        window: start and stop, or None.
        now: the config primary's local time.
    """
    if window is None:
        return 0.0
    start, stop = _second_of(window[0]), _second_of(window[1])
    moment = now.hour * 3600 + now.minute * 60 + now.second + now.microsecond / 1e6
    inside = start <= moment <= stop if start < stop else moment >= start or moment <= stop
    return 0.0 if inside else (start - moment) % DAY


def eta(remaining_moves: float, rate: float, window: Window | None, now: datetime) -> float | None:
    """Return in how many seconds the remaining moves are done, counting only those inside the window.

    Args:
        remaining_moves: chunks still to move.
        rate: chunks per second inside the window.
        window: start and stop, or None.
        now: the config primary's local time.

    Returns:
        seconds of wall time; None while the rate is unknown.
    """
    if remaining_moves <= 0:
        return 0.0
    if rate <= 0:
        return None
    needed = remaining_moves / rate
    if window is None:
        return needed
    start, stop = _second_of(window[0]), _second_of(window[1])
    length = (stop - start) % DAY
    waited = seconds_until_open(window, now)
    moment = now.hour * 3600 + now.minute * 60 + now.second + now.microsecond / 1e6
    left = length if waited else (stop - moment) % DAY
    if needed <= left:
        return waited + needed
    # after today's rest of the window: so many whole nights, and a part of the last one
    needed -= left
    nights = math.ceil(needed / length)
    return waited + left + (DAY - length) * nights + needed


def open_seconds(window: Window | None, start: datetime, end: datetime) -> float:
    """Return for how many of the seconds between two times chunks could move.

    Args:
        window: start and stop, or None.
        start: the config primary's local time.
        end: the same, later.
    """
    if end <= start:
        return 0.0
    if window is None:
        return (end - start).total_seconds()
    opens, closes = _second_of(window[0]), _second_of(window[1])

    def passed(moment: datetime) -> float:
        """Return the open seconds from the beginning of time."""
        second = moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6
        if opens < closes:
            today = min(max(second - opens, 0.0), closes - opens)
        else:
            today = min(second, float(closes)) + max(0.0, second - opens)
        return moment.toordinal() * float((closes - opens) % DAY) + today

    return passed(end) - passed(start)
