"""Calls of a MongoDB driver in source code: what both languages' readers return, and whose collection they are on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from credscale.mongo.advice.targeting import VALUE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from credscale.mongo.advice.writes import Operation

Form = Literal["filter", "filter_update", "id", "id_update", "bulk", "shell"]
Belongs = Literal["yes", "no", "unknown"]


class Unknown:
    """A value that only the running program knows."""


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Call:
    """A write in a source file.

    Args:
        file: as the reader named it.
        line: from 1.
        name: the method as written.
        operation: what it does.
        filter: the literal with stand-ins for values; None when it is built elsewhere or added to at run time.
        update: the same for the update or new document.
        upsert: None when the options are built elsewhere.
        collection: the name by which the code knows the collection or model, empty when it has none.
        certain: whether that name is the collection's own, written as a text or an attribute of the database.
    """

    file: str
    line: int
    name: str
    operation: Operation
    filter: Mapping[str, Any] | None
    update: Any
    upsert: bool | None
    collection: str
    certain: bool


# Method by its name in snake case. By-id methods of Mongoose filter by _id alone.
METHODS: dict[str, tuple[Operation, Form]] = {
    "update_one": ("update_one", "filter_update"),
    "update_many": ("update_many", "filter_update"),
    "replace_one": ("replace_one", "filter_update"),
    "delete_one": ("delete_one", "filter"),
    "delete_many": ("delete_many", "filter"),
    "find_one_and_update": ("find_and_modify", "filter_update"),
    "find_one_and_replace": ("find_and_modify", "filter_update"),
    "find_one_and_delete": ("find_and_modify", "filter"),
    "find_one_and_remove": ("find_and_modify", "filter"),
    "find_by_id_and_update": ("find_and_modify", "id_update"),
    "find_by_id_and_replace": ("find_and_modify", "id_update"),
    "find_by_id_and_delete": ("find_and_modify", "id"),
    "find_by_id_and_remove": ("find_and_modify", "id"),
    "find_and_modify": ("find_and_modify", "shell"),
    "bulk_write": ("update_one", "bulk"),
}


def method(name: str) -> tuple[Operation, Form] | None:
    """Return operation and form of the arguments of a driver's method, in either spelling."""
    return METHODS.get(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())


def known_document(value: Any) -> Mapping[str, Any] | None:
    """Return a literal document; None for what only the running program knows."""
    return value if isinstance(value, dict) and OPEN not in value else None


def known_update(value: Any) -> Any:
    """Return a literal update or pipeline; None for what only the running program knows."""
    if isinstance(value, list):
        return value if all(known_document(stage) is not None for stage in value) else None
    return known_document(value)


OPEN = "\0open"  # the key that stands, in a literal, for fields that are added at run time


def settled(value: Any, inside: str = "") -> Any:
    """Put stand-ins for unknown values inside a literal; below ``$in`` an unknown list of several."""
    if isinstance(value, Unknown):
        return [VALUE, VALUE] if inside in ("$in", "$nin", "$all") else VALUE
    if isinstance(value, dict):
        return {name: settled(item, name) for name, item in value.items()}
    return [settled(item) for item in value] if isinstance(value, list) else value


def is_upsert(options: Any, *, given: bool) -> bool | None:
    """Return whether options ask for an upsert; None when only the running program knows."""
    if not given:
        return False
    if not isinstance(options, dict):
        return None
    if "upsert" in options:
        return options["upsert"] if isinstance(options["upsert"], bool) else None
    return None if OPEN in options else False


_GENERIC = frozenset(
    {
        "collection", "coll", "col", "model", "repository", "repo", "dao", "store", "this", "self", "cls", "db",
        "database", "table", "entity", "client", "session", "bulk", "documents", "docs", "mongo",
    }
)  # fmt: skip
_SUFFIXES = ("collection", "repository", "model", "schema", "coll", "repo", "col", "dao")


def belongs(name: str, certain: bool, collection: str) -> Belongs:
    """Tell whether a name in the code means the collection: ``Analysis``, ``analysisModel``, ``analyses_collection``.

    Args:
        name: as in ``Call.collection``.
        certain: as in ``Call.certain``.
        collection: the collection's own name.
    """
    if _stems(name) & _stems(collection):
        return "yes"
    bare = re.sub(r"[^a-z]", "", name.lower())
    if not bare or bare in _GENERIC:
        return "unknown"
    named_like_a_model = name[:1].isupper() or any(bare.endswith(suffix) for suffix in _SUFFIXES)
    return "no" if certain or named_like_a_model else "unknown"


def _stems(name: str) -> set[str]:
    """Return the singular and plural readings of a name without what only says that it is a collection."""
    bare = re.sub(r"[^a-z0-9]", "", name.lower())
    for suffix in _SUFFIXES:
        if bare.endswith(suffix) and bare != suffix:
            bare = bare.removesuffix(suffix)
            break
    if not bare:
        return set()
    found = {bare, f"{bare}s"}
    if bare.endswith("ies"):
        found.add(bare[:-3] + "y")
    if bare.endswith("es"):
        found |= {bare[:-2], bare[:-2] + "is"}
    if bare.endswith("s"):
        found.add(bare[:-1])
    return found
