"""Queries without their values: what was asked of which fields, how often; pure.

A value is replaced by a stand-in of its BSON type, so that a shape is still a filter that ``targeting`` and ``writes``
judge as they would the real one, and holds nothing of a user.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bson import ObjectId, Regex
from bson.datetime_ms import DatetimeMS

from credscale.mongo.advice.targeting import VALUE, constrained_fields
from credscale.mongo.advice.writes import OPERATIONS, Write

if TYPE_CHECKING:
    from credscale.mongo.advice.writes import Operation

READS = ("find", "aggregate", "count", "distinct")
DATE, IDENTITY = datetime(1970, 1, 1, tzinfo=UTC), ObjectId("0" * 24)
ENOUGH, LONGEST_LIST = 2, 1000
DEEPEST = 12
# Their arguments are texts, code or expressions; none of them names a shard.
_OPAQUE = frozenset({"$where", "$expr", "$jsonSchema", "$text", "$function", "$mod", "$comment", "$sampleRate"})


@dataclass(frozen=True)
class Shape:
    """One kind of query and how often it was seen.

    Args:
        operation: a read (``find``, ``aggregate``, ``count``, ``distinct``) or one of ``writes.OPERATIONS``.
        filter: with stand-ins for values.
        update: operators with the names of fields, or the new document's fields; None for reads.
        upsert: whether it inserts what it does not find.
        collation: the locale it names, empty for none.
        count: how often it was seen.
        source: where.
    """

    operation: str
    filter: dict[str, Any]
    update: Any = None
    upsert: bool = False
    collation: str = ""
    count: int = 1
    source: str = ""

    @property
    def is_write(self) -> bool:
        """Whether it is a write that has a filter."""
        return self.operation in OPERATIONS and self.operation != "insert"

    @property
    def write(self) -> Write:
        """The write as ``writes.judge`` takes it; only for writes."""
        operation: Operation = next(each for each in OPERATIONS if each == self.operation)
        return Write(operation, self.filter, self.update, self.upsert, self.collation)

    @property
    def text(self) -> str:
        """The shape in words, such as ``find userId, createdAt range``."""
        upsert = " upsert" if self.upsert else ""
        return f"{self.operation}{upsert} {filter_text(self.filter)}"


def make_shape(
    operation: str,
    query: Mapping[str, Any],
    update: Any = None,
    *,
    upsert: bool = False,
    collation: str = "",
    count: int = 1,
    source: str = "",
) -> Shape:
    """Return the shape of a query; its values are dropped here."""
    kept = redact_filter(query)
    changed = None if update is None else redact_update(update)
    return Shape(operation, kept, changed, upsert, collation, count, source)


def group(shapes: Iterable[Shape]) -> list[Shape]:
    """Add up shapes that are the same, most frequent first."""
    counts: Counter[str] = Counter()
    first: dict[str, Shape] = {}
    for shape in shapes:
        parts = [shape.operation, shape.filter, shape.update, shape.upsert, shape.collation, shape.source]
        name = json.dumps(parts, default=repr, sort_keys=True)
        counts[name] += shape.count
        first.setdefault(name, shape)
    return [replace(first[name], count=count) for name, count in counts.most_common()]


def redact_filter(query: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return a filter with stand-ins for its values."""
    found: dict[str, Any] = {}
    for name, condition in query.items():
        if name == "$comment":
            continue
        if name in ("$and", "$or", "$nor") and isinstance(condition, list | tuple) and depth < DEEPEST:
            parts = [redact_filter(part, depth + 1) for part in condition if isinstance(part, Mapping)]
            found[name] = parts if name == "$and" else _different(parts)
        elif name in _OPAQUE or name.startswith("$"):
            found[name] = {}
        else:
            found[name] = _redact(condition, depth)
    return found


def _different(parts: list[Any]) -> list[Any]:
    """Return the different parts of a list, two of them at least where there are two: more make no difference."""
    kept: list[Any] = []
    for part in parts:
        if part not in kept:
            kept.append(part)
    return kept if len(kept) >= ENOUGH else parts[:ENOUGH]


