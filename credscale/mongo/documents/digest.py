"""Order-independent digests of raw BSON, and the comparison of two document sets.

A document that mongos or a migration moves stays byte-identical, so equality is byte equality: a different field order
or a number stored with another type is a difference, and that is wanted. The digest does not depend on the order of
documents or on the shard key, so a baseline taken from a replica set compares with a scan through mongos.

Each document falls into one of ``BUCKETS`` buckets by its ``_id``. Per bucket three numbers are kept: how many
documents, the sum of their hashes modulo 2^128, and the xor of their hashes. Xor alone does not see a document that is
there twice; sum and count do. A bucket that differs tells where to look: ``document_hashes`` then lists that bucket.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import bson

from credscale.core.errors import VerificationFailed
from credscale.mongo.documents.raw import RAW

BUCKETS = 1024
ALGORITHM = f"blake2b-128 of raw BSON in {BUCKETS} buckets by _id"

# Called now and then with the documents and the bytes handled so far.
Progress = Callable[[int, int], None]
PROGRESS_EVERY = 1000

_HASH_BYTES = 16
_MODULUS = 1 << (8 * _HASH_BYTES)
# The BSON specification: element types of fixed size, and those that start with an int32 length plus so many bytes.
_FIXED = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0xFF: 0, 0x7F: 0}
_LENGTH_PREFIXED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
_REGEX = 0x0B


@dataclass(frozen=True)
class DocumentId:
    """An `_id`: equal when its raw bytes are, so that 1, 1.0 and true stay three different ids.

    Args:
        key: type byte and raw value, as ``id_key`` gives them.
        value: the decoded value, for people and for queries.
    """

    key: bytes
    value: Any = field(compare=False)


@dataclass(frozen=True)
class Digest:
    """The digest of a set of documents.

    Args:
        documents: how many.
        bytes: their total size.
        buckets: per bucket the count, the sum modulo 2^128 and the xor of the document hashes.
    """

    documents: int
    bytes: int
    buckets: tuple[tuple[int, int, int], ...]

    @property
    def fingerprint(self) -> str:
        """Return 16 hex characters for people; equal digests have equal fingerprints."""
        whole = hashlib.sha256()
        for count, total, xor in self.buckets:
            whole.update(b"%x:%x:%x;" % (count, total, xor))
        return whole.hexdigest()[:16]

    def differing(self, other: Digest) -> list[int]:
        """Return the numbers of the buckets in which two digests differ, ascending."""
        return [n for n, (mine, theirs) in enumerate(zip(self.buckets, other.buckets, strict=True)) if mine != theirs]

    def to_json(self) -> dict[str, Any]:
        """Return the digest as JSON data; empty buckets are left out."""
        return {
            "algorithm": ALGORITHM,
            "documents": self.documents,
            "bytes": self.bytes,
            "fingerprint": self.fingerprint,
            "buckets": {
                str(n): f"{count}:{total:x}:{xor:x}" for n, (count, total, xor) in enumerate(self.buckets) if count
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Digest:
        """Read back what ``to_json`` gave.

        Raises:
            VerificationFailed: another algorithm made it, or its parts contradict each other.
        """
        if data.get("algorithm") != ALGORITHM:
            raise VerificationFailed(
                f"A digest by {data.get('algorithm')!r} can't be compared here; expected {ALGORITHM!r}. "
                "Take the baseline again with this version."
            )
        buckets = [(0, 0, 0)] * BUCKETS
        for n, text in data["buckets"].items():
            count, total, xor = text.split(":")
            buckets[int(n)] = (int(count), int(total, 16), int(xor, 16))
        digest = cls(int(data["documents"]), int(data["bytes"]), tuple(buckets))
        if digest.fingerprint != data["fingerprint"] or digest.documents != sum(count for count, _, _ in buckets):
            raise VerificationFailed("A stored digest contradicts itself: it was edited or damaged. Take it again.")
        return digest


class Digester:
    """Collects a digest document by document; its size does not grow with their number."""

    def __init__(self) -> None:
        self.documents = 0
        self.bytes = 0
        self._count = [0] * BUCKETS
        self._sum = [0] * BUCKETS
        self._xor = [0] * BUCKETS

    def add(self, raw: bytes) -> None:
        """Add one raw document."""
        n = bucket_of(id_key(raw))
        value = int.from_bytes(document_hash(raw), "big")
        self._count[n] += 1
        self._sum[n] += value
        self._xor[n] ^= value
        self.documents += 1
        self.bytes += len(raw)

    def digest(self) -> Digest:
        """Return the digest of what was added so far."""
        sums = (total % _MODULUS for total in self._sum)
        return Digest(self.documents, self.bytes, tuple(zip(self._count, sums, self._xor, strict=True)))


def digest_documents(documents: Iterable[bytes], on_progress: Progress | None = None) -> Digest:
    """Digest a stream of raw documents in flat memory.

    Args:
        documents: raw BSON documents in any order.
        on_progress: called every 1000 documents and at the end.
    """
    digester = Digester()
    for raw in documents:
        digester.add(raw)
        if on_progress is not None and digester.documents % PROGRESS_EVERY == 0:
            on_progress(digester.documents, digester.bytes)
    if on_progress is not None:
        on_progress(digester.documents, digester.bytes)
    return digester.digest()


def document_hash(raw: bytes) -> bytes:
    """Return the 16-byte hash of one raw document."""
    return hashlib.blake2b(raw, digest_size=_HASH_BYTES).digest()


def bucket_of(key: bytes) -> int:
    """Return the bucket of an id key: hashed, since neighbouring ObjectIds share their first bytes."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big") % BUCKETS


