"""What to do about documents that differ from the backup and that no writer explains, by kind of difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from credscale.mongo.backup.manifest import Manifest
    from credscale.mongo.proof.comparison import Comparison

SHOWN_ROWS = 100
ADVICE = {
    "lost": "restore it from the backup: mongorestore into a scratch namespace, then copy it over through mongos; one "
    "that was written after that backup was taken (not_checked tells whether there can be any) is in the oplogs alone",
    "lost_inserts": "written since the backup, so only the oplogs hold it: save local.oplog.rs of every shard now, "
    "then insert it again from there",
    "lost_updates": "here, but not as the last write of a user left it: save local.oplog.rs of every shard now, "
    "compare it with the entries there, then write it again",
    "unexpected_added": "nobody inserted it through mongos: find out who writes to a shard directly, then keep or "
    "delete it",
    "unexpected_changed": "nobody wrote it through mongos: compare it with the backup's version and put that back with "
    "replaceOne by the full shard key",
    "duplicated": "more documents than before have this _id: keep the right one, delete the other through mongos by "
    "its full shard key; until then its chunk cannot move",
    "not_found_by_key": "by _id alone it is found, by its shard key it is not: run flushRouterConfig on every mongos "
    "and read it again; if it stays so, compare explain of both queries and ask MongoDB's support",
    "lost_deletes": "a user deleted it since the backup and it is here again: delete it again through mongos",
}


def finding_rows(findings: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Return the first documents of every kind as rows of a table."""
    return [
        {"_id": item, "what": kind.replace("_", " "), "what to do": ADVICE[kind]}
        for kind, ids in findings.items()
        for item in ids[:SHOWN_ROWS]
    ]


def what_to_do(findings: dict[str, list[str]]) -> dict[str, str]:
    """Return what to do about each kind that was found."""
    return {kind: ADVICE[kind] for kind, ids in findings.items() if ids}


def whereabouts(manifest: Manifest) -> str:
    """Say where the backup's documents are."""
    dump = manifest.folder / "dump"
    if not manifest.external:
        return f"The backup is {dump}; do not delete it"
    kind, name = manifest.external.get("kind"), manifest.external.get("id")
    return f"The documents are in the external backup {kind}:{name}, their hashes in {dump}; delete neither"


def loss_text(namespace: str, manifest: Manifest, comparison: Comparison) -> str:
    """Say what is wrong, with the first document, and where the backup is."""
    found = {kind: comparison.counts.get(kind, len(ids)) for kind, ids in comparison.findings.items() if ids}
    counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in found.items())
    kind, ids = next((kind, ids) for kind, ids in comparison.findings.items() if ids)
    shown = sum(len(each) for each in comparison.findings.values())
    listed = "are listed" if shown >= sum(found.values()) else f"are listed, the first {shown} of them"
    return (
        f"{namespace} differs from the backup in what no writer explains: {counts}; the first is _id {ids[0]}: "
        f"{ADVICE[kind]}. All {listed} in the output, with what to do about each kind. "
        f"{whereabouts(manifest)}"
    )