def _redact(value: Any, depth: int) -> Any:
    """Return a stand-in of the same type; operators and the names of subfields stay."""
    if depth >= DEEPEST:
        return VALUE
    if isinstance(value, Mapping):
        return {name: {} if name in _OPAQUE else _argument(name, item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return _different([_redact(item, depth + 1) for item in value[:LONGEST_LIST]])
    if hasattr(value, "pattern"):
        return Regex(_stand_in_pattern(str(value.pattern)), int(getattr(value, "flags", 0)) & re.IGNORECASE)
    return _stand_in(value)


def _argument(operator: str, value: Any, depth: int) -> Any:
    """Return the stand-in for what an operator, or a subfield, is given."""
    if operator == "$regex":
        return _stand_in_pattern(str(getattr(value, "pattern", value)))
    if operator in ("$options", "$exists", "$type"):
        return value if isinstance(value, str | bool | int) else VALUE
    return _redact(value, depth)


def _stand_in_pattern(pattern: str) -> str:
    """Keep of a regular expression only whether it is anchored at fixed text."""
    return "^x" if re.match(r"(\^|\\A)[^\\^$.|?*+()\[\]{}]", pattern) and "|" not in pattern else "x"


def _stand_in(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return VALUE
    if isinstance(value, int | float):
        return 1
    if isinstance(value, datetime | DatetimeMS):
        return DATE
    if isinstance(value, ObjectId):
        return IDENTITY
    return type(value)() if type(value).__name__ in ("MinKey", "MaxKey") else 1


def redact_update(update: Any) -> Any:
    """Return the operators and fields of an update, or the fields of a replacement, without values."""
    if isinstance(update, list | tuple):
        return [redact_update(stage) for stage in update[:DEEPEST] if isinstance(stage, Mapping)]
    if not isinstance(update, Mapping):
        return {}
    if not str(next(iter(update), "")).startswith("$"):
        return {name: _redact(value, 1) for name, value in update.items()}
    found: dict[str, Any] = {}
    for operator, fields in update.items():
        if operator == "$rename" and isinstance(fields, Mapping):
            found[operator] = {name: str(new) for name, new in fields.items()}
        elif isinstance(fields, Mapping):
            found[operator] = dict.fromkeys(fields, 1)
        elif operator == "$unset":
            found[operator] = fields
        else:
            found[operator] = {}
    return found


def filter_text(query: Mapping[str, Any]) -> str:
    """Return a redacted filter in words: fields, and what is asked of them unless it is equality."""
    words = [
        f"{name}({' | '.join(filter_text(part) for part in condition)})"
        if name in ("$and", "$or", "$nor") and condition
        else _field_text(name, condition)
        for name, condition in query.items()
    ]
    return ", ".join(words) if words else "everything"


def _field_text(name: str, condition: Any) -> str:
    operators = [each for each in condition if str(each).startswith("$")] if isinstance(condition, Mapping) else []
    if hasattr(condition, "pattern"):
        operators = ["$regex"]
    if operators and all(each in ("$gt", "$gte", "$lt", "$lte") for each in operators):
        return f"{name} range"
    told = [each.removeprefix("$") for each in operators if each not in ("$eq", "$options")]
    return f"{name} {' '.join(told)}" if told else name


def frequent_fields(shapes: Iterable[Shape], least: float = 0.05) -> tuple[list[str], list[str]]:
    """Return the fields that queries compare with values, and those they want in ranges, most frequent first.

    Args:
        shapes: the queries.
        least: the share of all queries below which a field is left out.
    """
    equal: Counter[str] = Counter()
    ranged: Counter[str] = Counter()
    total = 0
    for shape in shapes:
        total += shape.count
        same, between = constrained_fields(shape.filter)
        for counter, names in ((equal, same), (ranged, between)):
            counter.update(dict.fromkeys(sorted(names), shape.count))
    lowest = least * total
    return _above(equal, lowest), _above(ranged, lowest)


def _above(counts: Counter[str], lowest: float) -> list[str]:
    return [name for name, count in counts.most_common() if count >= lowest]
