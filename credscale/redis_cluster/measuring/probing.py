"""Probe clients that write to every shard while something happens to it, and then look for what was acknowledged."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Self

from credscale.core.errors import EnvironmentInvalid
from credscale.redis_cluster.cluster.nodes import primaries, replicas_of
from credscale.redis_cluster.cluster.slots import tag_in
from credscale.redis_cluster.cluster.views import look
from credscale.redis_cluster.measuring.measurement import Mark, Measurement
from credscale.redis_cluster.measuring.senders import Direct, application, places_of
from credscale.redis_cluster.measuring.writer import PREFIX, TTL_SECONDS, Writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import Look

RATE = 200  # writes per second of each writer
MOST_RATE = 1000
CLIENTS = 2  # per shard: a plain connection and an application's
MOST_IN_ALL = 3000  # of all writers: this process has one interpreter
AGREE_SECONDS = 20.0
STOP_SECONDS = 3.0  # longer than one attempt; redis-py's cluster client may be in the middle of several


class Writers:
    """Write to shards from ``with`` on, until ``finish`` or the end of the block.

    Two writers for each shard: a plain connection to its owner, and an application's cluster client. In a dry run
    nothing is written, and the measurement is empty.

    Args:
        ctx: the run; beginning is a change, so this is for steps only.
        found: a look at the cluster before the event.
        shards: ids of the primaries to write to; empty for all.
        rate: writes per second of each writer, from 1 to 1000.

    Raises:
        EnvironmentInvalid: a rate that is out of bounds.
    """

    def __init__(self, ctx: Context, found: Look, *, shards: Sequence[str] = (), rate: int = RATE) -> None:
        if not 1 <= rate <= MOST_RATE:
            raise EnvironmentInvalid(f"--rate is from 1 to {MOST_RATE} writes per second, not {rate}")
        self._ctx, self._found = ctx, found
        self._shards = [node for node in primaries(found.topology) if not shards or node.id in shards]
        self._rate = min(rate, MOST_IN_ALL // max(1, CLIENTS * len(self._shards)))
        self._run = secrets.token_hex(4)
        self._marks: list[Mark] = []
        self._writers: list[Writer] = []
        self._begun = 0.0

    def __enter__(self) -> Self:
        """Begin to write.

        Raises:
            PreconditionFailed: a primary answers, but does not let us write.
        """
        names = ", ".join(self._found.name(node.id) for node in self._shards)
        self._ctx.apply(
            f"write probe keys {PREFIX}:* to {names}, read them back and delete them: {self._rate} a second from each "
            f"of two clients per shard; they expire after {TTL_SECONDS} s",
            self._begin,
        )
        return self

    def _begin(self) -> None:
        places = places_of(self._found)
        startup = [node.place for node in self._found.answering]
        for node in self._shards:
            name, tag = self._found.name(node.id), tag_in(node.slots)
            direct = Direct(self._connect, self._members(node, places), places)
            self._writers.append(Writer(name, tag, self._run, direct))
            self._writers[-1].try_once()
            self._writers.append(Writer(name, tag, self._run, application(self._ctx, startup, places)))
        self._begun = time.monotonic()
        for writer in self._writers:
            writer.start(self._begun, 1 / self._rate)

    def _connect(self, address: str, seconds: float) -> Redis:
        return self._ctx.clients.redis_node(address, timeout=seconds)

    def _members(self, node: Node, places: Mapping[tuple[str, int], str]) -> list[str]:
        """Return where the nodes of a shard are reached; a replica that lost its address (noaddr) is nowhere."""
        members = [node, *replicas_of(self._found.topology, node.id)]
        return [places[each.host, each.port] for each in members if (each.host, each.port) in places]

    def mark(self, event: str, where: str) -> None:
        """Keep a moment of the timeline; from the first one on gaps are counted.

        Args:
            event: what happens, such as ``killed``; the time from ``asked`` to ``flipped`` of a place is a role flip.
            where: whom it happens to.
        """
        for writer in self._writers if not self._marks else ():
            writer.watch()
        if self._writers:
            self._marks.append(Mark(time.monotonic() - self._begun, event, where))

    @property
    def seconds(self) -> float:
        """How long it has been writing; the clock of the marks and gaps."""
        return time.monotonic() - self._begun if self._writers else 0.0

    def settle(self, seconds: float) -> None:
        """Keep writing for some time."""
        if self._writers:
            time.sleep(seconds)

    def read_back(self, timeout: float = AGREE_SECONDS) -> int:
        """Look for all that was acknowledged since the last time, and delete it; the writers go on.

        Called now and then it finds what was lost before the keys' time to live has passed.

        Args:
            timeout: seconds in which the nodes must agree who owns a shard, and it must answer.

        Returns:
            how many acknowledged writes have been lost so far.
        """
        silent: set[int] = set()
        found = look(self._ctx, links=False) if self._writers else self._found
        for writer in self._writers:
            patience = 0.0 if writer.slot in silent else timeout
            if not writer.read_back(self._ctx, found, patience):
                silent.add(writer.slot)
        return sum(writer.lost for writer in self._writers)

    @property
    def unread(self) -> int:
        """How many acknowledged writes could not be looked for so far."""
        return sum(writer.unread for writer in self._writers)

    def finish(self, timeout: float = AGREE_SECONDS) -> Measurement:
        """Stop writing, look for every acknowledged write at the present owners, delete the probe's keys.

        Args:
            timeout: as for ``read_back``.

        Returns:
            what the clients saw, with all counts of the whole time.
        """
        seconds = self.seconds
        self._stop()
        self.read_back(timeout)
        found = Measurement(tuple(writer.record() for writer in self._writers), tuple(self._marks), seconds)
        self._writers = []
        return found

    def _stop(self) -> None:
        for writer in self._writers:
            writer.stopping.set()
        deadline = time.monotonic() + STOP_SECONDS
        for writer in self._writers:
            writer.stop(max(0.0, deadline - time.monotonic()))

    def __exit__(self, *_: object) -> None:
        """Stop; without ``finish`` the keys are left to expire."""
        self._stop()
