"""The balancer's settings in config.settings, parsed as strictly and as sloppily as MongoDB 5.0 parses them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any

from credscale.lab.simulated.replies import CommandFailed

_MEGABYTE = 1024 * 1024
_DEFAULT_MEGABYTES = 64
# MongoDB reads the times with sscanf("%d:%d"): blanks, single digits and whatever follows are accepted.
_TIME = re.compile(r"\s*\+?(\d+):\s*\+?(\d+)")
_WINDOW_FORMAT = 'activeWindow format is  { start: "hh:mm" , stop: "hh:mm" }'


@dataclass(frozen=True)
class Settings:
    """What one refresh of the balancer's settings found."""

    mode: str
    window: tuple[time, time] | None
    chunk_bytes: int

    def open_at(self, now: datetime) -> bool:
        """Tell whether the active window, both ends included, lets chunks move now."""
        if self.window is None:
            return True
        start, stop = self.window
        moment = now.time()
        return start <= moment <= stop if start < stop else moment >= start or moment <= stop


def parse_settings(documents: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Read the documents of config.settings by _id, or raise the error that keeps the balancer from working."""
    return Settings(parse_mode(documents), _window(documents), _chunk_bytes(documents))


def parse_mode(documents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the balancer's mode, which a malformed window does not hide."""
    balancer = documents.get("balancer", {})
    return "off" if balancer.get("stopped") else str(balancer.get("mode", "full"))


def _window(documents: Mapping[str, Mapping[str, Any]]) -> tuple[time, time] | None:
    """Return start and stop of the active window, if there is one."""
    balancer = documents.get("balancer", {})
    if "activeWindow" not in balancer:
        return None
    window = balancer["activeWindow"]
    if not isinstance(window, Mapping):
        kind = type(window).__name__
        raise CommandFailed(14, f'"activeWindow" had the wrong type. Expected object, found {kind}')
    start, stop = (_time(window.get(name)) for name in ("start", "stop"))
    if start is None or stop is None or start == stop:
        raise CommandFailed(2, _WINDOW_FORMAT)
    return start, stop


def _time(text: Any) -> time | None:
    """Read one end of the window; None when it cannot be read."""
    found = _TIME.match(text) if isinstance(text, str) else None
    if found is None:
        return None
    hour, minute = int(found[1]), int(found[2])
    return time(hour, minute) if hour < 24 and minute < 60 else None


def _chunk_bytes(documents: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the maximum chunk size."""
    value = documents.get("chunksize", {}).get("value", _DEFAULT_MEGABYTES)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CommandFailed(14, f'"value" had the wrong type. Expected number, found {type(value).__name__}')
    if value != int(value) or not 1 <= value <= 1024:
        raise CommandFailed(2, f"{value} is not a valid value for chunksize")
    return int(value) * _MEGABYTE
