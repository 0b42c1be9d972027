"""Keep a collection's chunk counts right from the few documents of config.chunks that changed.

A changed chunk says where it is now, not where it was. What was is derived only where the versions prove it, by what
the config server writes (reference §3.3, S44):

* a migration raises the major version by one: the moved chunk gets minor 0, and one *control chunk* that stays on the
  donor minor 1. So a visible pair names its donor;
* ``history`` names the shard before the current one, but from 4.4 on only while that entry is younger than the history
  window (10 s on 4.4: in the recorded moves it is gone), so it is used when present and never needed;
* splits, merges and a cleared jumbo flag write versions too, or change how many chunks there are.

Whatever else is seen means: count anew. A test proves against full counts that no third case exists but one: a chunk
that is split, merged again *and* cleared of its jumbo flag by hand between two looks has the marks of one that came to
its shard. The display is then off by one chunk until the next full count, and what ends the watch is a full count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Version = tuple[int, int]
# Names of new chunks carry the config primary's clock, the time of a count mongos'; NTP keeps them closer than this.
CLOCK_MARGIN = timedelta(seconds=60)


@dataclass(frozen=True)
class Changed:
    """A chunk document whose version is newer than the last one seen.

    Args:
        version: major and minor.
        shard: where the chunk is.
        since: the cluster time (seconds, ordinal) at which it came there; (0, 0) where unknown.
        before: the shard before, empty where ``history`` has forgotten it.
        created: when its ``_id`` was made; None where the ``_id`` does not say (legacy text ids).
    """

    version: Version
    shard: str
    since: Version = (0, 0)
    before: str = ""
    created: datetime | None = None


def parse_changed(documents: Iterable[Mapping[str, Any]]) -> tuple[Changed, ...]:
    """Understand documents of config.chunks."""
    found = []
    for document in documents:
        history = document.get("history") or [{}]
        found.append(
            Changed(
                version=pair(document["lastmod"]),
                shard=str(document["shard"]),
                since=pair(history[0].get("validAfter")) or (0, 0),
                before=str(history[1]["shard"]) if len(history) > 1 else "",
                created=getattr(document.get("_id"), "generation_time", None),
            )
        )
    return tuple(found)


def pair(stamp: Any) -> Version:
    """Return a BSON timestamp as two numbers, which is how a chunk's version is stored: major and minor."""
    return (int(stamp.time), int(stamp.inc)) if stamp is not None else (0, 0)


@dataclass(frozen=True)
class ChunkCounts:
    """How many chunks each shard had at one version of the collection.

    Args:
        by_shard: every shard is named, those without chunks too.
        version: of the newest chunk counted in.
        counted: mongos' clock when all chunks were counted; None where it is not known.
        polled: the cluster time of the newest look; None where it is not known.
    """

    by_shard: Mapping[str, int]
    version: Version
    counted: datetime | None = None
    polled: Version | None = None

    @property
    def total(self) -> int:
        """All chunks."""
        return sum(self.by_shard.values())

    def apply(self, changed: Sequence[Changed], total: int, polled: Version | None = None) -> ChunkCounts | None:
        """Count in what changed since ``version``.

        Args:
            changed: every chunk document with a newer version.
            total: how many chunks the collection has now.
            polled: the cluster time of this look.

        Returns:
            the counts now; None when they can't be derived and all chunks have to be counted.
        """
        if not changed:  # splits, merges and moves all leave a newer version behind
            return replace(self, polled=polled)
        newest = max(each.version for each in changed)
        moved = [each for each in changed if each.version[1] == 0]
        controls = {each.version[0]: each for each in changed if each.version[1] == 1}
        donors = self._donors(changed, moved, controls, newest[0] - self.version[0])
        if total != self.total or donors is None:
            return None
        counts = dict(self.by_shard)
        for chunk, donor in zip(moved, donors, strict=True):
            counts[donor] = counts.get(donor, 0) - 1
            counts[chunk.shard] = counts.get(chunk.shard, 0) + 1
        if min(counts.values()) < 0:
            return None
        return replace(self, by_shard=counts, version=newest, polled=polled)

    def _donors(
        self, changed: Sequence[Changed], moved: Sequence[Changed], controls: Mapping[int, Changed], migrations: int
    ) -> list[str] | None:
        """Return where each moved chunk came from; None when moves alone do not explain all that changed."""
        # A minor above 1 or the old major is a split's or a merge's. A version less than migrations: some chunk moved
        # twice, or served as a control chunk after it had moved.
        only_moves = all(each.version[0] > self.version[0] and each.version[1] <= 1 for each in changed)
        if not only_moves or len(moved) != migrations:
            return None
        # One migration hides at most two documents of a split or merge, all of its own donor, which the total tells.
        # More of them can hide a split on one shard and a merge on another: unless every chunk was there before.
        if migrations > 1 and not all(self._was_there(each) for each in changed):
            return None
        donors = [self._donor(each, controls.get(each.version[0])) for each in moved]
        return [donor for donor in donors if donor] if all(donors) else None

    def _was_there(self, chunk: Changed) -> bool:
        known = chunk.created is not None and self.counted is not None
        return known and chunk.created < self.counted - CLOCK_MARGIN  # type: ignore[operator]

    def _donor(self, chunk: Changed, control: Changed | None) -> str:
        if control is not None:
            return control.shard if control.shard != chunk.shard else ""
        # clearJumboFlag gives minor 0 too and moves nothing; a moved chunk has come to its shard since the last look.
        if self.polled is None or chunk.since <= self.polled:
            return ""
        possible = [shard for shard, count in self.by_shard.items() if count and shard != chunk.shard]
        return chunk.before or (possible[0] if len(possible) == 1 else "")
