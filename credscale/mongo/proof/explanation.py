"""A difference between backup and present, divided into what users' writes explain and what they do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from credscale.mongo.proof.histories import Histories

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from bson import Timestamp

    from credscale.mongo.documents.digest import Difference, DocumentId
    from credscale.mongo.documents.oplog import Operation
    from credscale.mongo.proof.histories import Outcome

    # Given ids, returns the raw documents that have them now, read at majority; ids that nobody has may be left out.
    Read = Callable[[set[DocumentId]], Mapping[DocumentId, Sequence[bytes]]]

LOOKED_UP = 100


@dataclass(frozen=True)
class Concurrent:
    """The differences that users' own writes explain."""

    inserted: tuple[DocumentId, ...] = ()
    updated: tuple[DocumentId, ...] = ()
    deleted: tuple[DocumentId, ...] = ()


@dataclass(frozen=True)
class Explained:
    """A difference, divided into what users did and what nobody did.

    Args:
        concurrent: users did it.
        lost: in the baseline, gone now, and nobody deleted them.
        unexpected_added: not in the baseline, here now, and nobody inserted them, or they were deleted.
        unexpected_changed: other content, and nobody wrote them.
        duplicated: in more copies than before.
        lost_inserts: written since the baseline, gone now, and nobody deleted them. No difference shows these.
        lost_updates: here, and not as the last writes left them; also where they equal the baseline again.
        lost_deletes: deleted since the baseline and here all the same.
        partly: how many of the written that differ have a content of which the oplogs tell only what was set.
        equal_again: how many were written since the baseline and equal it all the same.
        equal_unknown: for how many of these the oplogs tell nothing of what was written.
    """

    concurrent: Concurrent = field(default_factory=Concurrent)
    lost: tuple[DocumentId, ...] = ()
    unexpected_added: tuple[DocumentId, ...] = ()
    unexpected_changed: tuple[DocumentId, ...] = ()
    duplicated: tuple[DocumentId, ...] = ()
    lost_inserts: tuple[DocumentId, ...] = ()
    lost_updates: tuple[DocumentId, ...] = ()
    lost_deletes: tuple[DocumentId, ...] = ()
    partly: int = field(default=0, compare=False)
    equal_again: int = field(default=0, compare=False)
    equal_unknown: int = field(default=0, compare=False)

    @property
    def clean(self) -> bool:
        """Return whether users' writes explain everything."""
        return not (
            self.lost
            or self.unexpected_added
            or self.unexpected_changed
            or self.duplicated
            or self.lost_inserts
            or self.lost_updates
            or self.lost_deletes
        )


@dataclass(frozen=True)
class Times:
    """Which moments the parts of a comparison are of; None where it is not known.

    Args:
        complete: the baseline had read everything, so that a document first written later was in it exactly if that
            write was no insert; None: every written document is looked up.
        scanned: the scan of the present began, so that what was written before was seen by it.
        reached: the operations given hold everything up to here. Writers go on between the reading of the oplogs and a
            look-up, so what a document was at any time since then may be what the look-up saw.
    """

    complete: Timestamp | None = None
    scanned: Timestamp | None = None
    reached: Timestamp | None = None


def explain(
    difference: Difference,
    operations: Iterable[Operation],
    read: Read,
    times: Times = Times(),
    again: Callable[[Mapping[DocumentId, Sequence[bytes]]], Iterable[Operation]] | None = None,
) -> Explained:
    """Divide a difference into users' writes and the rest.

    Invariant: an id of the difference is explained only by an operation on that very id. One that the last operation
    deleted is never explained as being here now, one that it wrote not as being gone, and none as being here with
    another content than the last operations say.

    A scan is no point in time: a document deleted after the scan passed it, or inserted again, contradicts its last
    operation. Such an id is looked up as it is now, and so is every one of whose content the oplogs tell something.
    What contradicts then is asked for in the oplogs once more: a writer may have been between.

    Args:
        difference: baseline against the present.
        operations: of all shards since the baseline began, each shard's in its order.
        read: looks documents up as they are now.
        times: which moments these are of.
        again: given the suspected ids with what the look-up saw of each, reads the operations on them again, up to
            after the look-up, without writes to orphans; None believes the operations as they are.
    """
    judged = _Judged(difference, times, read)
    with Histories(operations) as histories:
        judged.see(histories)
    if again is not None and times.reached is not None and judged.suspects:
        seen = {item: copies for item, (_, copies) in judged.suspects.items()}
        with Histories(again(seen)) as histories:
            judged.acquit(histories, times.reached)
    return judged.explained()


