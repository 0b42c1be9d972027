"""One look at all hosts: disks, clocks, limits, huge pages, versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.hosts.steps import verify_hosts

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(reads_only=True, target="hosts")
def host_check(
    ctx: Context,
    *,
    hosts: str = "",
    paths: str = "/",
    most_used_percent: float = 80.0,
    least_free_gb: float = 1.0,
    parallel: int = 20,
    timeout: float = 30.0,
    errors_allowed: int = 0,
) -> None:
    """Ask all hosts at once how they are, and exit 1 with the reasons when one is not fit or does not answer.

    One round trip to each: room on its disks, clock, limits of the running servers, huge pages, versions. Hosts that
    are unreachable, refuse, or hang are told apart and hold nobody up; what the others said is always shown. Reads
    only; `--watch` repeats it.

    Args:
        hosts: names or patterns such as shard1*, with commas; all of the section hosts when empty
        paths: absolute paths whose file systems are looked at, with commas
        most_used_percent: how full each may be, in bytes and in inodes
        least_free_gb: gigabytes that must be free
        parallel: how many hosts are asked at a time
        timeout: seconds for each host
        errors_allowed: how many hosts may fail to answer; -1 for any number
    """
    # ## All hosts
    # Problems first, the worst on top; then what every host told.
    verify_hosts(
        ctx,
        hosts=hosts,
        paths=paths,
        most_used_percent=most_used_percent,
        least_free_gb=least_free_gb,
        parallel=parallel,
        timeout=timeout,
        errors_allowed=errors_allowed,
    )
