"""Every step and probe of hosts; ``STEPS`` lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.hosts.keys import accept_host_key
from credscale.hosts.probes import (
    verify_clocks,
    verify_disk,
    verify_hosts,
    verify_huge_pages,
    verify_limits,
    verify_versions,
)

if TYPE_CHECKING:
    from credscale.core.step import Step

__all__ = [
    "STEPS",
    "accept_host_key",
    "verify_clocks",
    "verify_disk",
    "verify_hosts",
    "verify_huge_pages",
    "verify_limits",
    "verify_versions",
]

STEPS: tuple[Step[Any], ...] = (
    verify_hosts, verify_disk, verify_clocks, verify_limits, verify_huge_pages, verify_versions, accept_host_key,
)  # fmt: skip
