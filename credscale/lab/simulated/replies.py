"""How the simulated mongos words its answers: errors with MongoDB's codes, documents as the shell prints them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bson import Binary, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS

Document = dict[str, Any]

CODE_NAMES = {
    2: "BadValue",
    6: "HostUnreachable",
    9: "FailedToParse",
    14: "TypeMismatch",
    20: "IllegalOperation",
    23: "AlreadyInitialized",
    26: "NamespaceNotFound",
    27: "IndexNotFound",
    40: "ConflictingUpdateOperators",
    43: "CursorNotFound",
    48: "NamespaceExists",
    50: "MaxTimeMSExpired",
    59: "CommandNotFound",
    61: "ShardKeyNotFound",
    66: "ImmutableField",
    67: "CannotCreateIndex",
    70: "ShardNotFound",
    72: "InvalidOptions",
    87: "CannotSplit",
    96: "OperationFailed",
    115: "CommandNotSupported",
    117: "ConflictingOperationInProgress",
    118: "NamespaceNotSharded",
    133: "FailedToSatisfyReadPreference",
    166: "CommandNotSupportedOnView",
    189: "PrimarySteppedDown",
    10107: "NotWritablePrimary",
}


class CommandFailed(Exception):
    """A command's refusal, as it goes over the wire."""

    def __init__(self, code: int | None, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.extra = extra

    def document(self) -> Document:
        """Return the error reply; a few of MongoDB's errors carry no code."""
        reply: Document = {**self.extra, "ok": 0.0, "errmsg": self.message}
        if self.code is not None:
            reply |= {"code": self.code, "codeName": code_name(self.code)}
        return reply

    def write_error(self, index: int) -> Document:
        """Return the error as one entry of writeErrors."""
        code = self.code or 8
        return {"index": index, "code": code, "codeName": code_name(code), "errmsg": self.message}


def code_name(code: int) -> str:
    """Return MongoDB's name of an error code."""
    return CODE_NAMES.get(code, f"Location{code}")


def refuse_failure(reply: Mapping[str, Any]) -> None:
    """Raise the error that a forwarded command was answered with, if it was."""
    if not reply.get("ok"):
        extra = {name: reply[name] for name in ("keyPattern", "keyValue") if name in reply}
        raise CommandFailed(reply.get("code"), str(reply.get("errmsg")), **extra)


def shell_text(value: Any) -> str:
    """Print a value as MongoDB's messages print it."""
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        return "{ " + ", ".join(f"{name}: {shell_text(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[ " + ", ".join(shell_text(item) for item in value) + " ]" if value else "[]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    return _shell_scalar(value)


def _shell_scalar(value: Any) -> str:
    """Print the values whose text depends on a type of BSON's own."""
    if value is None:
        return "null"
    if isinstance(value, MinKey | MaxKey):
        return type(value).__name__
    if isinstance(value, ObjectId):
        return f"ObjectId('{value}')"
    if isinstance(value, datetime):
        return f"new Date({int(DatetimeMS(value))})"
    if isinstance(value, Timestamp):
        return f"Timestamp({value.time}, {value.inc})"
    if isinstance(value, Binary) and value.subtype == 4:
        return f'UUID("{value.as_uuid()}")'
    return str(value)


def long(number: float) -> Int64:
    """Mark a number as a 64-bit integer."""
    return Int64(int(number))
