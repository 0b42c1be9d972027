"""Addresses, ``host:port``, and what a host name says by itself."""

from __future__ import annotations

import re

_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}")


def split_address(address: str) -> tuple[str, int]:
    """Return host, without brackets, and port of ``host:port``."""
    return host_of(address), port_of(address)


def host_of(address: str) -> str:
    """Return the host part of ``host:port``, without brackets."""
    return address.rpartition(":")[0].strip("[]")


def port_of(address: str) -> int:
    """Return the port of ``host:port``."""
    return int(address.rpartition(":")[2])


def is_loopback(host: str) -> bool:
    """Tell whether a host name, without brackets, can only mean this machine."""
    return host in ("localhost", "::1") or _LOOPBACK.fullmatch(host) is not None
