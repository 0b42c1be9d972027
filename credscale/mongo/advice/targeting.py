"""Which shards mongos asks for a query under a shard key; pure (reference §6).

The router knows ranges of the key, so only the leading field decides: one value of it names one shard, several values
or a range of a ranged field some of them, anything else all. A hashed field is known by exact values alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo.cluster.facts import key_text

if TYPE_CHECKING:
    from credscale.mongo.cluster.facts import Key

Verdict = Literal["single", "several", "broadcast"]
Filter = Mapping[str, Any]
SIMPLE = "simple"
RANGES = frozenset({"$gt", "$gte", "$lt", "$lte"})
VALUE = "?"  # stands for any value where only the shape of a query is known
_PREFIX = re.compile(r"(\^|\\A)[^\\^$.|?*+()\[\]{}]")


@dataclass(frozen=True)
class Targeting:
    """Where mongos sends a query.

    Args:
        verdict: ``single``, ``several`` or ``broadcast`` to every shard that has chunks.
        exact: whether every field of the key has one value. Without it ``single`` means one value of the leading
            field, which is one shard unless the documents of that value are split over chunks of several.
        reason: why, as a clause.
    """

    verdict: Verdict
    exact: bool
    reason: str


def target(key: Key, query: Filter, collation: str = SIMPLE) -> Targeting:
    """Say where mongos sends a query.

    Args:
        key: the shard key in its order.
        query: the filter document; only its shape matters, values may be placeholders of the same type.
        collation: the locale in which the query compares strings: its own, or else the collection's default. Chunk
            bounds are in simple order, so in any other one strings name no shard.
    """
    if exact_key(key, query, collation) is not None:
        return Targeting("single", True, "every field of the key has one value")
    lead, kind = next(iter(key.items()))
    points = None if _has_text(query) else _points(query, lead, kind, collation == SIMPLE)
    if points is None:
        return Targeting("broadcast", False, _why_broadcast(query, lead, kind, collation))
    if points <= 1:
        why = f"{lead} has one value; more than one shard only where the documents of one {lead} are split over several"
        return Targeting("single", False, why)
    why = f"a range of {lead}" if points == math.inf else f"{points:.0f} values of {lead}"
    return Targeting("several", False, why)


def exact_key(key: Key, query: Filter, collation: str = SIMPLE) -> dict[str, Any] | None:
    """Return the value of every key field that the query fixes by equality, or None unless it fixes them all."""
    fixed = equalities(query)
    found: dict[str, Any] = {}
    for field in key:
        value = _fixed_at(fixed, field)
        if value is _ABSENT or isinstance(value, list | tuple) or _is_regex(value):
            return None
        if collation != SIMPLE and isinstance(value, str | Mapping):
            return None
        found[field] = value
    return found


def equalities(query: Filter) -> dict[str, Any]:
    """Return the paths that a query fixes to one value, all of which a document must have."""
    fixed: dict[str, Any] = {}
    for name, condition in query.items():
        if name == "$and" or (name == "$or" and len(condition) == 1):
            for part in condition:
                fixed |= equalities(part)
        elif not name.startswith("$"):
            if not _is_operators(condition):
                fixed[name] = condition
            elif "$eq" in condition:
                fixed[name] = condition["$eq"]
    return fixed


def constrained_fields(query: Filter) -> tuple[frozenset[str], frozenset[str]]:
    """Return the fields that a query compares with one or a few values, and those it wants in a range."""
    equal: set[str] = set()
    ranged: set[str] = set()
    for name, condition in query.items():
        if name == "$and":
            for part in condition:
                inner = constrained_fields(part)
                equal |= inner[0]
                ranged |= inner[1]
        elif not name.startswith("$"):
            points = _condition(condition, 1, simple=True)
            if points is not None:
                (ranged if points == math.inf else equal).add(name)
    return frozenset(equal), frozenset(ranged - equal)


_ABSENT: Any = object()


def _fixed_at(fixed: Filter, path: str) -> Any:
    """Return the value at a path: fixed itself, or inside a whole subdocument that is fixed."""
    if path in fixed:
        return fixed[path]
    names = path.split(".")
    for end in range(len(names) - 1, 0, -1):
        value = fixed.get(".".join(names[:end]), _ABSENT)
        for name in names[end:]:
            value = value.get(name, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is not _ABSENT:
            return value
    return _ABSENT


def _points(query: Filter, field: str, kind: int | str, simple: bool) -> float | None:
    """Return how many values of a field a query admits; infinity for a range, None when it says nothing usable."""
    best: float | None = None
    for name, condition in query.items():
        found: float | None = None
        if name == field:
            found = _condition(condition, kind, simple)
        elif name == "$and":
            found = _tightest(_points(part, field, kind, simple) for part in condition)
        elif name == "$or":
            found = _union([_points(part, field, kind, simple) for part in condition])
        best = _tightest((best, found))
    return best


def _tightest(found: Iterable[float | None]) -> float | None:
    return min((points for points in found if points is not None), default=None)


def _union(found: list[float | None]) -> float | None:
    known = [points for points in found if points is not None]
    return sum(known) if known and len(known) == len(found) else None


def _condition(condition: Any, kind: int | str, simple: bool) -> float | None:
    """Return what one field's condition admits."""
    if not _is_operators(condition):
        return _value(condition, kind, simple)
    return _tightest(_operator(name, value, condition, kind, simple) for name, value in condition.items())


