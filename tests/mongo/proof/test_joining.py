"""Two streams in the order of `_id` are compared in one pass; what is in another order is not guessed at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import Decimal128, Int64, ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.mongo.cluster.shard_key import sort_key
from credscale.mongo.documents.digest import BUCKETS, compare, document_hashes, hashed, id_key, id_value
from credscale.mongo.proof.joining import OutOfOrderError, difference

if TYPE_CHECKING:
    from collections.abc import Iterable

ALL = frozenset(range(BUCKETS))
IDS = st.one_of(
    st.integers(-5, 5),
    st.integers(-5, 5).map(Int64),
    st.integers(-5, 5).map(float),
    st.integers(-5, 5).map(lambda number: Decimal128(str(number))),
    st.text("ab", max_size=2),
    st.booleans(),
    st.none(),
    st.binary(max_size=2),
    st.integers(0, 3).map(lambda number: ObjectId(bytes(11) + bytes([number]))),
    st.dictionaries(st.sampled_from("xy"), st.integers(0, 2), max_size=2),
)
DOCUMENTS = st.lists(st.tuples(IDS, st.integers(0, 1)), max_size=12).map(
    lambda pairs: sorted((bson.encode({"_id": value, "v": v}) for value, v in pairs), key=order)
)


def order(raw: bytes) -> Any:
    return sort_key(id_value(id_key(raw)))


def kinds(found: Any) -> dict[str, set[bytes]]:
    return {kind: {item.key for item in getattr(found, kind)} for kind in ("missing", "added", "changed", "duplicated")}


@settings(deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_one_pass_finds_what_comparing_all_at_once_finds(before: list[bytes], after: list[bytes]) -> None:
    """Also where an `_id` comes several times, and where numbers are equal across types."""
    found = difference(hashed(before, ALL), hashed(after, ALL))
    assert kinds(found) == kinds(compare(document_hashes(before, ALL), document_hashes(after, ALL)))


def raws(*values: Any) -> Iterable[bytes]:
    return [bson.encode({"_id": value}) for value in values]


@pytest.mark.parametrize("values", [(2, 1), ("b", "a"), ("a", 1), (ObjectId(b"b" * 12), ObjectId(b"a" * 12))])
def test_another_order_is_refused(values: tuple[Any, ...]) -> None:
    for before, after in ((raws(*values), raws()), (raws(1), raws(*values))):
        with pytest.raises(OutOfOrderError):
            difference(hashed(before, ALL), hashed(after, ALL))


def test_only_the_wanted_buckets_count() -> None:
    documents = list(raws(*range(100)))
    wanted = frozenset(range(0, BUCKETS, 2))
    found = difference(hashed(documents, wanted), ())
    assert {item.key for item in found.missing} == set(document_hashes(documents, wanted))
    assert 0 < len(found.missing) < 100
