"""What an entry says of a document is believed exactly as far as it says it."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.mongo.documents.effects import UNKNOWN, State, of_insert, of_update

Document = dict[str, Any]
OLD: Document = {"_id": 1, "a": 1, "b": {"x": 1, "y": [1, 2, 3]}, "c": "text"}


def state(*entries: Document, inserted: Document | None = None) -> State:
    known = State(exists=True)
    if inserted is not None:
        known = known.then("i", of_insert(bson.encode(inserted)))
    for entry in entries:
        known = known.then("u", of_update(bson.encode(entry)))
    return known


# The updates of one document in their order, what it is then, and what it would be had the last one been lost.
UPDATES: list[tuple[str, list[Document], Document, Document]] = [
    ("replacement", [{"_id": 1, "a": 2}], {"_id": 1, "a": 2}, OLD),
    ("4.4 $set", [{"$v": 1, "$set": {"a": 2}}], OLD | {"a": 2}, OLD),
    ("4.4 nested $set", [{"$v": 1, "$set": {"b.x": 2}}], OLD | {"b": {"x": 2, "y": [1, 2, 3]}}, OLD),
    ("4.4 element", [{"$v": 1, "$set": {"b.y.1": 9}}], OLD | {"b": {"x": 1, "y": [1, 9, 3]}}, OLD),
    ("4.4 $unset", [{"$v": 1, "$unset": {"a": True}}], {k: v for k, v in OLD.items() if k != "a"}, OLD),
    ("a type", [{"$v": 1, "$set": {"a": 1.0}}], OLD | {"a": 1.0}, OLD),
    ("diff u", [{"$v": 2, "diff": {"u": {"a": 2}}}], OLD | {"a": 2}, OLD),
    ("diff i", [{"$v": 2, "diff": {"i": {"n": None}}}], OLD | {"n": None}, OLD),
    ("diff d", [{"$v": 2, "diff": {"d": {"c": False}}}], {k: v for k, v in OLD.items() if k != "c"}, OLD),
    ("diff nested", [{"$v": 2, "diff": {"sb": {"u": {"x": 2}}}}], OLD | {"b": {"x": 2, "y": [1, 2, 3]}}, OLD),
    (
        "diff array",
        [{"$v": 2, "diff": {"sb": {"sy": {"a": True, "l": 2, "u1": 9}}}}],
        OLD | {"b": {"x": 1, "y": [1, 9]}},
        OLD,
    ),
    (
        "an earlier one that was lost",
        [{"$v": 2, "diff": {"u": {"a": 2}}}, {"$v": 2, "diff": {"u": {"c": "new"}}}],
        OLD | {"a": 2, "c": "new"},
        OLD | {"c": "new"},
    ),
    (
        "back again",
        [{"$v": 2, "diff": {"u": {"a": 2}}}, {"$v": 2, "diff": {"u": {"a": 1}}}],
        OLD,
        OLD | {"a": 2},
    ),
]


@pytest.mark.parametrize(("entries", "now", "before"), [row[1:] for row in UPDATES], ids=[row[0] for row in UPDATES])
def test_the_document_that_a_write_left_and_one_that_lost_it(
    entries: list[Document], now: Document, before: Document
) -> None:
    known = state(*entries)
    assert known.known
    assert known.agrees([bson.encode(now)])
    assert not known.agrees([bson.encode(before)])
    assert known.agrees([bson.encode(before), bson.encode(now)])


@pytest.mark.parametrize(
    "entry",
    [
        {"$v": 1, "$unset": {"b.y.1": True}},  # an array's element becomes null
        {"$v": 2, "diff": {"b": {"x": 1}}},  # a section of which nothing is known
        {"$v": 3, "delta": {}},
        {},
    ],
)
def test_what_is_not_understood_contradicts_nothing(entry: Document) -> None:
    known = state(entry)
    assert not known.known
    assert known.agrees([bson.encode(OLD)])
    assert not known.agrees([])


def test_what_is_not_understood_forgets_what_was_known() -> None:
    assert not state({"$v": 2, "diff": {"u": {"a": 2}}}, {"unknown": 1}).known
    assert state({"$v": 2, "diff": {"u": {"b": 5}}}, {"$v": 1, "$set": {"b.x": 2}}).fields.keys() == {(b"b", b"x")}
    assert state({"$v": 1, "$set": {"b.x": 2}}, {"$v": 2, "diff": {"u": {"b": 5}}}).fields.keys() == {(b"b",)}


def test_a_deletion_and_an_insert_again() -> None:
    gone = state({"$v": 2, "diff": {"u": {"a": 2}}}).then("d", UNKNOWN)
    assert gone.agrees([])
    assert not gone.agrees([bson.encode(OLD)])
    again = gone.then("i", of_insert(bson.encode(OLD)))
    assert again.agrees([bson.encode(OLD)])
    assert not again.agrees([bson.encode(OLD | {"a": 2})])


FIELDS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["set", "replace", "diff"]), FIELDS), max_size=8))
def test_honest_writes_never_contradict_the_document(writes: list[tuple[str, dict[str, int]]]) -> None:
    document: Document = dict(OLD)
    known = State(exists=True)
    entry: Document
    for way, fields in writes:
        if way == "replace":
            document = entry = {"_id": 1, **fields}
        else:
            document = document | fields
            entry = {"$v": 1, "$set": fields} if way == "set" else {"$v": 2, "diff": {"u": fields}}
        known = known.then("u", of_update(bson.encode(entry)))
        assert known.agrees([bson.encode(document)])
