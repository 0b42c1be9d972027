"""Which writes mongos refuses under a shard key, with its codes and texts; pure (reference §5.3, table of §1).

The texts are the beginnings of those recorded from 4.4.6; later servers use the same codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from credscale.mongo.advice.targeting import SIMPLE, Targeting, equalities, exact_key, target
from credscale.mongo.cluster.shard_key import has_array

if TYPE_CHECKING:
    from credscale.mongo.cluster.facts import Key

Operation = Literal[
    "insert", "update_one", "update_many", "replace_one", "delete_one", "delete_many", "find_and_modify"
]
Outcome = Literal["works", "depends", "breaks"]
OPERATIONS: tuple[Operation, ...] = (
    "insert", "update_one", "update_many", "replace_one", "delete_one", "delete_many", "find_and_modify",
)  # fmt: skip

UPDATE_TEXT = (
    "A {multi:false} update on a sharded collection must either contain an exact match on _id or must target a single "
    "shard"
)
UPSERT_TEXT = "Failed to target upsert by query :: could not extract exact shard key"
DELETE_TEXT = (
    "A single delete on a sharded collection must contain an exact match on _id (and have the collection default "
    "collation) or contain the shard key (and have the simple collation)"
)
FIND_AND_MODIFY_TEXT = "Query for sharded findAndModify must contain the shard key"
ARRAY_TEXT = "Shard key cannot contain array values or array descendants."
SHARD_KEY_NOT_FOUND, INVALID_OPTIONS = 61, 72

NEEDS_NO_KEY = (7, 1)  # also needs the feature compatibility version of that release
TAKES_PARTIAL_KEY = (5, 0)  # in later patches: SERVER-44422

BY_ID = "goes to every shard by _id (serverStatus counts updateOneOpStyleBroadcastWithExactIDCount)"
NOT_SERIALISED = (
    "is not serialised with migrations: while chunks move it may miss documents or change them twice "
    "(SERVER-20361, SERVER-46211)"
)
PAUSES = "; 8.0 can pause migrations for it with the cluster parameter pauseMigrationsDuringMultiUpdates"
TWO_PHASES = "allowed since 7.1 (also as compatibility version), but every shard is asked first, so it is slower"
LATER_PATCHES = "later patches of 5.0, 6.0 and 7.0 take a part of the key that names one shard (SERVER-44422)"
FIRST_MOVE = "works while one shard holds every chunk, and fails from the first move on"
AT_ONCE = "fails from shardCollection on, even with all chunks on one shard"


@dataclass(frozen=True)
class Write:
    """A write as an application sends it.

    Args:
        operation: its kind; findOneAndUpdate, -Replace and -Delete are ``find_and_modify``.
        filter: the filter document; values may be placeholders of the same type.
        update: operators, a pipeline, or the new document; None when not known. For an insert the document.
        upsert: whether it inserts what it does not find.
        collation: the locale it names, empty when it names none.
    """

    operation: Operation
    filter: Mapping[str, Any]
    update: Any = None
    upsert: bool = False
    collation: str = ""


@dataclass(frozen=True)
class Judgement:
    """What becomes of a write: ``depends`` on the values, the patch level, or where chunks lie, as the notes say."""

    outcome: Outcome
    code: int | None = None
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Code and text of the error as one string; empty when there is none."""
        return f"{self.code}: {self.error}" if self.code is not None else ""


def judge(
    write: Write, key: Key, version: Sequence[int], *, shards: int = 2, default_collation: str = SIMPLE
) -> Judgement:
    """Say whether a write works under a shard key, or with which error it fails.

    Args:
        write: the write.
        key: the shard key in its order.
        version: of mongos, as numbers.
        shards: how many shards hold chunks of the collection; one only right after shardCollection.
        default_collation: the collection's.
    """
    where = target(key, write.filter, write.collation or default_collation)
    found = _by_operation(write, key, tuple(version[:2]), shards, where, default_collation)
    changed = changed_key_fields(write.update, key) if write.operation not in ("insert", "replace_one") else ()
    if not changed or found.outcome == "breaks":
        return found
    rule = (
        "which an update of many documents may not"
        if write.operation == "update_many"
        else "which needs a transaction or a retryable write, and the whole key in the filter"
    )
    return Judgement("depends", found.code, found.error, (*found.notes, f"it changes {', '.join(changed)}, {rule}"))


