"""The digest sees every single difference and says in which bucket it is."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.core.errors import VerificationFailed
from credscale.mongo.documents.digest import (
    BUCKETS,
    Difference,
    Digest,
    bucket_of,
    compare,
    digest_documents,
    document_hashes,
    document_id,
    id_key,
    id_value,
)

if TYPE_CHECKING:
    import random

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.integers(-(2**31), 2**31 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.binary(min_size=12, max_size=12).map(ObjectId),
)
DOCUMENTS = st.lists(
    st.fixed_dictionaries({"_id": SCALARS, "score": SCALARS, "tags": st.lists(SCALARS, max_size=3)}).map(bson.encode),
    min_size=2,
    max_size=20,
    unique_by=id_key,
)
EVERY_TYPE: list[Any] = [
    1.5,
    "text",
    {"b": 1, "a": {"c": [1]}},
    Binary(b"\x00\x01", 0),
    Binary.from_uuid(uuid.UUID(int=7)),
    ObjectId(),
    True,
    dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
    None,
    7,
    Int64(7),
    Timestamp(3, 4),
    Decimal128("1.10"),
    MinKey(),
    MaxKey(),
    Code("f()"),
    Code("f()", {"x": 1}),
]


def all_ids(raws: list[bytes]) -> dict[bytes, bytes]:
    return document_hashes(raws, range(BUCKETS))


@settings(deadline=None)
@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_order_does_not_matter(raws: list[bytes], rng: random.Random) -> None:
    shuffled = raws.copy()
    rng.shuffle(shuffled)
    assert digest_documents(shuffled) == digest_documents(raws)


@settings(deadline=None)
@given(DOCUMENTS, st.data())
def test_a_changed_byte_is_found_and_located(raws: list[bytes], data: st.DataObject) -> None:
    victim = data.draw(st.integers(0, len(raws) - 1))
    document = bson.decode(raws[victim])
    changed = raws.copy()
    changed[victim] = bson.encode({**document, "score": [document["score"]]})
    buckets = digest_documents(raws).differing(digest_documents(changed))
    assert buckets == [bucket_of(id_key(raws[victim]))]
    found = compare(document_hashes(raws, buckets), document_hashes(changed, buckets))
    assert found == Difference(changed=(document_id(raws[victim]),))


@settings(deadline=None)
@given(DOCUMENTS, st.data())
def test_a_lost_and_an_added_document_are_found(raws: list[bytes], data: st.DataObject) -> None:
    victim = data.draw(st.integers(0, len(raws) - 1))
    fewer = raws[:victim] + raws[victim + 1 :]
    whole, part = digest_documents(raws), digest_documents(fewer)
    assert whole.differing(part) == part.differing(whole) == [bucket_of(id_key(raws[victim]))]
    assert compare(all_ids(raws), all_ids(fewer)) == Difference(missing=(document_id(raws[victim]),))
    assert compare(all_ids(fewer), all_ids(raws)) == Difference(added=(document_id(raws[victim]),))


@settings(deadline=None)
@given(DOCUMENTS, st.data(), st.integers(1, 3))
def test_a_duplicate_is_found(raws: list[bytes], data: st.DataObject, copies: int) -> None:
    # An even number of copies leaves the xor as it was.
    victim = data.draw(st.sampled_from(raws))
    more = raws + [victim] * copies
    buckets = digest_documents(raws).differing(digest_documents(more))
    assert buckets == [bucket_of(id_key(victim))]
    found = compare(document_hashes(raws, buckets), document_hashes(more, buckets))
    assert found == Difference(duplicated=(document_id(victim),))
    assert compare(all_ids(more), all_ids(raws)) == Difference(missing=(document_id(victim),))


@settings(deadline=None)
@given(DOCUMENTS)
def test_swapped_contents_are_found(raws: list[bytes]) -> None:
    first, second = bson.decode(raws[0]), bson.decode(raws[1])
    first["score"], second["score"] = "one", "two"
    before = [bson.encode(first), bson.encode(second), *raws[2:]]
    first["score"], second["score"] = second["score"], first["score"]
    after = [bson.encode(first), bson.encode(second), *raws[2:]]
    ids = [document_id(raw) for raw in before[:2]]
    buckets = digest_documents(before).differing(digest_documents(after))
    assert buckets == sorted({bucket_of(item.key) for item in ids})
    assert set(compare(all_ids(before), all_ids(after)).changed) == set(ids)


@settings(deadline=None)
@given(DOCUMENTS)
def test_equal_sets_do_not_differ(raws: list[bytes]) -> None:
    assert not compare(all_ids(raws), all_ids(list(reversed(raws))))


@settings(deadline=None)
@given(DOCUMENTS)
def test_json_round_trip(raws: list[bytes]) -> None:
    digest = digest_documents(raws)
    assert Digest.from_json(digest.to_json()) == digest


def test_an_edited_digest_is_refused() -> None:
    stored = digest_documents([bson.encode({"_id": 1})]).to_json()
    with pytest.raises(VerificationFailed, match="contradicts itself"):
        Digest.from_json({**stored, "documents": 2})
    with pytest.raises(VerificationFailed, match="md5"):
        Digest.from_json({**stored, "algorithm": "md5"})


@pytest.mark.parametrize("value", EVERY_TYPE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("position", ["first", "last"])
def test_id_of_every_type_is_read_without_decoding(value: Any, position: str) -> None:
    rest = {str(n): item for n, item in enumerate([*EVERY_TYPE, Regex("a.*", "i"), {"_id": "inner"}, [1, 2]])}
    document = {"_id": value, **rest} if position == "first" else {**rest, "_id": value}
    key = id_key(bson.encode(document))
    alone = bson.encode({"_id": value})
    assert key == alone[4:5] + alone[9:-1]
    assert bson.encode({"_id": id_value(key)}) == alone


def test_numbers_of_different_types_are_different_ids() -> None:
    keys = {id_key(bson.encode({"_id": value})) for value in (1, Int64(1), 1.0, True)}
    assert len(keys) == 4


@pytest.mark.parametrize(
    "raw",
    [
        bson.encode({}),
        bson.encode({"id": 1, "inner": {"_id": 1}}),
        b"\x10\x00\x00\x00\x02_id\x00\xff\xff\xff\x7fa\x00\x00",  # a string longer than its document
        b"\x0a\x00\x00\x00\x55_id\x00\x00",  # no such type
        b"\x08\x00\x00\x00\x10ab",  # a name without an end
    ],
)
def test_a_document_without_a_readable_id_is_an_error(raw: bytes) -> None:
    with pytest.raises(VerificationFailed):
        id_key(raw)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_never_raises_anything_else(garbage: bytes) -> None:
    try:
        key = id_key((len(garbage) + 5).to_bytes(4, "little") + garbage + b"\0")
    except VerificationFailed:
        return
    assert key


def test_two_versions_of_one_id_are_told_from_a_change() -> None:
    one, two = bson.encode({"_id": 1, "v": 1}), bson.encode({"_id": 1, "v": 2})
    item = (document_id(one),)
    assert compare(all_ids([one]), all_ids([one, two])) == Difference(duplicated=item)
    assert compare(all_ids([one, two]), all_ids([two])) == Difference(missing=item)
    assert compare(all_ids([one, two]), all_ids([two, two])) == Difference(changed=item)
    assert not compare(all_ids([one, two]), all_ids([two, one]))
    assert compare(all_ids([]), all_ids([one, one])) == Difference(added=item, duplicated=item)


def test_progress_counts_documents_and_bytes() -> None:
    raws = [bson.encode({"_id": n}) for n in range(2500)]
    seen: list[tuple[int, int]] = []
    digest_documents(raws, lambda documents, size: seen.append((documents, size)))
    each = len(raws[0])
    assert seen == [(1000, 1000 * each), (2000, 2000 * each), (2500, 2500 * each)]


def test_fingerprint_is_pinned() -> None:
    # Stored baselines are compared across versions of this tool.
    assert digest_documents(bson.encode({"_id": n, "v": "x"}) for n in range(100)).fingerprint == "f5981823184503bd"