def id_key(raw: bytes) -> bytes:
    """Return type byte and raw value of a document's `_id`, without decoding the document.

    Raises:
        VerificationFailed: the document has no `_id` or is not well-formed.
    """
    # The server stores `_id` first; only documents that never went through an insert have it elsewhere.
    if raw[5:9] == b"_id\0":
        return raw[4:5] + raw[9 : _value_end(raw, raw[4], 9)]
    for name, element in elements(raw):
        if name == b"_id":
            return element
    raise VerificationFailed(f"A document of {len(raw)} bytes has no _id: it is damaged or no stored document.")


def elements(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give name, and type byte with raw value, of every element of a raw document, without decoding it.

    Raises:
        VerificationFailed: the document is not well-formed.
    """
    position = 4
    while position < len(raw) and raw[position]:
        start = _after_nul(raw, position + 1)
        end = _value_end(raw, raw[position], start)
        yield raw[position + 1 : start - 1], raw[position : position + 1] + raw[start:end]
        position = end


def id_value(key: bytes) -> Any:
    """Return the decoded value of an id key."""
    element = key[:1] + b"_id\0" + key[1:]
    return bson.decode((len(element) + 5).to_bytes(4, "little") + element + b"\0", RAW)["_id"]


def document_id(raw: bytes) -> DocumentId:
    """Return the `_id` of a raw document."""
    key = id_key(raw)
    return DocumentId(key, id_value(key))


def document_hashes(documents: Iterable[bytes], buckets: Iterable[int]) -> dict[bytes, bytes]:
    """List the documents of some buckets, for ``compare``.

    Memory is about 200 bytes for each document in these buckets. When nearly every bucket of a large collection
    differs, take the buckets in groups, one scan for each.

    Args:
        documents: raw BSON documents in any order.
        buckets: the bucket numbers wanted, as ``Digest.differing`` gives them.

    Returns:
        The hashes by id key. An `_id` that occurs more than once (two shards can hold the same one) has its sorted
        16-byte hashes one after the other.
    """
    return joined(hashed(documents, frozenset(buckets)))


def hashed(documents: Iterable[bytes], buckets: frozenset[int] | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Give id key and hash of the documents of some buckets, or of all; only what is given is hashed."""
    for raw in documents:
        key = id_key(raw)
        if buckets is None or bucket_of(key) in buckets:
            yield key, document_hash(raw)


def joined(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return hashes by id key, as ``compare`` wants them, from id keys and hashes one by one."""
    found: dict[bytes, bytes] = {}
    for key, value in pairs:
        found[key] = with_copy(found.get(key, b""), value)
    return found


@dataclass(frozen=True)
class Difference:
    """What differs between two document sets.

    Args:
        missing: before, but not (or in fewer copies) after.
        added: after, but not before.
        changed: on both sides with other content.
        duplicated: in more copies after than before, and in more than one.
    """

    missing: tuple[DocumentId, ...] = ()
    added: tuple[DocumentId, ...] = ()
    changed: tuple[DocumentId, ...] = ()
    duplicated: tuple[DocumentId, ...] = ()

    def __bool__(self) -> bool:
        """Return whether anything differs."""
        return bool(self.missing or self.added or self.changed or self.duplicated)


def compare(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> Difference:
    """Compare two results of ``document_hashes`` taken with the same buckets; ids come in the order of their keys."""
    missing, added, changed, duplicated = [], [], [], []
    for key in sorted(before.keys() | after.keys()):
        old, new = Counter(_hashes(before.get(key, b""))), Counter(_hashes(after.get(key, b"")))
        if old == new:
            continue
        item = DocumentId(key, id_value(key))
        if new.total() < old.total():
            missing.append(item)
        if not old:
            added.append(item)
        if new.total() > max(1, old.total()):
            duplicated.append(item)
        # Both sides hold a version that the other has not; a copy more or less alone is not a change.
        if old and new and (new - old) and (old - new):
            changed.append(item)
    return Difference(tuple(missing), tuple(added), tuple(changed), tuple(duplicated))


def with_copy(joined: bytes, value: bytes) -> bytes:
    """Add the hash of one more document with the same `_id` to those known, as ``compare`` wants them."""
    return b"".join(sorted([*_hashes(joined), value])) if joined else value


def _hashes(joined: bytes) -> list[bytes]:
    return [joined[at : at + _HASH_BYTES] for at in range(0, len(joined), _HASH_BYTES)]


def _value_end(raw: bytes, kind: int, start: int) -> int:
    """Return where the value of an element ends."""
    if kind in _FIXED:
        end = start + _FIXED[kind]
    elif kind in _LENGTH_PREFIXED:
        end = start + int.from_bytes(raw[start : start + 4], "little") + _LENGTH_PREFIXED[kind]
    elif kind == _REGEX:
        end = _after_nul(raw, _after_nul(raw, start))
    else:
        raise VerificationFailed(f"A document has an element of unknown BSON type 0x{kind:02x}: it is damaged.")
    # The document's own last byte is its NUL, so a value ends before it. `start < end` fails only on damaged lengths.
    if end < start or end >= len(raw):
        raise VerificationFailed(f"A document of {len(raw)} bytes has an element that ends at {end}: it is damaged.")
    return end


def _after_nul(raw: bytes, start: int) -> int:
    at = raw.find(b"\0", start)
    if at < 0:
        raise VerificationFailed(f"A document of {len(raw)} bytes has a name without an end: it is damaged.")
    return at + 1
