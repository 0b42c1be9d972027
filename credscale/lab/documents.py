"""Documents as the Credibility Analyzer stores them, the same ones on every machine."""

from __future__ import annotations

import random
import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 1042
FIRST = datetime(2025, 1, 6, 7, 0, tzinfo=UTC)
USERS_PER_DOCUMENT = 0.05

HOSTS = (
    "news.example.org", "thedailyrecord.example", "science-today.example", "blog.example.net", "zeitung.example.de",
    "lejournal.example.fr", "elmundo.example.es", "healthfacts.example.com", "marketwatcher.example", "local24.example",
)  # fmt: skip
SUBJECTS = ("Study", "Minister", "Report", "Company", "Court", "Researchers", "City council", "Bank", "Agency", "Union")
VERBS = ("denies", "confirms", "questions", "publishes", "withdraws", "explains", "disputes", "announces", "corrects")
OBJECTS = (
    "claims about vaccine trials", "rise in energy prices", "new climate figures", "merger plans", "election results",
    "water quality data", "housing statistics", "artificial intelligence rules", "flight delays", "school reform",
)  # fmt: skip
SENTENCES = (
    "According to two people familiar with the matter, the figures had been known since spring.",
    "The original source could not be reached for comment before publication.",
    "A table in the appendix contradicts the number quoted in the second paragraph.",
    "Independent experts called the method sound but pointed to the small sample.",
    "The article was updated to name the author of the cited dataset.",
    "No primary document is linked, and the quotation appears in no archive.",
    "Several passages are identical to a press release issued a day earlier.",
    "The photograph shows a different event, as a reverse image search confirms.",
    "Müller & Söhne would not say whether the contract had been signed.",
    "La méthode de calcul n'a pas été publiée, selon les auteurs.",
)
TYPES = ("article", "article", "article", "claim", "image", "video")
LANGUAGES = ("en", "en", "en", "en", "de", "fr", "es")
MODELS = ("cred-2.3.1", "cred-2.4.0", "cred-2.4.0", "cred-3.0.0-rc1")
TAGS = ("politics", "health", "economy", "climate", "sports", "technology", "local", "opinion", "satire")
REVIEWERS = ("a.novak", "j.okafor", "m.lindqvist", "s.tanaka")
FLAGS = (("satire", 0.03), ("paywalled", 0.2), ("disputed", 0.1))
KINDS = ("primary", "secondary", "unknown")


def make_documents(count: int, seed: int = SEED) -> Iterator[dict[str, Any]]:
    """Make analyses in the order of their creation.

    Args:
        count: how many.
        seed: the same seed and count give the same documents, byte for byte.

    Yields:
        documents of about 1 KB; ``createdAt`` increases strictly, a few users own most documents.
    """
    chance = random.Random(seed)
    process = chance.randbytes(5)
    users = max(1, int(count * USERS_PER_DOCUMENT))
    created = FIRST
    for number in range(count):
        created += timedelta(milliseconds=1 + int(chance.expovariate(1 / 90_000)))
        yield _document(chance, number, created, process, users)


def _document(chance: random.Random, number: int, created: datetime, process: bytes, users: int) -> dict[str, Any]:
    from bson import ObjectId

    title = f"{chance.choice(SUBJECTS)} {chance.choice(VERBS)} {chance.choice(OBJECTS)}"
    host, slug = chance.choice(HOSTS), title.lower().replace(" ", "-")
    source, bias, factual, language = (round(chance.betavariate(5, 2), 4) for _ in range(4))
    identity = struct.pack(">I", int(created.timestamp())) + process + number.to_bytes(3, "big")
    user = int(users * chance.random() ** 2.5)  # of 1000 users, the busiest owns 6 %
    return {
        "_id": ObjectId(identity),
        "userId": f"user-{user:06d}",
        "createdAt": created,
        "url": f"https://{host}/{created:%Y/%m/%d}/{slug}-{chance.getrandbits(32):08x}",
        "title": title,
        "text": " ".join(chance.choices(SENTENCES, k=4)),
        "credibilityScore": round((source + bias + factual + language) / 4, 4),
        "scores": {"source": source, "bias": bias, "factuality": factual, "language": language},
        "sources": [_source(chance) for _ in range(chance.randrange(4))],
        "flags": {name: chance.random() < share for name, share in FLAGS},
        "analysisType": chance.choice(TYPES),
        "modelVersion": chance.choice(MODELS),
        "language": chance.choice(LANGUAGES),
        "processingMs": 40 + int(chance.expovariate(1 / 900)),
        "tags": chance.sample(TAGS, chance.randrange(4)),
        "reviewer": chance.choice(REVIEWERS) if chance.random() < 0.15 else None,
        "archived": False,
    }  # fmt: skip


def _source(chance: random.Random) -> dict[str, Any]:
    return {
        "host": chance.choice(HOSTS),
        "kind": chance.choice(KINDS),
        "weight": round(chance.random(), 3),
        "reachable": chance.random() < 0.9,
    }