class _Judged:
    """What is known of the written documents; memory is for those of the difference and the suspects."""

    def __init__(self, difference: Difference, times: Times, read: Read) -> None:
        self._difference, self._times, self._read = difference, times, read
        self._differing = {*difference.missing, *difference.added, *difference.changed, *difference.duplicated}
        self._outcomes: dict[DocumentId, Outcome] = {}
        self._equal = {True: 0, False: 0}  # written, yet equal: whether anything is known of what was written
        self.suspects: dict[DocumentId, tuple[Outcome, Sequence[bytes]]] = {}

    def see(self, histories: Histories) -> None:
        """Go through all written documents, and look up those about which the scan can have been wrong."""
        waiting: list[Outcome] = []
        for outcome in histories.outcomes():
            if outcome.id in self._differing:
                self._outcomes[outcome.id] = outcome
            if self._is_doubtful(outcome):
                waiting.append(outcome)
            elif self._is_equal_again(outcome):
                self._equal[False] += 1
            if len(waiting) == LOOKED_UP:
                self._look_up(waiting)
                waiting = []
        if waiting:
            self._look_up(waiting)

    def _look_up(self, outcomes: list[Outcome]) -> None:
        found = self._read({outcome.id for outcome in outcomes})
        for outcome in outcomes:
            copies = found.get(outcome.id, ())
            if not outcome.state.agrees(copies):
                self.suspects[outcome.id] = (outcome, copies)
            elif self._is_equal_again(outcome):
                self._equal[outcome.state.known] += 1

    def _is_doubtful(self, outcome: Outcome) -> bool:
        complete = self._times.complete
        # What is not in the difference was seen by the scan exactly if it was in the baseline.
        seen = outcome.first != "i"
        return (
            outcome.id in self._differing
            or complete is None
            or outcome.first_ts <= complete
            or seen != outcome.state.exists
            or outcome.state.known
        )

    def _is_equal_again(self, outcome: Outcome) -> bool:
        """Tell whether a document that was written after the baseline and before the scan looks as in the baseline."""
        complete, scanned = self._times.complete, self._times.scanned
        return (
            outcome.state.exists
            and outcome.id not in self._differing
            and (complete is None or outcome.last_ts > complete)
            and (scanned is None or outcome.last_ts < scanned)
        )

    def acquit(self, histories: Histories, since: Timestamp) -> None:
        """Clear those that were, at some time since then, as the look-up saw them, and those that nobody wrote."""
        for item, (_, copies) in list(self.suspects.items()):
            states = list(histories.states(item, since))
            if not states:  # the writes were to an orphan, and explain nothing of the document
                self._outcomes.pop(item, None)
            if not states or any(state.agrees(copies) for state in states):
                del self.suspects[item]

    def explained(self) -> Explained:
        """Return the verdict."""
        suspects = sorted(self.suspects.values(), key=lambda each: each[0].id.key)
        resurrected = {outcome.id for outcome, copies in suspects if not outcome.state.exists}
        vanished = {outcome.id for outcome, copies in suspects if not copies}
        outdated = self.suspects.keys() - resurrected - vanished
        here = resurrected | outdated
        difference = self._difference
        deleted = [item for item in difference.missing if self._did(item, "d") and item not in vanished | outdated]
        inserted = [item for item in difference.added if self._did(item, "iu") and item not in here]
        updated = [item for item in difference.changed if self._did(item, "iu") and item not in here]
        # Changing a shard key value moves a document by a delete and an insert; a scan can meet it on both shards.
        moved = [item for item in difference.duplicated if self._did(item, "d") and self._did(item, "i")]
        written = list(dict.fromkeys([*updated, *moved]))
        return Explained(
            concurrent=Concurrent(tuple(inserted), tuple(written), tuple(deleted)),
            lost=_without(difference.missing, [*deleted, *outdated]),
            unexpected_added=_without(difference.added, [*inserted, *outdated]),
            unexpected_changed=_without(difference.changed, [*updated, *outdated]),
            duplicated=_without(difference.duplicated, moved),
            lost_inserts=_without(_of(suspects, vanished), difference.missing),
            lost_updates=_of(suspects, outdated),
            lost_deletes=_without(_of(suspects, resurrected), [*difference.added, *difference.changed]),
            partly=sum(not self._outcomes[item].state.whole for item in dict.fromkeys([*inserted, *written])),
            equal_again=sum(self._equal.values()),
            equal_unknown=self._equal[False],
        )

    def _did(self, item: DocumentId, ops: str) -> bool:
        outcome = self._outcomes.get(item)
        return outcome is not None and outcome.did(ops)


def _of(suspects: Iterable[tuple[Outcome, Sequence[bytes]]], wanted: Collection[DocumentId]) -> tuple[DocumentId, ...]:
    return tuple(outcome.id for outcome, _ in suspects if outcome.id in wanted)


def _without(items: Iterable[DocumentId], explained: Iterable[DocumentId]) -> tuple[DocumentId, ...]:
    known = set(explained)
    return tuple(item for item in items if item not in known)
