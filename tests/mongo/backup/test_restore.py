"""A restored backup has the documents, the options and the indexes; a sample of it is drawn from all of it."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.errors import VerificationFailed
from credscale.mongo.backup import dump as backup
from credscale.mongo.backup import dump_files
from credscale.mongo.backup.restore import (
    draw,
    index_specs,
    restore,
    restore_indexes,
    structure_differences,
)
from credscale.mongo.documents.digest import digest_documents
from credscale.mongo.documents.scan import scan_raw
from tests.mongo.backup.test_baseline import IDS
from tests.mongo.backup.test_dump import facts_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymongo import MongoClient
    from pymongo.collection import Collection

GERMAN = {"locale": "de", "strength": 2}
PRIMARY = {"v": 2, "key": {"_id": 1}, "name": "_id_"}


@given(st.integers(0, 60), st.integers(0, 70), st.integers())
def test_a_draw_has_the_wanted_size_and_keeps_the_order(total: int, wanted: int, seed: int) -> None:
    documents = [bytes([number]) for number in range(total)]
    drawn = list(draw(documents, total, wanted, random.Random(seed)))
    assert len(drawn) == min(total, wanted)
    assert drawn == sorted(set(drawn))


def test_every_document_is_as_likely_to_be_drawn() -> None:
    """3000 draws of 5 out of 20: 750 of each are expected, and 6 standard deviations are 142."""
    randomness, seen = random.Random(1), Counter[bytes]()
    documents = [bytes([number]) for number in range(20)]
    for _ in range(3000):
        seen.update(draw(documents, 20, 5, randomness))
    assert all(abs(seen[document] - 750) < 142 for document in documents)


def test_an_index_without_a_collation_keeps_none() -> None:
    """In a collection that has one, it would inherit it."""
    plain, own = {"v": 2, "key": {"a": 1}, "name": "a", "ns": "x.y"}, {"v": 2, "key": {"b": 1}, "name": "b"}
    listed = [PRIMARY, plain, own | {"collation": GERMAN}]
    assert index_specs(listed, collated=True) == [
        {"v": 2, "key": {"a": 1}, "name": "a", "collation": {"locale": "simple"}},
        own | {"collation": GERMAN},
    ]
    assert "collation" not in index_specs(listed, collated=False)[0]


def test_a_hashed_index_on_id_is_none_that_comes_by_itself() -> None:
    hashed = {"key": {"_id": "hashed"}, "name": "h"}
    assert index_specs([PRIMARY, hashed], collated=False) == [hashed]


INDEX: dict[str, Any] = {"v": 2, "key": {"a": 1, "b": -1}, "name": "ab", "unique": True}


@pytest.mark.parametrize(
    ("options", "indexes", "differing"),
    [
        ({}, [PRIMARY, INDEX], []),
        ({}, [PRIMARY, dict(reversed(INDEX.items()))], []),
        ({}, [PRIMARY], ["index ab"]),
        ({}, [INDEX | {"key": {"b": -1, "a": 1}}], ["index ab"]),
        ({}, [INDEX | {"unique": False}], ["index ab"]),
        ({"validator": {}}, [INDEX, INDEX | {"name": "more"}], ["option validator", "index more"]),
    ],
)
def test_differences(options: dict[str, Any], indexes: list[dict[str, Any]], differing: list[str]) -> None:
    assert structure_differences({}, [INDEX], options, indexes) == differing


def test_the_simple_collation_is_listed_as_none() -> None:
    specs = index_specs([INDEX], collated=True)
    assert structure_differences({"collation": GERMAN}, specs, {"collation": GERMAN}, [PRIMARY, INDEX]) == []


@pytest.fixture
def things(client: MongoClient[Any]) -> Iterator[Collection[Any]]:
    """Yield a collection with every type of `_id` and with indexes."""
    database = client["restore-db"]
    database.command({"create": "things", "validator": {"n": {"$exists": True}}, "validationAction": "warn"})
    database["things"].insert_many([{"_id": value, "n": number} for number, value in enumerate(IDS)])
    database["things"].create_index([("n", 1), ("a", -1)], name="second", sparse=True)
    database["things"].create_index("n", name="only", unique=True)
    yield database["things"]
    client.drop_database("restore-db")


@pytest.mark.scenario
def test_all_types_of_ids_go_out_and_come_back(things: Collection[Any], tmp_path: Path) -> None:
    manifest = backup.dump(things, tmp_path / "b", facts=facts_of(things), needed=0)
    assert manifest.documents == len(IDS)
    scratch = things.database["scratch"]
    assert restore(tmp_path / "b", scratch) == manifest.digest == digest_documents(scan_raw(scratch))
    assert sorted(restore_indexes(tmp_path / "b", scratch)) == ["only", "second"]
    assert scratch.index_information() == things.index_information()


@pytest.mark.scenario
def test_a_sample_restores_with_its_indexes(things: Collection[Any], tmp_path: Path) -> None:
    backup.dump(things, tmp_path / "b", facts=facts_of(things), needed=0)
    scratch = things.database["scratch"]
    sent = restore(tmp_path / "b", scratch, sample=7)
    assert sent == digest_documents(scan_raw(scratch))
    assert sent.documents == 7
    assert {document["n"] for document in scratch.find()} <= set(range(len(IDS)))
    assert sorted(restore_indexes(tmp_path / "b", scratch)) == ["only", "second"]


@pytest.mark.scenario
def test_documents_are_restored_with_majority_as_they_are_read_again(things: Collection[Any], tmp_path: Path) -> None:
    """Before 5.0 the server's own choice is w: 1, and what a majority does not have yet the comparison would miss."""
    from pymongo import MongoClient
    from pymongo.monitoring import CommandListener

    concerns: list[Any] = []

    class Listener(CommandListener):
        def started(self, event: Any) -> None:
            if event.command_name == "insert":
                concerns.append(event.command.get("writeConcern", {}).get("w"))

        def succeeded(self, event: Any) -> None:
            """Look at the beginnings only."""

        def failed(self, event: Any) -> None:
            """Look at the beginnings only."""

    backup.dump(things, tmp_path / "b", facts=facts_of(things), needed=0)
    host, port = things.database.client.address or ("", 0)
    with MongoClient(host, port, directConnection=True, event_listeners=[Listener()]) as client:
        restore(tmp_path / "b", client[things.database.name]["scratch"])
    assert set(concerns) == {"majority"}