def _by_operation(
    write: Write, key: Key, version: tuple[int, ...], shards: int, where: Targeting, default_collation: str
) -> Judgement:
    by_id = _has_exact_id(write, default_collation)
    if write.operation == "insert":
        refused = isinstance(write.update, Mapping) and has_array(write.update, key)
        return Judgement("breaks", SHARD_KEY_NOT_FOUND, ARRAY_TEXT, (AT_ONCE,)) if refused else Judgement("works")
    if write.operation in ("update_many", "delete_many"):
        return _many(write, version, where)
    if where.exact:
        return Judgement("works")
    if version >= NEEDS_NO_KEY:
        broadcast = by_id and write.operation != "find_and_modify" and not write.upsert
        return Judgement("works", notes=(BY_ID if broadcast else TWO_PHASES,))
    if write.upsert:
        text = FIND_AND_MODIFY_TEXT if write.operation == "find_and_modify" else UPSERT_TEXT
        return Judgement("breaks", SHARD_KEY_NOT_FOUND, text, (AT_ONCE,))
    if write.operation == "update_one":
        return _update_one(where, shards, by_id)
    if write.operation == "replace_one":
        return _replace_one(write, key, where, shards)
    if by_id and write.operation == "delete_one":
        return Judgement("works", notes=("goes to every shard by _id",))
    text = DELETE_TEXT if write.operation == "delete_one" else FIND_AND_MODIFY_TEXT
    if version >= TAKES_PARTIAL_KEY and (where.verdict == "single" or shards == 1):
        return Judgement("depends", SHARD_KEY_NOT_FOUND, text, (LATER_PATCHES, where.reason))
    return Judgement("breaks", SHARD_KEY_NOT_FOUND, text, (AT_ONCE,))


def _many(write: Write, version: tuple[int, ...], where: Targeting) -> Judgement:
    """Judge an update or delete of many documents: never refused, unless it may have to insert."""
    notes = [NOT_SERIALISED + (PAUSES if version >= (8, 0) else "")]
    if where.verdict == "broadcast":
        notes.append("goes to every shard")
    if write.upsert and not where.exact:
        if version < NEEDS_NO_KEY:
            return Judgement("breaks", SHARD_KEY_NOT_FOUND, UPSERT_TEXT, (AT_ONCE,))
        notes.append("whether 7.1 and later take such an upsert without the whole key is not confirmed: try it")
        return Judgement("depends", SHARD_KEY_NOT_FOUND, UPSERT_TEXT, tuple(notes))
    return Judgement("works", notes=tuple(notes))


def _update_one(where: Targeting, shards: int, by_id: bool) -> Judgement:
    if shards == 1:
        return Judgement("works", notes=() if by_id else (FIRST_MOVE,))
    if by_id:
        return Judgement("works", notes=() if where.verdict == "single" else (BY_ID,))
    if where.verdict == "single":
        return Judgement("depends", INVALID_OPTIONS, UPDATE_TEXT, (where.reason,))
    return Judgement("breaks", INVALID_OPTIONS, UPDATE_TEXT, (FIRST_MOVE,))


def _replace_one(write: Write, key: Key, where: Targeting, shards: int) -> Judgement:
    """Judge a replacement, which the new document targets when the filter does not (§5.3)."""
    if shards == 1:
        return Judgement("works")
    if isinstance(write.update, Mapping) and all(_reaches(write.update, field) for field in key):
        note = "targeted by the new document: if that changes the key, nothing is found and nothing replaced"
        return Judgement("works", notes=() if where.verdict == "single" else (note,))
    note = "targeted by the new document, in which missing key fields count as null: it may silently replace nothing"
    return Judgement("depends", notes=(note,))


def _reaches(document: Mapping[str, Any], path: str) -> bool:
    value: Any = document
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return False
        value = value[name]
    return not isinstance(value, list)


def _has_exact_id(write: Write, default_collation: str) -> bool:
    """Tell whether the filter fixes _id, in the collection's own collation."""
    own = not write.collation or write.collation == default_collation
    return own and "_id" in equalities(write.filter) and exact_key({"_id": 1}, write.filter) is not None


def changed_key_fields(update: Any, key: Key) -> tuple[str, ...]:
    """Return the key fields that an update may change; a replacement and an insert change none."""
    touched: set[str] = set()
    for stage in update if isinstance(update, list) else [update]:
        if not isinstance(stage, Mapping):
            continue
        for operator, fields in stage.items():
            if not operator.startswith("$") or operator == "$setOnInsert":
                continue
            names = fields if isinstance(fields, Mapping | list | tuple) else [fields]
            touched |= {name for name in names if isinstance(name, str)}
            if operator == "$rename" and isinstance(fields, Mapping):
                touched |= {str(name) for name in fields.values()}
    return tuple(
        field
        for field in key
        if any(field == name or field.startswith(f"{name}.") or name.startswith(f"{field}.") for name in touched)
    )
