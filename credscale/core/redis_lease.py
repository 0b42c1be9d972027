"""The lease of a Redis Cluster: three keys of one slot, which moves and fails over like any other.

``{credscale}:lease`` says who holds it and expires by the server's clock; ``{credscale}:last`` says who held it last
and whether that one gave it back, for whoever finds it expired; ``{credscale}:kept`` is the hash of what must be put
back. Redis replicates after it answers: a primary that dies within the moment after a lease was taken can lose it. The
heartbeat writes it again, or finds that somebody else had it, and then the run stops before its next change.

A full shard takes no writes, and the run may be what relieves it. A script that has removed something is not refused
for want of memory, on any version: each of ours that sets something removes it first.
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
ENDED = "ended"  # marks a last holder that gave the lease back
# Compares and sets in one step. Tried again after a lost reply it finds itself, and answers the same. A lease that is
# gone was held by nobody else since, if the last holder is the one that writes, or the one before, as a failover may
# bring back.
TAKE = """
local found, last = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if found and found ~= ARGV[1] and found ~= ARGV[2] then return 0 end
if not found and last and last ~= ARGV[1] and last ~= ARGV[3] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[4])
redis.call('SET', KEYS[2], ARGV[1])
return 1
"""
GIVE_BACK = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""
REMEMBER = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""
MEMORY = "return redis.call('INFO', 'memory')"  # of the node that owns the slot, wherever it is by now


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
    needs = (
        "The user needs read and write on the keys ~{credscale}*, and the commands GET, SET, DEL, PTTL, EVAL, INFO and "
        "hashes'"
    )

    def __init__(
        self, client: RedisCluster, run: str, note: Callable[[str], object], seconds: float = LEASE_SECONDS
    ) -> None:
        super().__init__(run, note, seconds)
        self._client = client
        self._mine = json.dumps(asdict(self._holder), sort_keys=True)
        self._last_before = ""  # who held it last when we took it

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        return redis_failures()

    def _write(self) -> tuple[bool, Holder | None]:
        found: Any = self._client.get(LEASE)
        last: Any = self._client.get(LAST)
        self._last_before = last or ""
        holder = _holder(found)
        replaced = found if holder is not None and (holder.run == self._holder.run or holder.is_dead()) else ""
        return self._set(replaced), holder or _holder(last)

    def _set(self, replaced: str) -> bool:
        """Make the lease ours where it is free since we looked, ours, or exactly ``replaced``."""
        milliseconds = int(self.seconds * 1000)
        return bool(self._client.eval(TAKE, 2, LEASE, LAST, self._mine, replaced, self._last_before, milliseconds))

    def _renew(self) -> bool:
        return self._set("")

    def _risk(self) -> str:
        told: Any = self._client.eval(MEMORY, 1, LEASE)
        memory = dict(line.partition(":")[::2] for line in told.splitlines())
        policy = memory.get("maxmemory_policy", "")
        if memory.get("maxmemory") == "0" or not policy.startswith(("allkeys-", "volatile-")):
            return ""
        lost = "the lease and what must be put back" if policy.startswith("allkeys-") else "the lease"
        return (
            f"maxmemory-policy {policy}: a full shard may evict {lost}, and nobody notices. Make sure that nobody else "
            "works on this cluster"
        )

    def _remedy(self, error: Exception) -> str:
        from redis.exceptions import OutOfMemoryError

        if isinstance(error, OutOfMemoryError):
            return f"The memory of the shard that holds {LEASE} is full: raise its maxmemory, or delete what can go"
        if "perm" in str(error).lower() or "can't run" in str(error):
            return self.needs
        return "Look at each node with: invoke cluster-status; then run this again"

    def _found(self) -> Taken:
        left: Any = self._client.pttl(LEASE)
        ends = f"its lease ends in {max(0, left) / 1000:.0f} s unless it is renewed"
        return Taken(_holder(self._client.get(LEASE)), ends)

    def _give_back(self) -> None:
        ended = json.dumps(asdict(self._holder) | {ENDED: True}, sort_keys=True)
        self._client.eval(GIVE_BACK, 2, LEASE, LAST, self._mine, ended)

    def remember(self, key: str, value: Any) -> None:
        """Keep a value in the target; one already kept (by a run that was killed) stays."""
        self._client.eval(REMEMBER, 1, KEPT, key, json.dumps(value))

    def recall_all(self) -> dict[str, Any]:
        """Return all kept values."""
        return kept_in(self._client)

    def forget(self, key: str) -> None:
        """Drop a kept value."""
        self._client.hdel(KEPT, key)


def _holder(found: Any) -> Holder | None:
    """Return who holds it or died holding it; None for nobody, and for one that gave it back."""
    told = json.loads(found) if found else {ENDED: True}
    return None if told.get(ENDED) else Holder(**told)
