"""Server bugs that matter when a collection is sharded and its chunks move (reference §8.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NEWEST = (10_000,)  # stands for a fix that is not out, or in no release known here
UNIQUE_COLLATION = "alert of 2026-05"


@dataclass(frozen=True)
class KnownBug:
    """A server bug: versions from (inclusive) to (exclusive) of one line.

    Args:
        ticket: in MongoDB's JIRA.
        first: the first version that has it.
        fixed: the first that has not.
        effect: what happens.
        severity: ``stop`` where data of this operation can be lost; ``note`` where it depends on what can't be seen.
        confirmed: whether ``fixed`` is known to be the patch that mends it; else it is where the line ends.
    """

    ticket: str
    first: tuple[int, ...]
    fixed: tuple[int, ...]
    effect: str
    severity: Literal["stop", "warn", "note"] = "warn"
    confirmed: bool = True

    @property
    def remedy(self) -> str:
        """What to do about it."""
        if self.fixed == NEWEST:
            return "no release is known to be without it"
        if not self.confirmed:
            line = ".".join(str(part) for part in self.first[:2])
            return f"bring it to the newest patch of {line}: which one mends it is not confirmed"
        return f"upgrade to {'.'.join(str(part) for part in self.fixed)}"


_PREPARED = "a migration can lose writes of prepared transactions"
_SKIPPED = "a migration can miss writes among transactions"
# JIRA names 4.4 and 5.0 as affected and the fix as backported; in which patch is not confirmed, so it only warns.
_SKIPPED_EARLIER = f"{_SKIPPED} (the patch that mends this line is not confirmed)"
_SHARD_KEY = "a migration can miss what a transaction writes that changes a document's shard key"
_HASHED_COLLATION = "queries and writes with a non-simple collation miss documents under a hashed shard key"
_FILTERED = "queries with a non-simple collation on a prefix of the shard key can lose documents or show them twice"
_COLLATION = "a unique index with a non-simple collation is not enforced across shards"
_MULTI = "updateMany and deleteMany are not atomic with migrations: they can miss a document or hit it twice"

KNOWN_BUGS = (
    KnownBug("WT-7995", (4, 4, 2), (4, 4, 9), "data loss after an unclean shutdown", "stop"),
    KnownBug("WT-7984", (4, 4, 8), (4, 4, 9), "an inconsistent checkpoint can lose data", "stop"),
    KnownBug("SERVER-71219", (4, 4, 0), (4, 4, 19), _PREPARED, "stop"),
    KnownBug("SERVER-71219", (5, 0, 0), (5, 0, 15), _PREPARED, "stop"),
    KnownBug("SERVER-71219", (6, 0, 0), (6, 0, 5), _PREPARED, "stop"),
    KnownBug("SERVER-71219", (6, 1, 0), (6, 3, 0), _PREPARED, "stop"),  # 6.1 and 6.2 got no backport
    # Not in the changelog of 4.4.18; 4.2.24, of the same day as 4.4.19, has it.
    KnownBug("SERVER-68361", (4, 4, 0), (4, 4, 19), f"{_SHARD_KEY} (the patch that mends 4.4 is not confirmed)"),
    KnownBug("SERVER-68361", (5, 0, 0), (5, 0, 14), _SHARD_KEY, "stop"),
    KnownBug("SERVER-68361", (6, 0, 0), (6, 0, 4), _SHARD_KEY, "stop"),
    KnownBug("SERVER-68361", (6, 1, 0), (6, 1, 1), _SHARD_KEY, "stop"),
    KnownBug("SERVER-53335", (4, 4, 0), (4, 4, 11), _HASHED_COLLATION, "note"),
    KnownBug("SERVER-53335", (5, 0, 0), (5, 0, 4), _HASHED_COLLATION, "note"),
    KnownBug("SERVER-94315", (5, 0, 0), (5, 1), _FILTERED, "note", confirmed=False),
    KnownBug("SERVER-94315", (6, 0, 0), (6, 1), _FILTERED, "note", confirmed=False),
    KnownBug("SERVER-94315", (7, 0, 0), (7, 1), _FILTERED, "note", confirmed=False),
    KnownBug("SERVER-94315", (8, 0, 0), (8, 1), _FILTERED, "note", confirmed=False),
    KnownBug("SERVER-78414", (4, 4, 0), (4, 4, 23), _SKIPPED_EARLIER),
    KnownBug("SERVER-78414", (5, 0, 0), (5, 0, 19), _SKIPPED_EARLIER),
    KnownBug("SERVER-78414", (6, 0, 0), (6, 0, 8), _SKIPPED, "stop"),
    KnownBug("SERVER-80236", (4, 4, 0), (4, 4, 26), "a delete during the start of a migration can be missed"),
    KnownBug("SERVER-63203", (4, 4, 0), (4, 4, 13), "a chunk with more than 8192 split points never splits"),
    KnownBug("SERVER-62065", (4, 4, 0), (4, 4, 13), "clusters upgraded from 3.6 have chunks without history", "note"),
    KnownBug("SERVER-56127", (4, 4, 0), (4, 4, 17), "a retryable update can be executed twice after a migration"),
    KnownBug("SERVER-71759", (4, 4, 0), (4, 4, 19), "dataSize does not yield: never run it on big ranges", "note"),
    KnownBug("SERVER-68511", (5, 0, 0), (5, 0, 11), "movePrimary can leave inconsistent metadata"),
    KnownBug("SERVER-68511", (6, 0, 0), (6, 0, 1), "movePrimary can leave inconsistent metadata"),
    KnownBug("SERVER-70437", (4, 4, 0), (6, 3), "movePrimary loses writes: do not run it meanwhile", "note"),
    KnownBug("WT-8395", (4, 4, 8), (4, 4, 11), "corruption after an upgrade from 4.4.3 or 4.4.4"),
    KnownBug("WT-8395", (5, 0, 0), (5, 0, 6), "corruption after an upgrade from 4.4.3 or 4.4.4"),
    KnownBug("WT-10461", (4, 4, 0), (4, 4, 19), "inconsistent data on ARM64 and POWER"),
    KnownBug(UNIQUE_COLLATION, (5, 0, 0), (5, 0, 33), _COLLATION, "note"),
    KnownBug(UNIQUE_COLLATION, (6, 0, 0), (6, 0, 29), _COLLATION, "note"),
    KnownBug(UNIQUE_COLLATION, (7, 0, 0), (7, 0, 32), _COLLATION, "note"),
    KnownBug(UNIQUE_COLLATION, (8, 0, 0), (8, 0, 21), _COLLATION, "note"),
    KnownBug(UNIQUE_COLLATION, (8, 2, 0), (8, 2, 7), _COLLATION, "note"),
    KnownBug("SERVER-20361", (4, 4, 0), NEWEST, _MULTI, "note"),
)


def bugs_of(version: tuple[int, ...]) -> list[KnownBug]:
    """Return the known bugs of a version."""
    return [bug for bug in KNOWN_BUGS if bug.first <= version < bug.fixed]