@pytest.mark.scenario
def test_an_index_that_cannot_be_built_is_named(things: Collection[Any], tmp_path: Path) -> None:
    """Two shards can hold the same value of an index that is unique on each of them."""
    folder = tmp_path / "b"
    manifest = backup.dump(things, folder, facts=facts_of(things), needed=0)
    scratch = things.database["scratch"]
    restore(folder, scratch)
    scratch.insert_one({"_id": "second copy", "n": 3, "secret": "a customer's"})
    with pytest.raises(VerificationFailed, match=r"index only of the backup can't be built \(code 11000\)") as caught:
        restore_indexes(folder, scratch)
    assert "customer" not in str(caught.value)
    assert manifest.documents == len(IDS)


@pytest.mark.scenario
def test_options_that_are_not_the_backups_are_named(things: Collection[Any], tmp_path: Path) -> None:
    backup.dump(things, tmp_path / "b", facts=facts_of(things), needed=0)
    scratch = things.database["scratch"]
    restore(tmp_path / "b", scratch)
    path = dump_files.metadata_file(tmp_path / "b", things.full_name)
    path.write_text(path.read_text().replace('"warn"', '"error"'))
    with pytest.raises(VerificationFailed, match="differs from it in option validationAction"):
        restore_indexes(tmp_path / "b", scratch)


@pytest.mark.scenario
def test_a_collection_with_a_collation_of_its_own(client: MongoClient[Any], tmp_path: Path) -> None:
    """Its `_id` index has that collation too, and an index without one must not inherit it."""
    from pymongo.collation import Collation

    database = client["collation-db"]
    things = database.create_collection("things", collation=Collation("de", strength=2))
    things.insert_many([{"_id": text, "n": number} for number, text in enumerate(["a", "ä", "B", "Z", 1, None])])
    things.create_index("n", name="plain", collation=Collation("simple"))
    manifest = backup.dump(things, tmp_path / "b", facts=facts_of(things), needed=0)
    scratch = database["scratch"]
    assert restore(tmp_path / "b", scratch) == manifest.digest == digest_documents(scan_raw(scratch))
    assert restore_indexes(tmp_path / "b", scratch) == ["plain"]
    assert scratch.options()["collation"]["locale"] == "de"
    client.drop_database("collation-db")
