"""What an oplog entry says of a document's content, and whether the document is as its last writes left it.

An insert and a replacement say all of it. An update says which fields it set and removed: as ``$set`` and ``$unset``
with dotted paths (``$v: 1``, up to 4.4), or as a diff (``$v: 2``: pipelines in 4.4, everything since 5.0). A
replacement is told by the ``_id`` that only it has.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from credscale.mongo.documents.digest import document_hash, elements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Path = tuple[bytes, ...]
REMOVED = b""
_CONTAINERS = (3, 4)  # BSON's document and array; an array is a document whose names are 0, 1, ...


@dataclass(frozen=True)
class Effect:
    """What one entry says of the document that it leaves.

    Args:
        whole: the hash of all of it; empty where the entry says only what changed.
        fields: what changed, in this order: path and hash of the value, ``REMOVED``, or None where only the path is
            known. The empty path is the whole document.
    """

    whole: bytes = b""
    fields: tuple[tuple[Path, bytes | None], ...] = (((), None),)


UNKNOWN = Effect()


def of_insert(raw: bytes) -> Effect:
    """Understand ``o`` of an insert."""
    return Effect(document_hash(raw), ())


def of_update(raw: bytes) -> Effect:
    """Understand ``o`` of an update; a form that is not known says nothing."""
    parts = dict(elements(raw))
    if b"_id" in parts:
        return of_insert(raw)
    if b"diff" in parts:
        return Effect(fields=tuple(_diff(parts[b"diff"][1:], ())))
    if parts and parts.keys() <= {b"$v", b"$set", b"$unset"}:
        return Effect(fields=tuple(_modifiers(parts)))
    return UNKNOWN


def _diff(raw: bytes, path: Path) -> Iterator[tuple[Path, bytes | None]]:
    parts = list(elements(raw))
    # Only an array's diff has the field `a`; it may have been cut, so what was known of its elements is not any more.
    of_array = any(name == b"a" for name, _ in parts)
    if of_array:
        yield path, None
    for name, element in parts:
        if name[:1] == b"s":
            yield from _diff(element[1:], (*path, name[1:]))
        elif of_array and name[:1] == b"u":
            yield (*path, name[1:]), _hash(element)
        elif not of_array and name in (b"i", b"u"):
            for each, value in elements(element[1:]):
                yield (*path, each), _hash(value)
        elif not of_array and name == b"d":
            for each, _ in elements(element[1:]):
                yield (*path, each), REMOVED
        elif not (of_array and name in (b"a", b"l")):
            yield path, None


def _modifiers(parts: Mapping[bytes, bytes]) -> Iterator[tuple[Path, bytes | None]]:
    for name, value in elements(parts[b"$set"][1:]) if b"$set" in parts else ():
        yield tuple(name.split(b".")), _hash(value)
    for name, _ in elements(parts[b"$unset"][1:]) if b"$unset" in parts else ():
        path = tuple(name.split(b"."))
        # In an array $unset leaves null, and whether a number is an array's position the path does not tell.
        yield path, None if any(part.isdigit() for part in path[1:]) else REMOVED


@dataclass(frozen=True)
class State:
    """A document as the writes so far leave it, as much as they say.

    Args:
        exists: whether it is there.
        whole: the hash of all of it; empty where that is not known.
        fields: the fields of which it is known, by path: hash of the value, or ``REMOVED``.
    """

    exists: bool
    whole: bytes = b""
    fields: Mapping[Path, bytes] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether anything is known of its content."""
        return bool(self.whole or self.fields)

    def then(self, op: str, effect: Effect) -> State:
        """Return the state after one more write."""
        if op == "d":
            return State(False)
        if effect.whole or op == "i":
            return State(True, effect.whole)
        fields = dict(self.fields) if self.exists else {}
        for path, value in effect.fields:
            for known in [each for each in fields if each[: len(path)] == path or path[: len(each)] == each]:
                del fields[known]
            if value is not None:
                fields[path] = value
        return State(True, b"", fields)

    def agrees(self, copies: Iterable[bytes]) -> bool:
        """Tell whether the documents that now have this `_id` can be what the writes left; of several one has to be."""
        copies = list(copies)
        if not (self.exists and copies):
            return self.exists == bool(copies)
        return any(self._is(raw) for raw in copies)

    def _is(self, raw: bytes) -> bool:
        if self.whole:
            return document_hash(raw) == self.whole
        return all(_value_at(raw, path) == value for path, value in self.fields.items())


def _value_at(raw: bytes, path: Path) -> bytes:
    """Return the hash of the value at a path of a document; ``REMOVED`` where there is none."""
    *parents, last = path
    for name in parents:
        element = dict(elements(raw)).get(name, b"\x00")
        if element[0] not in _CONTAINERS:
            return REMOVED
        raw = element[1:]
    element = dict(elements(raw)).get(last, b"")
    return _hash(element) if element else REMOVED


def _hash(element: bytes) -> bytes:
    return hashlib.blake2b(element, digest_size=16).digest()
