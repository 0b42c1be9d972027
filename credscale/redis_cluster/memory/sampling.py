"""A bounded sample of a node's keys: what kinds there are, when they expire, how big they are.

Never KEYS: a small node is read whole with SCAN, of a larger one RANDOMKEY draws keys, which costs the same at any
size. (From Redis 7.4 and Valkey 8 on SCAN goes slot by slot, so its first keys are no sample of a node.) None of the
commands counts as a use of a key for LRU or LFU.

Names of keys hold session ids, users and addresses, so what is reported is a pattern: a part of a name stays only
where several sampled keys share it.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.redis_cluster.cluster.slots import key_slot

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis

BATCH = 200
SAMPLES = 5  # elements that MEMORY USAGE looks at to estimate a collection (its own default)
SHARED = 3
_PARTS = re.compile(r"([:.|/{}#]+)")
_WORD = re.compile(r"[A-Za-z][A-Za-z_-]{0,23}")
SESSION_WORDS = frozenset({"sess", "session", "sessions", "connect.sid"})
QUEUE_WORDS = frozenset({"bull", "bullmq", "queue", "queues", "celery", "rq", "sidekiq", "resque", "kombu"})
JOB_WORDS = frozenset(
    {"wait", "active", "delayed", "completed", "failed", "paused", "prioritized", "meta", "id", "events", "stalled",
     "waiting-children", "marker", "limiter", "repeat"}
)  # fmt: skip
TTL_CLASSES = ((60, "up to 1 min"), (3600, "up to 1 h"), (86_400, "up to 1 day"), (604_800, "up to 7 days"))


@dataclass(frozen=True)
class KeyFact:
    """A sampled key.

    Args:
        address: of its node.
        pattern: its name, with ``*`` for what it has for itself.
        kind: session, queue or other, by its name.
        type: string, list, hash ...
        slot: of the key; with its pattern that finds it.
        ttl: seconds; None for a key that lasts.
        bytes: its estimated size; None where it was not asked.
    """

    address: str
    pattern: str
    kind: str
    type: str
    slot: int
    ttl: float | None
    bytes: int | None = None


@dataclass(frozen=True)
class Sample:
    """The keys looked at on one node; ``whole`` when they are all, ``error`` when it did not let us."""

    address: str
    keys: tuple[KeyFact, ...]
    total: int
    whole: bool
    error: str = ""


def sample_keys(client: Redis, address: str, *, most: int, seconds: float, sizes: bool) -> Sample:
    """Look at some keys of a node.

    Args:
        client: of the node.
        address: of the node.
        most: how many keys at most.
        seconds: after which no further batch is begun.
        sizes: whether to ask for the size of each as well.
    """
    from redis.exceptions import RedisError

    deadline = time.monotonic() + seconds
    try:
        node: Any = client
        total = int(node.dbsize())
        names = _scan(node, most, deadline) if total <= most else _draw(node, most, deadline)
        facts = _ask(node, address, names, deadline, sizes=sizes)
    except (RedisError, OSError) as error:
        return Sample(address, (), 0, whole=False, error=f"{type(error).__name__}: {error}")
    return Sample(address, facts, total, whole=len(names) >= total and len(facts) == len(names))


def _scan(client: Any, most: int, deadline: float) -> list[str]:
    found: dict[str, None] = {}
    cursor = 0
    while True:
        cursor, names = client.scan(cursor, count=BATCH)
        found |= dict.fromkeys(names)
        if not int(cursor) or len(found) >= most or time.monotonic() >= deadline:
            return list(found)[:most]


def _draw(client: Any, most: int, deadline: float) -> list[str]:
    found: dict[str, None] = {}
    for _ in range(-(-most // BATCH)):
        pipeline = client.pipeline(transaction=False)
        for _ in range(BATCH):
            pipeline.randomkey()
        found |= dict.fromkeys(name for name in _replies(pipeline) if name is not None)
        if time.monotonic() >= deadline:
            break
    return list(found)[:most]


def _replies(pipeline: Any) -> list[Any]:
    """Return a pipeline's replies; a key of a slot on its way has an error for one.

    SCAN and RANDOMKEY tell keys of slots that arrive or leave as well, and every command on those is redirected.

    Raises:
        RedisError: any other; as the server put it, for redis-py would add the command, and with it the key's name.
    """
    from redis.exceptions import AskError, MovedError, TryAgainError

    replies: list[Any] = pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and not isinstance(reply, AskError | MovedError | TryAgainError):
            raise reply
    return replies


def _ask(client: Any, address: str, names: Sequence[str], deadline: float, *, sizes: bool) -> tuple[KeyFact, ...]:
    answers: list[tuple[str, str, int, int | None]] = []
    each = 3 if sizes else 2
    for start in range(0, len(names), BATCH):
        pipeline = client.pipeline(transaction=False)
        batch = names[start : start + BATCH]
        for name in batch:
            pipeline.type(name).pttl(name)
            if sizes:
                pipeline.memory_usage(name, samples=SAMPLES)
        replies = _replies(pipeline)
        for number, name in enumerate(batch):
            kind, ttl, *size = replies[each * number : each * (number + 1)]
            gone = kind == "none" or any(isinstance(reply, Exception) for reply in (kind, ttl, *size))
            if not gone:
                answers.append((name, str(kind), int(ttl), int(size[0]) if sizes and size[0] is not None else None))
        if time.monotonic() >= deadline:
            break
    shown = patterns(name for name, *_ in answers)
    return tuple(
        KeyFact(address, shown[name], kind_of(name), kind, key_slot(name), ttl / 1000 if ttl >= 0 else None, size)
        for name, kind, ttl, size in answers
    )


def kind_of(name: str) -> str:
    """Return what a key's name says it is: session, queue or other."""
    words = {part.lower() for part in _PARTS.split(name)[::2]}
    if words & SESSION_WORDS or "connect.sid" in name:
        return "session"
    return "queue" if words & QUEUE_WORDS else "other"


