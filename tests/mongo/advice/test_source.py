"""Writes are found in source, in both languages, and what can't be told is never called fine."""

from __future__ import annotations

import builtins
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import EnvironmentInvalid, MissingExtra
from credscale.mongo.advice.calls import belongs
from credscale.mongo.advice.source import SourceFinding, judge_calls, scan_source
from credscale.mongo.advice.source_javascript import javascript_calls
from credscale.mongo.advice.source_python import python_calls
from credscale.mongo.advice.writes import FIND_AND_MODIFY_TEXT, UPSERT_TEXT
from credscale.mongo.cluster.facts import parse_key

if TYPE_CHECKING:
    from pathlib import Path

GUIDE = parse_key("createdAt:hashed,userId:1")
V44 = (4, 4, 6)


def judged(text: str, suffix: str = ".py", version: tuple[int, ...] = V44) -> list[SourceFinding]:
    """Return the findings of a source in its order."""
    text = dedent(text)
    calls = python_calls(text, "a.py") if suffix == ".py" else javascript_calls(text, f"a{suffix}", suffix)[0]
    found, _ = judge_calls(calls, GUIDE, version, "analyses")
    return sorted(found, key=lambda each: each.call.line)


@pytest.mark.parametrize(
    ("line", "outcome", "fields"),
    [
        ('db.analyses.update_one({"_id": x}, {"$set": {"a": 1}})', "works", "_id"),
        ('db["analyses"].update_one({"userId": u}, {"$set": {"a": 1}})', "breaks", "userId"),
        ('analyses.update_one({"createdAt": t, "userId": u}, {"$set": {"a": 1}}, upsert=True)', "works",
         "createdAt, userId"),
        ('analyses.update_one({"_id": x}, {"$set": {"a": 1}}, upsert=True)', "breaks", "_id"),
        ('analyses.update_one({"_id": x}, {"$set": {"a": 1}}, True)', "breaks", "_id"),
        ('analyses.update_one({"_id": x}, {"$set": {"a": 1}}, upsert=flag)', "can't tell", "_id"),
        ('analyses.update_one({"_id": x}, {"$set": {"a": 1}}, **options)', "can't tell", ""),
        ('analyses.find_one_and_update({"_id": x}, {"$set": {"a": 1}})', "breaks", "_id"),
        ('analyses.find_one_and_delete(filter={"_id": x})', "breaks", "_id"),
        ('analyses.delete_one(query)', "can't tell", ""),
        ('analyses.delete_one({**query, "_id": x})', "can't tell", ""),
        ('analyses.delete_one({field: x})', "can't tell", ""),
        ('analyses.delete_one({"createdAt": t})', "breaks", "createdAt"),
        ('analyses.delete_one(dict(_id=x))', "works", "_id"),
        ('analyses.update_many({"userId": u}, {"$set": {"a": 1}})', "works", "userId"),
        ('analyses.replace_one({"_id": x}, document)', "depends", "_id"),
        ('analyses.replace_one({"_id": x}, {"createdAt": t, "userId": u})', "works", "_id"),
        ('analyses.bulk_write([UpdateOne({"userId": u}, {"$set": {"a": 1}})])', "breaks", "userId"),
        ('analyses.bulk_write(operations)', "can't tell", ""),
        ('await self.analyses_collection.update_one({"url": u}, {"$inc": {"n": 1}})', "breaks", "url"),
        ('client.get_database().get_collection("analyses").delete_one({"url": u})', "breaks", "url"),
    ],
)  # fmt: skip
def test_python(line: str, outcome: str, fields: str) -> None:
    (found,) = judged(f"async def f():\n    {line}\n")
    assert (found.outcome, found.fields) == (outcome, fields)
    assert found.call.line == 2


def test_python_follows_a_variable_to_its_collection() -> None:
    found = judged("""
        col = client["shop"]["analyses"]
        other = client["shop"]["users"]
        col.find_one_and_update({"_id": 1}, {"$set": {"a": 1}})
        other.find_one_and_update({"_id": 1}, {"$set": {"a": 1}})
        UpdateOne({"url": 1}, {"$set": {"a": 1}})
    """)
    assert [(each.call.line, each.outcome) for each in found] == [(4, "breaks"), (6, "can't tell")]
    assert found[0].error == f"61: {FIND_AND_MODIFY_TEXT}"
    assert "fails if it is on this collection" in found[1].note


