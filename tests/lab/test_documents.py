"""The documents of the lab: the same on every machine, and like the real ones where it matters."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from datetime import datetime, timedelta

from bson import encode

from credscale.lab.documents import make_documents

COUNT = 2000


def test_same_documents_every_time() -> None:
    first, second = ([encode(document) for document in make_documents(COUNT)] for _ in range(2))
    assert first == second


def test_bytes_never_change() -> None:
    # Recorded baselines and screenshots refer to these documents: a change here is a change for every reader of them.
    whole = hashlib.sha256(b"".join(encode(document) for document in make_documents(100)))
    assert whole.hexdigest() == "eac58761304428472a0a5192eca7c9a54f5d40aeaf07fadc801368ac867a2101"


def test_another_seed_gives_other_documents() -> None:
    assert next(make_documents(1)) != next(make_documents(1, seed=7))


def test_size_is_about_a_kilobyte() -> None:
    sizes = [len(encode(document)) for document in make_documents(COUNT)]
    assert 800 < sum(sizes) / COUNT < 1200
    assert max(sizes) < 2000


def test_ids_are_unique_and_ascending() -> None:
    ids = [document["_id"] for document in make_documents(COUNT)]
    assert ids == sorted(set(ids))


def test_created_at_increases_strictly_in_milliseconds() -> None:
    moments: list[datetime] = [document["createdAt"] for document in make_documents(COUNT)]
    assert all(earlier < later for earlier, later in itertools.pairwise(moments))
    assert all(moment.microsecond % 1000 == 0 for moment in moments)
    assert moments[-1] - moments[0] > timedelta(hours=10)


def test_id_carries_the_second_of_creation() -> None:
    for document in make_documents(50):
        assert document["_id"].generation_time == document["createdAt"].replace(microsecond=0)


def test_some_users_own_much_and_none_owns_most() -> None:
    owners = Counter(document["userId"] for document in make_documents(COUNT))
    assert len(owners) > 50
    assert 2 * COUNT / len(owners) < owners.most_common(1)[0][1] < COUNT / 4


def test_values_have_the_types_that_real_ones_have() -> None:
    documents = list(make_documents(COUNT))
    assert all(isinstance(document["credibilityScore"], float) for document in documents)
    assert all(isinstance(document["processingMs"], int) for document in documents)
    assert all(isinstance(value, bool) for document in documents for value in document["flags"].values())
    assert {type(document["reviewer"]) for document in documents} == {str, type(None)}
    assert {len(document["sources"]) for document in documents} == {0, 1, 2, 3}
    assert any(not document["tags"] for document in documents)


def test_no_documents() -> None:
    assert list(make_documents(0)) == []