def _operator(name: str, value: Any, condition: Filter, kind: int | str, simple: bool) -> float | None:
    hashed = kind == "hashed"
    if name == "$eq":
        return _value(value, kind, simple)
    if name == "$in" and isinstance(value, list | tuple):
        # an empty list matches nothing, and mongos asks one shard to say so
        return _union([_value(each, kind, simple) for each in value]) if value else 1
    if name == "$all" and isinstance(value, list | tuple):
        return _tightest(_condition(each, kind, simple) for each in value)
    if name in RANGES and not hashed and (simple or not isinstance(value, str | Mapping | list)):
        return math.inf
    if name == "$regex" and not hashed and simple:
        flags = str(condition.get("$options", ""))
        return _pattern(str(getattr(value, "pattern", value)), "i" in flags or _ignores_case(value))
    if name == "$exists" and not value and not hashed:
        return 1  # what is missing is kept as null
    return None  # $ne, $nin, $not, $type, $elemMatch and others leave nearly everything


def _value(value: Any, kind: int | str, simple: bool) -> float | None:
    """Return what equality with a value admits."""
    hashed = kind == "hashed"
    if _is_regex(value):
        return None if hashed or not simple else _pattern(str(value.pattern), _ignores_case(value))
    if isinstance(value, list | tuple):
        # a document may hold this array, or an array with it inside; a shard key can hold neither
        return None if hashed or not simple else 2
    return None if not simple and isinstance(value, str | Mapping) else 1


def _pattern(text: str, ignores_case: bool) -> float | None:
    """Return infinity for a regular expression that begins with fixed text, else None."""
    return math.inf if _PREFIX.match(text) and not ignores_case and "|" not in text else None


def _is_operators(condition: Any) -> bool:
    return isinstance(condition, Mapping) and str(next(iter(condition), "")).startswith("$")


def _is_regex(value: Any) -> bool:
    return hasattr(value, "pattern") and hasattr(value, "flags")


def _ignores_case(value: Any) -> bool:
    return bool(int(getattr(value, "flags", 0)) & re.IGNORECASE)


def _has_text(query: Filter) -> bool:
    return "$text" in query or any(_has_text(part) for part in query.get("$and", ()))


def _why_broadcast(query: Filter, lead: str, kind: int | str, collation: str) -> str:
    """Say what keeps mongos from naming a shard."""
    if _has_text(query):
        return "$text without the whole shard key"
    if kind == "hashed" and _points(query, lead, 1, simple=True) is not None:
        if collation != SIMPLE and _points(query, lead, kind, simple=True) is not None:
            return f"the collation {collation}: chunks are kept in simple order"
        return f"only exact values of {lead} name a shard, because it is hashed"
    if _points(query, lead, kind, simple=True) is not None:
        return f"the collation {collation}: chunks are kept in simple order"
    return f"{lead}, the first field of the key, is not given"


def parse_main_query(text: str) -> dict[str, Any]:
    """Return the filter that a list of fields stands for: ``userId``, or ``userId,createdAt>``.

    Args:
        text: fields with commas; one that is compared with a value stands alone, one that is wanted in a range ends
            with ``>``.

    Raises:
        EnvironmentInvalid: it is not written so.
    """
    query: dict[str, Any] = {}
    for part in text.split(","):
        name = part.strip().removesuffix(">").strip()
        bad = re.search(r"[<>=:$\s{}]", name)
        if not name or bad or "" in name.split("."):
            seen = f"main query {text!r}: {part.strip()!r} is not a field"
            raise EnvironmentInvalid(f"{seen}; write userId for equal values, createdAt> for a range, commas between")
        if name in query:
            raise EnvironmentInvalid(f"main query {text!r} names {name} twice")
        query[name] = {"$gt": VALUE} if part.strip().endswith(">") else VALUE
    return query


def broadcasts(key: Key, main_query: str) -> bool:
    """Tell whether the main query (as ``parse_main_query`` reads it) goes to every shard under a key."""
    return target(key, parse_main_query(main_query)).verdict == "broadcast"


def recommended_key(key: Key, main_query: str) -> Key | None:
    """Return the key that sends the main query to one shard and spreads inserts; None when it has no equal value.

    The hashed field goes first and the rest follows to divide the documents of one value (§6).
    """
    query = parse_main_query(main_query)
    equal = [name for name, condition in query.items() if condition == VALUE]
    if not equal:
        return None
    rest = [*(name for name in query if name not in equal), *(name for name in key if name not in query)]
    return {equal[0]: "hashed", **dict.fromkeys([*equal[1:], *rest], 1)}


def main_query_verdict(key: Key, main_query: str) -> str:
    """Say in a sentence where the main query goes under a key, and which key would serve it better.

    Args:
        key: the wanted shard key.
        main_query: as ``parse_main_query`` reads it.
    """
    query, written = parse_main_query(main_query), key_text(key)
    found = target(key, query)
    ranged = [name for name, condition in query.items() if condition != VALUE]
    asked = "queries by " + " and ".join(f"a range of {name}" if name in ranged else name for name in query)
    if found.verdict != "broadcast":
        where = "one shard" if found.verdict == "single" else "some shards"
        return f"{asked} go to {where} under {written}: {found.reason}"
    lead, kind = next(iter(key.items()))
    said = f"{asked} go to every shard under {written}: {found.reason}, so each waits for the slowest shard"
    if kind == "hashed" and lead not in query:
        said += f". Ranges of {lead} go to every shard too: only an exact {lead} names one"
    better = recommended_key(key, main_query)
    if better is None:
        return f"{said}. {ranged[0]}:1 would target them but send all new documents to one shard if it only grows"
    return f"{said}. {key_text(better)} sends them to one shard"