@pytest.mark.parametrize("suffix", [".js", ".ts", ".tsx", ".mjs"])
@pytest.mark.parametrize(
    ("line", "outcome", "fields"),
    [
        ("await db.collection('analyses').updateOne({ _id: id }, { $set: { a: 1 } });", "works", "_id"),
        ("await Analysis.updateOne({ userId }, { $set: { a: 1 } });", "breaks", "userId"),
        ("await Analysis.updateOne({ userId, createdAt: at }, { a: 1 }, { upsert: true });", "works",
         "userId, createdAt"),
        ("await Analysis.updateOne({ 'userId': u }, { a: 1 }, { upsert: true });", "breaks", "userId"),
        ("await Analysis.updateOne({ _id: u }, { a: 1 }, options);", "can't tell", "_id"),
        ("Analysis.findByIdAndUpdate(req.params.id, { a: 1 }, { new: true });", "breaks", "_id"),
        ("Analysis.findByIdAndDelete(id);", "breaks", "_id"),
        ("this.analysisModel.findOneAndUpdate({ _id: id, ...rest }, { a: 1 });", "can't tell", ""),
        ("this.analysisModel.findOneAndUpdate(filter, { a: 1 });", "can't tell", ""),
        ("Analysis.deleteOne({ [name]: 1 });", "can't tell", ""),
        ("Analysis.find({ userId }).deleteOne({ url: 1 });", "can't tell", ""),
        ("db.analyses.findAndModify({ query: { _id: 1 }, update: { $set: { a: 1 } } });", "breaks", "_id"),
        ("db.analyses.findAndModify({ _id: 1 }, [], { $set: { a: 1 } }, { upsert: true });", "breaks", "_id"),
        ("analyses.deleteMany({ createdAt: { $lt: cut } });", "works", "createdAt range"),
        ("analyses.bulkWrite(items.map(make));", "can't tell", ""),
        ("analyses.bulkWrite([{ deleteOne: { filter: { url: 'x' } } }]);", "breaks", "url"),
        ("analyses.replaceOne({ _id: id }, { ...doc, a: 1 });", "depends", "_id"),
        ("Analysis.updateOne({ url: /^http/ }, { a: 1 });", "breaks", "url regex"),
    ],
)  # fmt: skip
def test_javascript(suffix: str, line: str, outcome: str, fields: str) -> None:
    (found,) = judged(f"// a comment\n{line}\n", suffix)
    assert (found.outcome, found.fields) == (outcome, fields)
    assert found.call.line == 2


def test_typescript_annotations_are_looked_through() -> None:
    found = judged(
        """
        const reports: Collection<Analysis> = db.collection<Analysis>("analyses");
        const People = mongoose.model<IUser>('User', schema);
        await (reports as any)!.findOneAndUpdate(
          { _id: id } as Filter<Analysis>, { $set: { a: 1 } }, { returnDocument: "after" },
        );
        await People.findByIdAndUpdate(id, { a: 1 });
        """,
        ".ts",
    )
    assert [(each.call.line, each.call.collection, each.outcome) for each in found] == [(4, "analyses", "breaks")]


def test_bulk_statements_are_judged_one_by_one() -> None:
    found = judged(
        """
        Analysis.bulkWrite([
          { insertOne: { document: d } },
          { updateOne: { filter: { _id: 1 }, update: { $set: { a: 1 } } } },
          { updateOne: { filter: { url: 1 }, update: { $set: { a: 1 } }, upsert: true } },
          make(),
        ]);
        """,
        ".js",
    )
    assert [(each.call.line, each.outcome) for each in found] == [(4, "works"), (5, "breaks"), (6, "can't tell")]
    assert found[1].error == f"61: {UPSERT_TEXT}"


def test_newer_server_allows_it() -> None:
    line = "Analysis.findByIdAndUpdate(id, { a: 1 });"
    assert judged(line, ".js", (8, 0, 1))[0].outcome == "works"


@pytest.mark.parametrize(
    ("name", "certain", "answer"),
    [
        ("analyses", True, "yes"), ("Analysis", False, "yes"), ("analysisModel", False, "yes"),
        ("ANALYSES_COLLECTION", False, "yes"), ("users", True, "no"), ("User", False, "no"),
        ("userModel", False, "no"), ("users", False, "unknown"), ("collection", False, "unknown"),
        ("Model", False, "unknown"), ("", False, "unknown"),
    ],
)  # fmt: skip
def test_whose_collection_it_is(name: str, certain: bool, answer: str) -> None:
    assert belongs(name, certain, "analyses") == answer


def test_singulars() -> None:
    assert belongs("Story", False, "stories") == "yes"
    assert belongs("Box", False, "boxes") == "yes"
    assert belongs("order_repo", False, "orders") == "yes"


def test_folder_is_searched_without_packages(tmp_path: Path) -> None:
    broken = 'db.analyses.find_one_and_delete({"_id": 1})\n'
    (tmp_path / "src").mkdir()
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "src" / "a.py").write_text(broken)
    (tmp_path / "src" / "b.js").write_text("db.analyses.deleteOne({ url: 1 })")
    (tmp_path / "node_modules" / "c.py").write_text(broken)
    (tmp_path / "src" / "Main.java").write_text("class Main {}")
    (tmp_path / "src" / "bad.py").write_text("def (:")
    (tmp_path / "src" / "huge.py").write_text("#" * (1 << 20) + broken)
    (tmp_path / "src" / "link.py").symlink_to(tmp_path / "src" / "a.py")
    found = scan_source(str(tmp_path))
    assert [(call.file, call.line) for call in found.calls] == [("src/a.py", 1), ("src/b.js", 1)]
    assert found.files == 2
    assert found.not_checked == [
        "src/bad.py can't be read: SyntaxError",
        "src/huge.py is larger than 1024 KB",
        "files in languages that are not read here: 1 .java",
    ]
    (alone,) = scan_source(str(tmp_path / "src" / "a.py")).calls
    assert alone.file == "a.py"


def test_search_ends_at_its_deadline(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    assert "ended after 0 files" in scan_source(str(tmp_path), seconds=-1).not_checked[0]


def test_missing_path_is_refused() -> None:
    with pytest.raises(EnvironmentInvalid, match="nothing at /nowhere"):
        scan_source("/nowhere")


def test_missing_parser_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> Any:
        if name == "tree_sitter_javascript":
            raise ModuleNotFoundError(name, name=name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtra, match=r"credscale\[source\]"):
        javascript_calls("x", "a.js", ".js")


def test_syntax_errors_hide_only_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("const x = = 1;\nAnalysis.deleteOne({ url: x });\n")
    found = scan_source(str(tmp_path))
    assert [(call.line, call.filter) for call in found.calls] == [(2, {"url": "?"})]
    assert found.not_checked == ["a.js has syntax errors; writes in them are missing"]
