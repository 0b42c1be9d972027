"""One probe client that writes to one shard, and looks for what was acknowledged.

It sends ``SET credscale:probe:{tag}:<run>:<client>:<number> <number>`` with a time to live, a number after the other,
and repeats one until it is acknowledged. So what was acknowledged is all numbers below the present one, and an hour of
it needs no more memory than a minute.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from credscale.core.errors import PreconditionFailed
from credscale.redis_cluster.cluster.slots import key_slot
from credscale.redis_cluster.measuring.measurement import Gap, Longest, Series, WriterRecord
from credscale.redis_cluster.measuring.reading import missing

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.views import Look
    from credscale.redis_cluster.measuring.senders import Sender

TTL_SECONDS = 600
SURE_SECONDS = TTL_SECONDS - 60  # a key this old that is not found may have run out
PREFIX = "credscale:probe"
READ_AT_ONCE = 20_000


class Writer:
    """One client writing to one shard, in a thread of its own.

    Args:
        shard: the address by which people know the shard.
        tag: the hash tag of its keys.
        run: sets the keys of this run apart from those of others.
        sender: sends a command once.
    """

    def __init__(self, shard: str, tag: str, run: str, sender: Sender) -> None:
        self.shard, self._sender = shard, sender
        self.slot, self._prefix = key_slot(tag), f"{PREFIX}:{{{tag}}}:{run}:{sender.name}:"
        self.stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._begun, self._every = 0.0, 0.0
        self._watching = False
        self._acknowledged = self._checked = self._unknown = 0
        self.lost = self.unread = 0
        self._last = self._end = 0.0
        self._pace: list[tuple[float, int]] = []  # once a second: when, and how many were acknowledged
        self._errors: Counter[str] = Counter()
        self._longest, self._series = Longest(), Series()

    def try_once(self) -> None:
        """Write the first key.

        Raises:
            PreconditionFailed: the server answers that this user, or nobody at present, may write.
        """
        from redis.exceptions import AuthenticationError, ClusterError, RedisError, ResponseError
        from redis.exceptions import RedisClusterException as Uncovered

        try:
            self._set(0)
        except (ResponseError, AuthenticationError) as error:
            if isinstance(error, ClusterError) or _redirects(error):
                return  # the shard may be down: that is what is to be measured
            raise PreconditionFailed(
                f"{self.shard}: the probe cannot write {self._prefix}* ({error}), so no lost write would be noticed. "
                "Nothing else was changed. Let our user write these keys, or free memory; then run the same again"
            ) from None
        except (RedisError, OSError, Uncovered):
            return

    def start(self, begun: float, every: float) -> None:
        """Write on.

        Args:
            begun: the monotonic moment that all times are counted from.
            every: seconds between two writes.
        """
        self._begun, self._every = begun, every
        self._thread = threading.Thread(target=self._run, name=f"probe {self.shard}", daemon=True)
        self._thread.start()

    def watch(self) -> None:
        """Count gaps from now on."""
        self._watching = True

    def stop(self, seconds: float) -> None:
        """Stop writing; a gap that is still open ends here.

        Args:
            seconds: how long to wait for the present attempt. One that hangs longer is left to end by itself; whether
                it was acknowledged no longer counts.
        """
        self.stopping.set()
        if self._thread is not None:
            self._thread.join(seconds)
        self._end = time.monotonic() - self._begun

    def _run(self) -> None:
        due = time.monotonic()
        while not self.stopping.is_set():
            self._attempt()
            due = max(due + self._every, time.monotonic())
            self.stopping.wait(max(0.0, due - time.monotonic()))
        self._sender.close()

    def _attempt(self) -> None:
        sent = time.monotonic()
        try:
            self._set(self._acknowledged)
        except Exception as error:  # noqa: BLE001 - whatever the client library raises is what an application sees
            if not _redirects(error):
                self._errors[type(error).__name__] += 1
                self._unknown += _is_unknown(error)
            return
        now = time.monotonic()
        moment = now - self._begun
        if self._watching:
            self._longest.add(self._last, moment)
        self._series.add(moment, now - sent)
        self._last = moment
        self._acknowledged += 1
        if not self._pace or moment - self._pace[-1][0] >= 1:
            self._pace.append((moment, self._acknowledged))

    def _set(self, number: int) -> None:
        self._sender.send("SET", f"{self._prefix}{number}", number, "PX", TTL_SECONDS * 1000)

    def read_back(self, ctx: Context, found: Look, timeout: float) -> bool:
        """Look for what was acknowledged since the last time, and delete it.

        Returns:
            whether somebody answered for the shard in time.
        """
        until = self._acknowledged
        while self._checked < until:
            upto = min(until, self._checked + READ_AT_ONCE)
            keys = [f"{self._prefix}{number}" for number in range(self._checked, upto)]
            absent = missing(ctx, found, self.slot, keys, timeout=timeout)
            if absent is None:
                self.unread += until - self._checked
                self._checked = until
                return False
            old = self._run_out()
            expired = sum(self._checked + place < old for place in absent)
            self.unread += expired
            self.lost += len(absent) - expired
            self._checked = upto
        return True

    def _run_out(self) -> int:
        """Return the number below which keys may have run out of their time to live."""
        moment = time.monotonic() - self._begun - SURE_SECONDS
        if not self._pace or moment < self._pace[0][0]:
            return 0
        place = bisect.bisect_right(self._pace, moment, key=lambda entry: entry[0])
        return self._pace[place][1] if place < len(self._pace) else self._acknowledged

    def record(self) -> WriterRecord:
        """Return what it saw."""
        gaps = self._longest.gaps()
        if self._watching and self._end > self._last:
            gaps = tuple(sorted((*gaps, Gap(self._last, self._end, ended=False)), key=lambda gap: -gap.seconds))
        return WriterRecord(
            shard=self.shard, client=self._sender.name, acknowledged=self._checked, lost=self.lost,
            unread=self.unread, unknown=self._unknown, errors=dict(self._errors), gaps=gaps,
            points=self._series.points(),
        )  # fmt: skip


def _redirects(error: Exception) -> bool:
    from redis.exceptions import MovedError

    return isinstance(error, MovedError)


def _is_unknown(error: Exception) -> bool:
    """Tell whether the server may have done what it never answered; a connection that was not made did nothing."""
    from redis import exceptions

    if isinstance(error, exceptions.BusyLoadingError | exceptions.AuthenticationError):
        return False
    lost = isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError)
    return lost and "connecting to" not in str(error)
