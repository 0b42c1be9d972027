"""What a host name says by itself."""

from __future__ import annotations

import re

_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}")


def is_loopback(host: str) -> bool:
    """Tell whether a host name, without brackets, can only mean this machine."""
    return host in ("localhost", "::1") or _LOOPBACK.fullmatch(host) is not None
