"""What a collection is beside its documents, before and after: options, indexes, identity, and the map of its chunks.

A migration clones options and indexes to each recipient; an index that is missing there later makes migrations fail
(242), slow queries on one shard, and unique or TTL indexes that hold on a part of the data only. Every shard that owns
chunks is asked directly, since mongos shows one shard's answer for all (§4.3).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, probe
from credscale.mongo.backup.target import target_of
from credscale.mongo.chunks.distribution import chunks_by_shard, range_problem
from credscale.mongo.cluster import facts
from credscale.mongo.proof import shard_answers as answers
from credscale.mongo.proof.shard_answers import NEUTRAL, Place, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from credscale.core.context import Context

PAUSE_SECONDS = 1.0
SERVER_CHECK = "https://www.mongodb.com/docs/manual/reference/inconsistency-type/"


@dataclass(frozen=True)
class Problem:
    """A difference.

    Args:
        place: where: a shard, ``mongos``, ``config``.
        what: what differs there.
        repair: what to do, for mongosh where a command does it.
    """

    place: str
    what: str
    repair: str


@dataclass(frozen=True)
class Look:
    """Everything that one look found.

    Args:
        problems: what differs.
        added: the indexes that are on every shard alike and were not in the backup.
        asked: the places whose answers were compared.
        not_checked: what could not be asked, one sentence each.
    """

    problems: tuple[Problem, ...]
    added: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = field(default_factory=tuple)


@probe()
def verify_catalogue(ctx: Context, *, namespace: str, backup_directory: str) -> Finding:
    """Compare options, indexes and UUID of the collection on every shard that owns chunks with the backup's.

    The index of the shard key is the one addition that is expected; further ones are told and no fault as long as
    every shard has them alike. Also checked: that the chunks tile the key space, that no shard holds a stray collection
    of this name, and, on 7.0 and later, what the server's own checkMetadataConsistency finds. A difference has to be
    seen twice, since index builds reach the shards one after the other.

    Args:
        namespace: ``database.collection``.
        backup_directory: as for ``backup``.
    """
    client = ctx.clients.mongo()
    if facts.sharded_collection(client, namespace) is None:
        raise PreconditionFailed(f"{namespace} is not sharded. Run shard_collection first")
    manifest = target_of(ctx, namespace, backup_directory).baseline()
    kept, seen = answers.of_backup(manifest), answers.of_mongos(client, namespace)
    before = kept or Place(seen.name, manifest.collection_uuid, seen.options, seen.indexes)
    look = _look(ctx, namespace, before)
    if look.problems:
        time.sleep(PAUSE_SECONDS)
        first, look = look.problems, _look(ctx, namespace, before)
        look = Look(tuple(each for each in look.problems if each in first), look.added, look.asked, look.not_checked)
    output = _output(look)
    if kept is None:
        output["not_checked"].append(
            f"options and indexes before and after: the backup {manifest.folder} keeps none; the shards were compared "
            "with each other"
        )
    if look.problems:
        one, number = look.problems[0], len(look.problems)
        more = f" (and {number - 1} more in the output)" if number > 1 else ""
        raise VerificationFailed(f"{namespace} on {one.place}: {one.what}{more}. {one.repair}", output)
    made = f"; made since the backup: {', '.join(look.added)}" if look.added else ""
    left = f"; what is not checked stands in the output ({len(output['not_checked'])})" if output["not_checked"] else ""
    alike = "are alike" if kept is None else "are the backup's"
    return Finding(
        f"options, {len(before.indexes)} indexes and UUID {alike} on {', '.join(look.asked)}{made}{left}", output
    )


def _output(look: Look) -> dict[str, Any]:
    rows = [{"place": each.place, "what": each.what, "what to do": each.repair} for each in look.problems]
    rows = rows or [{"place": place, "what": "no difference", "what to do": ""} for place in look.asked]
    return {
        "rows": rows,
        "asked": list(look.asked),
        "added_indexes": list(look.added),
        "not_checked": list(look.not_checked),
    }


def _look(ctx: Context, namespace: str, before: Place) -> Look:
    client = ctx.clients.mongo()
    sharded = facts.sharded_collection(client, namespace)
    if sharded is None:
        raise PreconditionFailed(f"{namespace} is no longer sharded. Look who changed it, then run again")
    simulated = facts.server(client).engine == "simulated"
    registered = facts.shards(client)
    owners = chunks_by_shard(client, sharded, [shard.id for shard in registered])
    places, not_checked = [answers.of_mongos(client, namespace)], []
    problems = []
    for shard in registered:
        found, why = answers.of_shard(ctx, shard, namespace, hashed=not simulated)
        if why:
            not_checked.append(why)
        if found is None and not why and owners[shard.id]:
            problems.append(Problem(shard.id, f"it owns {owners[shard.id]} chunks, but has no such collection", _STRAY))
        elif found is not None and (owners[shard.id] or found.uuid not in ("", sharded.uuid)):
            places.append(found if owners[shard.id] else Place(found.name, found.uuid))
    if simulated:
        not_checked.append("hashed indexes on each shard: the simulated engine keeps them at the router")
    uuids = [Place("config", sharded.uuid), *places]
    problems += uuid_problems(before.uuid, uuids)
    compared = [place for place in places if place.indexes]
    problems += option_problems(namespace, before, compared)
    found_problems, new = index_problems(namespace, before, compared)
    problems += found_problems
    carriers = {index.name for index in facts.parse_indexes(places[0].indexes.values()) if index.supports(sharded.key)}
    added = tuple(name for name in new if name not in carriers)
    problems += key_problems(namespace, sharded.key, [place for place in compared if place.hashed])
    tiling = range_problem(client, sharded)
    if tiling:
        problems.append(Problem("config", f"the chunks do not tile the key space: {tiling}", _TILING))
    checks = (answers.server_check(client, namespace), answers.index_monitor(ctx))
    problems += [Problem("cluster", each, f"See {SERVER_CHECK}") for each in checks[0].findings]
    not_checked += [each.not_checked for each in checks if each.not_checked]
    not_checked += checks[1].findings
    return Look(tuple(problems), added, tuple(place.name for place in compared), tuple(not_checked))


_STRAY = (
    "It is a stray collection, on which every migration fails (207), or its metadata was edited. Look at what it holds "
    "with a direct connection; rename or drop it there only when nothing of it is needed, then flushRouterConfig"
)
_TILING = (
    "Keep the balancer stopped (invoke mongo.stop-balancer) and change nothing in config.chunks by hand; ask MongoDB's "
    "support"
)


def uuid_problems(expected: str, places: Sequence[Place]) -> list[Problem]:
    """Return the places where the collection is another one; a place that shows no UUID is left out."""
    return [
        Problem(place.name, f"its UUID is {place.uuid}, it should be {expected}", _STRAY)
        for place in places
        if place.uuid and expected and place.uuid != expected
    ]


def option_problems(namespace: str, before: Place, places: Sequence[Place]) -> list[Problem]:
    """Return the options that differ from those before, each with the command that brings them back."""
    problems = []
    for place in places:
        if place.options is None or before.options is None:
            continue
        for name in sorted({*before.options, *place.options}):
            old, new = before.options.get(name), place.options.get(name)
            if canonical(old) != canonical(new):
                what = f"the option {name} is {_shown(new)}, {before.name} has {_shown(old)}"
                problems.append(Problem(place.name, what, _bring_back(namespace, name, old)))
    return problems


def _shown(value: Any) -> str:
    return "not set" if value is None else canonical(value)


def _bring_back(namespace: str, name: str, old: Any) -> str:
    if name not in NEUTRAL:
        return (
            f"{name} can't be changed in place: find out when it changed; a collection with the right options has "
            "to be made and filled anew"
        )
    coll, value = facts.split_namespace(namespace)[1], NEUTRAL[name] if old is None else old
    return f"If nobody wanted that, through mongos: {command(namespace, {'collMod': coll, name: value})}"


def index_problems(namespace: str, before: Place, places: Sequence[Place]) -> tuple[list[Problem], tuple[str, ...]]:
    """Compare the indexes of all places with the backup's and with each other.

    Returns:
        the problems, and the names of indexes that the backup has not and all places have alike.
    """
    problems, added = [], []
    for name in sorted({name for place in (before, *places) for name in place.indexes}):
        there = [place for place in places if name in place.indexes]
        hashed = any("hashed" in place.indexes[name]["key"].values() for place in there)
        asked = [place for place in places if place.hashed or not hashed]
        wanted = before.indexes.get(name) or there[0].indexes[name]
        since = "" if name in before.indexes else ", made since the backup,"
        wrong = []
        for place in asked:
            found = place.indexes.get(name)
            if found is None:
                what = f"the index {name}{since} is missing, or its build is not finished"
                wrong.append(Problem(place.name, what, _make_index(namespace, wanted)))
            elif canonical(found) != canonical(wanted):
                what = f"the index {name}{since} is {canonical(found)}, it should be {canonical(wanted)}"
                wrong.append(Problem(place.name, what, _replace_index(namespace, name, wanted)))
        problems += wrong
        if since and not wrong:
            added.append(name)
    return problems, tuple(added)


def key_problems(namespace: str, key: facts.Key, places: Sequence[Place]) -> list[Problem]:
    """Return the places that have no index for the shard key: from there no chunk can move (4.4 lets it be dropped)."""
    problems = []
    for place in places:
        if facts.supporting_index(facts.parse_indexes(place.indexes.values()), key) is None:
            text = facts.key_text(key)
            wanted = {"key": dict(key), "name": text.replace(":", "_").replace(",", "_")}
            problems.append(
                Problem(place.name, f"no index starts with the shard key {text}", _make_index(namespace, wanted))
            )
    return problems


def _make_index(namespace: str, index: Mapping[str, Any]) -> str:
    """Return how to make an index everywhere: createIndexes through mongos skips the shards that have it (§4.3)."""
    coll = facts.split_namespace(namespace)[1]
    return f"Through mongos: {command(namespace, {'createIndexes': coll, 'indexes': [index]})}"


def _replace_index(namespace: str, name: str, wanted: Mapping[str, Any]) -> str:
    coll = facts.split_namespace(namespace)[1]
    drop = command(namespace, {"dropIndexes": coll, "index": name})
    return f"Drop it with a direct connection to that place's shard: {drop}. Then t{_make_index(namespace, wanted)[1:]}"


def command(namespace: str, document: Mapping[str, Any]) -> str:
    """Return a command for mongosh that means exactly this document, dates and decimals included."""
    database = facts.split_namespace(namespace)[0]
    text = canonical(document)
    shown = f"EJSON.parse({json.dumps(text)})" if '"$' in text else text
    return f"db.getSiblingDB({json.dumps(database)}).runCommand({shown})"
