"""A write that a migration dropped is a loss, also where the document is as it was in the backup; a writer's is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import Timestamp

from credscale.mongo.documents.digest import Difference, DocumentId, document_id
from credscale.mongo.documents.effects import UNKNOWN, Effect, of_insert, of_update
from credscale.mongo.documents.oplog import Operation
from credscale.mongo.proof.explanation import Explained, Times, explain
from credscale.mongo.proof.histories import Histories

if TYPE_CHECKING:
    from collections.abc import Iterable

Document = dict[str, Any]
OLD: Document = {"_id": 1, "v": 0, "text": "x"}
A = document_id(bson.encode(OLD))
CHANGED, ADDED, MISSING = Difference(changed=(A,)), Difference(added=(A,)), Difference(missing=(A,))


def ts(time: int) -> Timestamp:
    return Timestamp(time, 1)


def wrote(time: int, op: str, content: Document | None = None, shard: str = "s1") -> Operation:
    effect = UNKNOWN
    if content is not None:
        effect = (of_insert if op == "i" else of_update)(bson.encode(content))
    return Operation(A, op, ts(time), shard, effect)


def to(value: int, time: int, shard: str = "s1") -> Operation:
    return wrote(time, "u", {"$v": 2, "diff": {"u": {"v": value}}}, shard)


def judge(
    difference: Difference,
    operations: Iterable[Operation],
    now: Document | None,
    later: Iterable[Operation] | None = None,
    reached: int = 20,
) -> Explained:
    """Explain with a baseline complete at 5 and a scan that began at 15."""
    copies = {} if now is None else {A: [bson.encode(now)]}
    again = None if later is None else lambda ids: [each for each in later if each.id in ids]
    return explain(difference, operations, lambda _: copies, Times(ts(5), ts(15), ts(reached)), again)


def test_an_update_that_is_not_there_is_a_loss_though_nothing_differs() -> None:
    found = judge(Difference(), [to(7, 10)], OLD)
    assert (found.lost_updates, found.clean) == ((A,), False)


def test_a_value_that_was_set_back_is_none_and_is_told() -> None:
    found = judge(Difference(), [to(7, 10), to(0, 11)], OLD)
    assert (found.clean, found.equal_again, found.equal_unknown) == (True, 1, 0)
    unknown = judge(Difference(), [wrote(10, "u")], OLD)
    assert (unknown.clean, unknown.equal_again, unknown.equal_unknown) == (True, 1, 1)


def test_a_write_after_the_scan_or_within_the_backup_is_not_equal_again() -> None:
    assert judge(Difference(), [to(7, 17)], OLD | {"v": 7}).equal_again == 0
    assert judge(Difference(), [to(7, 4)], OLD | {"v": 7}).equal_again == 0


@pytest.mark.parametrize(
    ("operations", "now"),
    [
        ([to(1, 10), to(2, 11)], OLD | {"v": 1}),
        ([wrote(10, "u", {"$v": 1, "$set": {"v": 2}})], OLD | {"text": "y"}),
        ([wrote(10, "u", {"_id": 1, "v": 3})], {"_id": 1, "v": 2}),
        ([wrote(10, "d"), wrote(11, "i", {"_id": 1})], OLD | {"v": 1}),
        ([to(2, 9, "s1"), to(3, 12, "s2")], OLD | {"v": 2}),
    ],
)
def test_another_content_than_the_last_write_left_is_a_loss(operations: list[Operation], now: Document) -> None:
    found = judge(CHANGED, operations, now)
    assert (found.lost_updates, found.unexpected_changed, found.concurrent.updated) == ((A,), (), ())


def test_an_inserted_document_without_its_last_update_is_a_loss() -> None:
    operations = [wrote(10, "i", OLD), to(7, 11)]
    assert judge(ADDED, operations, OLD).lost_updates == (A,)
    assert judge(ADDED, operations, OLD).unexpected_added == ()
    whole = judge(ADDED, [wrote(10, "i", OLD)], OLD)
    assert (whole.clean, whole.partly) == (True, 0)
    partly = judge(ADDED, operations, OLD | {"v": 7})
    assert (partly.clean, partly.partly) == (True, 1)


def test_shards_are_read_one_after_the_other_but_times_count() -> None:
    """The document went from s2 to s1 and back; the oplog of s1 is read first."""
    operations = [to(2, 10, "s1"), to(1, 8, "s2"), to(3, 12, "s2")]
    assert judge(CHANGED, operations, OLD | {"v": 3}).clean
    assert judge(CHANGED, operations, OLD | {"v": 2}).lost_updates == (A,)


@pytest.mark.parametrize("order", [1, -1])
def test_a_changed_shard_key_moves_the_document_in_one_transaction(order: int) -> None:
    moved = [to(4, 9, "s1"), wrote(10, "d", shard="s1"), wrote(10, "i", OLD | {"v": 5}, shard="s2")]
    assert judge(CHANGED, moved[::order] if order > 0 else [moved[2], *moved[:2]], OLD | {"v": 5}).clean
    back = [*moved, wrote(11, "d", shard="s2"), wrote(11, "i", OLD | {"v": 6}, shard="s1")]
    assert judge(CHANGED, back, OLD | {"v": 6}).clean
    assert judge(CHANGED, back, OLD | {"v": 5}).lost_updates == (A,)


def test_a_document_written_all_the_time_is_no_loss() -> None:
    """Between the oplogs and the look-up it was written again, and once more before the oplogs were read again."""
    first = [to(1, 10), to(2, 19)]
    later = [*first, to(3, 21), to(4, 22), wrote(23, "d"), wrote(24, "i", OLD | {"v": 5})]
    for now in (OLD | {"v": 2}, OLD | {"v": 3}, OLD | {"v": 4}, None, OLD | {"v": 5}):
        assert judge(CHANGED, first, now, later).clean
    assert judge(CHANGED, first, OLD | {"v": 1}, later).lost_updates == (A,)
    assert judge(CHANGED, first, OLD | {"v": 9}, later).lost_updates == (A,)


def test_a_document_deleted_and_inserted_all_the_time_is_no_loss() -> None:
    first = [wrote(time, "d" if time % 2 else "i", None if time % 2 else OLD) for time in range(9, 20)]
    later = [*first, wrote(20, "i", OLD), wrote(21, "d"), wrote(22, "i", OLD)]
    for now in (OLD, None):
        assert judge(Difference(), first, now, later, reached=19).clean
        assert judge(MISSING, first, now, later, reached=19).clean
    gone = judge(Difference(), [wrote(9, "d"), wrote(10, "i", OLD)], None, [wrote(9, "d"), wrote(10, "i", OLD)])
    assert gone.lost_inserts == (A,)


def test_an_insert_and_an_update_in_one_transaction_are_looked_up() -> None:
    """Together they have one time; the document was not in the baseline, and the scan did not see it."""
    assert judge(Difference(), [wrote(10, "i"), wrote(10, "u")], None).lost_inserts == (A,)


def test_histories_keep_what_they_were_given() -> None:
    effect = Effect(b"w" * 16, (((b"a", b"b"), None), ((b"c",), b""), ((b"d",), b"h" * 16)))
    other = DocumentId(b"\x10\x02\x00\x00\x00", 2)
    high = Timestamp(2**32 - 1, 2**32 - 1)
    operations = [Operation(other, "u", high, "s1", effect), wrote(3, "i", OLD), wrote(4, "d")]
    with Histories(operations) as histories:
        first, second = histories.outcomes()
    assert (first.id, first.first, first.first_ts, first.last_ts) == (A, "i", ts(3), ts(4))
    assert first.kinds == {"i", "d"}
    assert (second.id, second.id.value, second.last_ts) == (other, 2, high)
    assert second.state.whole == effect.whole
