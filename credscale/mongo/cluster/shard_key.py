"""Shard keys: parse, name, order and hash them exactly as MongoDB does (reference §4.4 and §4.5)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN
from typing import Any

import bson
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef

ShardKey = dict[str, int | str]

_MIN_LONG, _MAX_LONG = -(2**63), 2**63 - 1
_NUMBERS = (int, float, Decimal128)
_NULL, _NUMBER, _STRING, _OBJECT, _ARRAY, _BINARY, _ID = 5, 10, 15, 20, 25, 30, 35
_BOOL, _DATE, _TIMESTAMP, _REGEX, _CODE = 40, 45, 47, 50, 60
_LOWEST, _HIGHEST = -1, 127


def parse_shard_key(text: str) -> ShardKey:
    """Read a shard key written as `createdAt:hashed,userId:1`, or raise ValueError."""
    key: ShardKey = {}
    for part in text.split(","):
        name, colon, kind = (piece.strip() for piece in part.partition(":"))
        if not name or not colon or not kind:
            raise ValueError(f"shard key part {part.strip()!r} is not written field:1 or field:hashed")
        if name.startswith("$") or "" in name.split("."):
            raise ValueError(f"shard key field {name!r} is not a field path")
        if name in key:
            raise ValueError(f"shard key field {name!r} is named twice")
        if kind not in ("1", "hashed"):
            raise ValueError(f"shard key field {name!r} may be 1 or hashed, not {kind!r}")
        if kind == "hashed" and "hashed" in key.values():
            raise ValueError(f"shard key {text!r} has more than one hashed field, MongoDB allows one")
        key[name] = kind if kind == "hashed" else 1
    return key


def index_name(key: Mapping[str, int | str]) -> str:
    """Return the name MongoDB itself gives to the index of this key."""
    return "_".join(f"{field}_{kind}" for field, kind in key.items())


def hash_value(value: Any) -> int:
    """Return the signed 64-bit hash MongoDB stores for this value in a hashed index."""
    digest = hashlib.md5(struct.pack("<i", 0), usedforsecurity=False)
    _feed(digest, value, "")
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


def _feed(digest: Any, value: Any, name: str | None) -> None:
    """Add one element to the digest: type, field name inside documents, then the squashed value."""
    digest.update(struct.pack("<i", sort_key(value)[0]))
    if name:
        digest.update(name.encode() + b"\0")
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, Mapping):
        members = list(value.items())
    elif isinstance(value, list | tuple):
        members = [(str(position), item) for position, item in enumerate(value)]
    elif isinstance(value, _NUMBERS) and not isinstance(value, bool):
        digest.update(struct.pack("<q", _as_long(value)))
        return
    else:
        # A document of one nameless field is 4 length bytes, a type, an empty name, the value, an end mark.
        digest.update(bson.encode({"": value})[6:-1])
        return
    for member, item in members:
        _feed(digest, item, member)
    digest.update(struct.pack("<i", 0))


def _as_long(value: Any) -> int:
    """Return a number as the 64-bit integer the hash uses: truncated, saturated, NaN as zero."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Decimal128):
        exact = value.to_decimal()
        if exact.is_nan():
            return 0
        if exact.is_infinite():
            return _MAX_LONG if exact > 0 else _MIN_LONG
        # Decimals are rounded half to even where doubles are truncated.
        number = int(exact.to_integral_value(rounding=ROUND_HALF_EVEN))
    elif value != value:
        return 0
    elif value in (float("inf"), float("-inf")):
        return _MAX_LONG if value > 0 else _MIN_LONG
    else:
        number = int(value)
    return max(_MIN_LONG, min(_MAX_LONG, number))


def sort_key(value: Any) -> tuple[Any, ...]:
    """Return a tuple that compares as MongoDB compares BSON values of any types."""
    if value is None:
        return (_NULL,)
    if isinstance(value, bool):
        return (_BOOL, value)
    if isinstance(value, str):
        return (_CODE if isinstance(value, Code) else _STRING, value.encode())
    if isinstance(value, _NUMBERS):
        return _number_key(value)
    if isinstance(value, datetime | DatetimeMS):
        return (_DATE, int(value if isinstance(value, DatetimeMS) else DatetimeMS(value)))
    if isinstance(value, ObjectId):
        return (_ID, value.binary)
    return _rare_key(value)


def _number_key(value: Any) -> tuple[Any, ...]:
    """Order numbers across their types, NaN below all."""
    number = value.to_decimal() if isinstance(value, Decimal128) else value
    return (_NUMBER, 0) if number != number else (_NUMBER, 1, number)


def _rare_key(value: Any) -> tuple[Any, ...]:
    """Order the values of the types seldom seen in a shard key."""
    if isinstance(value, MinKey):
        return (_LOWEST,)
    if isinstance(value, MaxKey):
        return (_HIGHEST,)
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, Mapping):
        # MongoDB compares fields one by one: type first, then name, then value.
        pairs = ((name, sort_key(item)) for name, item in value.items())
        return (_OBJECT, tuple((order[0], name.encode(), order) for name, order in pairs))
    if isinstance(value, list | tuple):
        return (_ARRAY, tuple(sort_key(item) for item in value))
    if isinstance(value, bytes):
        subtype = value.subtype if isinstance(value, Binary) else 0
        return (_BINARY, len(value), subtype, bytes(value))
    if isinstance(value, Timestamp):
        return (_TIMESTAMP, value.time, value.inc)
    if isinstance(value, Regex):
        return (_REGEX, str(value.pattern), value.flags)
    raise ValueError(f"a value of type {type(value).__name__} has no place in MongoDB's order")


def key_of(document: Mapping[str, Any], key: Mapping[str, int | str]) -> dict[str, Any]:
    """Return the document's shard key value as it stands in chunk bounds, or raise ValueError for arrays."""
    found: dict[str, Any] = {}
    for path, kind in key.items():
        value = _value_at(document, path)
        found[path] = Int64(hash_value(value)) if kind == "hashed" else value
    return found


def has_array(document: Mapping[str, Any], key: Mapping[str, int | str]) -> bool:
    """Tell whether an array lies on the path of a key field, which MongoDB refuses in a shard key."""
    try:
        for path in key:
            _value_at(document, path)
    except ValueError:
        return True
    return False


def _value_at(document: Mapping[str, Any], path: str) -> Any:
    """Follow a dotted path through documents; what is missing counts as null."""
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, list):
            raise ValueError(f"shard key field {path!r} holds an array")  # noqa: TRY004 - the value is wrong, not its type
    return value