def patterns(names: Iterable[str]) -> dict[str, str]:
    """Return for each name its pattern: parts that fewer than three names share, or that hold digits, become ``*``."""
    split = {name: _PARTS.split(name) for name in names}
    shared = Counter((place, part) for parts in split.values() for place, part in enumerate(parts))
    known = SESSION_WORDS | QUEUE_WORDS | JOB_WORDS

    def show(place: int, part: str) -> str:
        if place % 2 or not part:
            return part
        plain = part.lower() in known or (shared[place, part] >= SHARED and _WORD.fullmatch(part))
        return part if plain else "*"

    return {name: "".join(show(place, part) for place, part in enumerate(parts)) for name, parts in split.items()}


def ttl_class(ttl: float | None) -> str:
    """Return the class of a time to live in seconds."""
    if ttl is None:
        return "no TTL"
    return next((name for most, name in TTL_CLASSES if ttl <= most), "longer")


def ttl_rows(keys: Sequence[KeyFact]) -> list[dict[str, Any]]:
    """Return how many sampled keys expire when, as rows."""
    counts = Counter(ttl_class(key.ttl) for key in keys)
    names = ["no TTL", *(name for _, name in TTL_CLASSES), "longer"]
    return [{"time to live": name, "keys": counts[name], "share": _share(counts[name], keys)} for name in names if keys]


def pattern_rows(keys: Sequence[KeyFact], most: int = 20) -> list[dict[str, Any]]:
    """Return the patterns of sampled keys, the most frequent first, as rows."""
    groups: dict[tuple[str, str, str], list[KeyFact]] = defaultdict(list)
    for key in keys:
        groups[key.pattern, key.kind, key.type].append(key)
    rows = []
    for (pattern, kind, type_), group in sorted(groups.items(), key=lambda each: (-len(each[1]), each[0]))[:most]:
        sizes = [key.bytes for key in group if key.bytes is not None]
        expiring = [key.ttl for key in group if key.ttl is not None]
        rows.append(
            {
                "pattern": pattern, "kind": kind, "type": type_, "keys": len(group), "share": _share(len(group), keys),
                "with TTL": _share(len(expiring), group),
                "mean TTL (s)": round(sum(expiring) / len(expiring)) if expiring else None,
                "mean_bytes": sum(sizes) // len(sizes) if sizes else None,
            }
        )  # fmt: skip
    return rows


def big_rows(keys: Sequence[KeyFact], most: int = 10) -> list[dict[str, Any]]:
    """Return the biggest sampled keys as rows."""
    sized = sorted((key for key in keys if key.bytes is not None), key=lambda key: -(key.bytes or 0))
    return [
        {
            "node": key.address, "pattern": key.pattern, "type": key.type, "slot": key.slot, "bytes": key.bytes,
            "ttl (s)": round(key.ttl) if key.ttl is not None else None,
        }
        for key in sized[:most]
    ]  # fmt: skip


def _share(part: int, whole: Sequence[Any]) -> str:
    return f"{part / len(whole):.0%}" if whole else "–"
