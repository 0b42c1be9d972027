"""Which hosts of the inventory are meant, and what each is there for. Pure."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from credscale.core.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.core.environment import Environment

THIS_MACHINE = ""


def chosen_hosts(environment: Environment, wanted: str) -> tuple[str, ...]:
    """Return names of the section hosts in the inventory's order; without such a section, this machine alone.

    Args:
        environment: the inventory.
        wanted: names or patterns such as ``shard1*``, with commas between them; empty for all.

    Raises:
        EnvironmentInvalid: a name or pattern that fits no host.
    """
    patterns = [part.strip() for part in wanted.split(",") if part.strip()]
    if not patterns:
        return tuple(environment.hosts) or (THIS_MACHINE,)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in environment.hosts):
            near = difflib.get_close_matches(pattern, environment.hosts, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join(environment.hosts) or "none; leave --hosts away to look at this machine"
            raise EnvironmentInvalid(f"no host {pattern!r} in the section hosts.{hint} Known: {known}")
    return tuple(name for name in environment.hosts if any(fnmatchcase(name, pattern) for pattern in patterns))


def roles_of(environment: Environment) -> dict[str, str]:
    """Return what runs on each host by the inventory, such as ``config server, shard``; without a role it is absent."""
    found: dict[str, list[str]] = {}
    for role, address in _addresses(environment):
        machine = environment.machine_of(address)
        if machine:
            found.setdefault(machine, []).append(role)
    return {host: ", ".join(sorted(set(roles))) for host, roles in found.items()}


def _addresses(environment: Environment) -> Iterator[tuple[str, str]]:
    if environment.mongo is not None:
        servers = environment.mongo.config_servers
        yield from (("config server", address) for address in (servers.members if servers is not None else ()))
        yield from (("shard", address) for shard in environment.mongo.shards for address in shard.members)
        yield from (("router", address) for address in environment.mongo.routers)
    if environment.redis is not None:
        yield from (("redis", address) for address in environment.redis.nodes)
