"""The lease of a Redis Cluster: three keys of one slot, which moves and fails over like any other.

``{credscale}:lease`` says who holds it and expires by the server's clock; ``{credscale}:last`` says who held it last,
for whoever finds it expired; ``{credscale}:kept`` is the hash of what must be put back. Redis replicates after it
answers: a primary that dies within the moment after a lease was taken can lose it. The heartbeat writes it again, or
finds another holder, and then the run stops before its next change.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from credscale.core.lease import LEASE_SECONDS, Holder, Taken, TargetLease
from credscale.core.redis_clients import redis_failures

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.cluster import RedisCluster

LEASE, LAST, KEPT = "{credscale}:lease", "{credscale}:last", "{credscale}:kept"
# Compares and sets in one step. Tried again after a lost reply it finds itself, and answers the same.
TAKE = """
local found = redis.call('GET', KEYS[1]) or ''
if found ~= '' and found ~= ARGV[1] and found ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
redis.call('SET', KEYS[2], ARGV[1])
return 1
"""
GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1], KEYS[2]) end return 0"


def kept_in(client: RedisCluster) -> dict[str, Any]:
    """Return what runs have left in the target to put back."""
    found: Any = client.hgetall(KEPT)
    return {key: json.loads(value) for key, value in found.items()}


class RedisLease(TargetLease):
    """A lease in the target cluster, renewed by a thread.

    Args:
        client: of the cluster, with bounded retries; used by two threads.
        run: this run's id.
        note: receives one sentence when a stale lease is taken over.
        seconds: how long the lease lives without a heartbeat.
    """

    place = f"{LEASE} of the Redis Cluster"
    needs = "The user needs read and write on the keys ~{credscale}*, and the commands GET, SET, DEL, EVAL and hashes'"

    def __init__(
        self, client: RedisCluster, run: str, note: Callable[[str], object], seconds: float = LEASE_SECONDS
    ) -> None:
        super().__init__(run, note, seconds)
        self._client = client
        self._mine = json.dumps(asdict(self._holder), sort_keys=True)

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        return redis_failures()

    def _write(self) -> tuple[bool, Holder | None]:
        found: Any = self._client.get(LEASE)
        holder = _holder(found)
        replaced = found if holder is not None and (holder.run == self._holder.run or holder.is_dead()) else ""
        before = holder or _holder(self._client.get(LAST))
        return self._set(replaced), before

    def _set(self, replaced: str) -> bool:
        """Make the lease ours where it is free, ours, or exactly ``replaced``."""
        milliseconds = int(self.seconds * 1000)
        return bool(self._client.eval(TAKE, 2, LEASE, LAST, self._mine, replaced, milliseconds))

    def _renew(self) -> bool:
        return self._set("")

    def _found(self) -> Taken:
        left: Any = self._client.pttl(LEASE)
        ends = f"its lease ends in {max(0, left) / 1000:.0f} s unless it is renewed"
        return Taken(_holder(self._client.get(LEASE)), ends)

    def _give_back(self) -> None:
        self._client.eval(GIVE_BACK, 2, LEASE, LAST, self._mine)

    def remember(self, key: str, value: Any) -> None:
        """Keep a value in the target; one already kept (by a run that was killed) stays."""
        self._client.hsetnx(KEPT, key, json.dumps(value))

    def recall_all(self) -> dict[str, Any]:
        """Return all kept values."""
        return kept_in(self._client)

    def forget(self, key: str) -> None:
        """Drop a kept value."""
        self._client.hdel(KEPT, key)


def _holder(found: Any) -> Holder | None:
    return Holder(**json.loads(found)) if found else None
