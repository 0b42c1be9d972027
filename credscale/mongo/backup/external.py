"""Backups that others took: declared by the operator, checked as far as they can be from here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed
from credscale.mongo.cluster.commands import retrying

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bson import Timestamp

    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.facts import Shard

OLDEST = timedelta(hours=24)  # reference §5 row 41
AHEAD = timedelta(minutes=5)  # what clocks may differ
LONGEST_CHAIN = 1000
UNAUTHORIZED = 13
SYNTAX = "pbm:NAME such as pbm:2026-11-20T02:00:00Z, or snapshot:ID@TIME such as snapshot:vol-123@2026-11-20T02:00:00Z"
# Only these are read: a backup's document also holds its storage, in which keys can stand.
PBM_FIELDS = (
    "name", "type", "status", "error", "replsets.name", "replsets.status", "replsets.iscs", "nss", "src_backup",
    "start_ts", "last_write_ts", "last_transition_ts", "mongodb_version", "pbm_version",
)  # fmt: skip
_DECLARED = re.compile(r"(?P<kind>pbm|snapshot):(?P<id>[^\s@]+)(?:@(?P<time>\S+))?")


@dataclass(frozen=True)
class Declared:
    """An external backup as the operator names it.

    Args:
        kind: ``pbm`` (Percona Backup for MongoDB), or ``snapshot`` (of volumes, or by a service).
        id: what its maker calls it.
        time: of which moment it is; None where its maker, PBM, records that.
    """

    kind: Literal["pbm", "snapshot"]
    id: str
    time: datetime | None

    @property
    def text(self) -> str:
        """Kind and id for people."""
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True)
class Checked:
    """What could be said about an external backup.

    Args:
        declared: what was named.
        time: of which moment it is, UTC.
        known: what its maker records, JSON data.
        not_checked: what nobody looked at, one sentence each without its end.
    """

    declared: Declared
    time: datetime
    known: Mapping[str, Any]
    not_checked: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "kind": self.declared.kind,
            "id": self.declared.id,
            "time": self.time.isoformat(timespec="seconds"),
            "known": dict(self.known),
            "not_checked": list(self.not_checked),
        }


def parse_external(text: str) -> Declared:
    """Understand a declared external backup.

    Args:
        text: ``pbm:NAME``, the name that ``pbm list`` shows, or ``snapshot:ID@TIME`` with the UTC time at which it was
            made.

    Raises:
        EnvironmentInvalid: it is not written so.
    """
    found = _DECLARED.fullmatch(text)
    if found is None:
        raise EnvironmentInvalid(f"external must be {SYNTAX}; not {text!r}")
    kind, name, time = found["kind"], found["id"], found["time"]
    if kind == "pbm":
        if time is not None:
            raise EnvironmentInvalid(f"external: PBM records itself when {name} was made; leave @{time} out")
        return Declared("pbm", name, None)
    if time is None:
        raise EnvironmentInvalid(f"external: a snapshot tells no time of its own; say when it was made: {SYNTAX}")
    return Declared("snapshot", name, _utc(time))


def _utc(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise EnvironmentInvalid(f"external: {text!r} is no ISO 8601 time such as 2026-11-20T02:00:00Z") from None
    if moment.tzinfo is None:
        raise EnvironmentInvalid(f"external: {text!r} has no time zone; end it with Z for UTC")
    return moment.astimezone(UTC)


def check_external(
    client: Client, declared: Declared, *, namespace: str, shards: Iterable[Shard], version: str, now: datetime
) -> Checked:
    """Check a declared external backup against what can be read about it.

    PBM keeps a document for each backup in ``admin.pbmBackups`` of the config servers, which a router reads (PBM
    manual, control collections). A snapshot's maker is out of reach: its id is recorded and nothing else.

    Args:
        client: a connection to mongos.
        declared: what was named.
        namespace: the collection that must be in it.
        shards: the cluster's shards, each of which must be in it.
        version: the cluster's version.
        now: the time.

    Raises:
        PreconditionFailed: it can't be relied on; says why.
    """
    if declared.time is None:
        checked = _pbm(client, declared, namespace, tuple(shards), version)
    else:
        checked = _snapshot(declared, declared.time)
    age = now - checked.time
    if age > OLDEST:
        raise PreconditionFailed(
            f"{declared.text} is of {checked.time:%Y-%m-%dT%H:%M:%SZ}, {age.total_seconds() / 3600:.0f} h ago; at most "
            f"{OLDEST.total_seconds() / 3600:.0f} h are allowed. Nothing was changed. Take a new one and name it"
        )
    if age < -AHEAD:
        raise PreconditionFailed(
            f"{declared.text} is of {checked.time:%Y-%m-%dT%H:%M:%SZ}, which is still to come. Nothing was changed. "
            "Correct the time, which is UTC"
        )
    return checked


def _snapshot(declared: Declared, time: datetime) -> Checked:
    open_ends = (
        f"whether the snapshot {declared.id} exists, is finished and covers every shard and the config servers",
        "whether the balancer was stopped while it was made, and the volumes were frozen together",
    )
    return Checked(declared, time, {}, open_ends)


def _pbm(client: Client, declared: Declared, namespace: str, shards: tuple[Shard, ...], version: str) -> Checked:
    from pymongo.errors import OperationFailure

    try:
        document = _pbm_document(client, declared.id)
        chain = _pbm_chain(client, document)
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        unread = "anything about it: the user may not read admin.pbmBackups; its time is taken from its name"
        try:
            return Checked(declared, _utc(declared.id), {}, (unread,))
        except EnvironmentInvalid:
            raise PreconditionFailed(
                f"the user may not read admin.pbmBackups, and {declared.id} is no time, so its age is unknown. Nothing "
                "was changed. Grant the user read on admin.pbmBackups, or declare the backup as snapshot:ID@TIME"
            ) from None
    if document is None:
        raise PreconditionFailed(
            f"PBM has no backup {declared.id}: admin.pbmBackups has no document of that name. Nothing was changed. "
            f"It has {_names(client)}; pbm list shows all"
        )
    problems, moment = pbm_problems(document, chain, namespace, shards), pbm_moment(document)
    if problems or moment is None:
        raise PreconditionFailed(
            f"the PBM backup {declared.id} can't be relied on: {'; '.join(problems)}. Nothing was changed. Take a new "
            "one with pbm backup, wait until pbm describe-backup says done, and name it"
        )
    return Checked(declared, moment, pbm_facts(document), pbm_open_ends(document, version))


def _pbm_document(client: Client, name: str) -> dict[str, Any] | None:
    from pymongo.read_concern import ReadConcern

    found = client["admin"].get_collection("pbmBackups", read_concern=ReadConcern("majority"))
    return retrying(lambda: found.find_one({"name": name}, dict.fromkeys(PBM_FIELDS, 1)))


def _pbm_chain(client: Client, document: Mapping[str, Any] | None) -> list[tuple[str, Mapping[str, Any] | None]]:
    """Follow an incremental backup to the full one on which it rests."""
    chain: list[tuple[str, Mapping[str, Any] | None]] = []
    while document is not None and document.get("src_backup") and len(chain) < LONGEST_CHAIN:
        name = str(document["src_backup"])
        document = _pbm_document(client, name)
        chain.append((name, document))
    return chain


def _names(client: Client) -> str:
    backups = client["admin"]["pbmBackups"]
    found = retrying(lambda: list(backups.find({"status": "done"}, {"name": 1}).sort("start_ts", -1).limit(3)))
    names = [str(each.get("name")) for each in found]
    return f"{', '.join(names)} as the latest that are done" if names else "none that is done"


def pbm_problems(
    document: Mapping[str, Any],
    chain: Iterable[tuple[str, Mapping[str, Any] | None]],
    namespace: str,
    shards: Iterable[Shard],
) -> list[str]:
    """Say what is wrong with a PBM backup, one sentence each without its end.

    Args:
        document: its document of admin.pbmBackups (``BackupMeta`` in PBM's source, 1.x to 2.x).
        chain: names and documents of the backups on which an incremental one rests.
        namespace: the collection that must be in it.
        shards: the shards that must be in it.
    """
    problems = []
    if document.get("status") != "done":
        problems.append(f"its status is {document.get('status')!r}, not 'done' {document.get('error', '')}".rstrip())
    sets = {str(each.get("name")): each for each in document.get("replsets") or []}
    problems += [
        f"the replica set {shard.replica_set} is not in it" for shard in shards if shard.replica_set not in sets
    ]
    problems += [
        f"its part of {name} is {each['status']!r}"
        for name, each in sets.items()
        if each.get("status", "done") != "done"
    ]
    selected = [str(each) for each in document.get("nss") or []]
    database = namespace.partition(".")[0]
    if selected and not {namespace, f"{database}.*", f"{database}.", "*.*"} & set(selected):
        problems.append(f"it holds only {', '.join(selected)}")
    for name, base in chain:
        if base is None or base.get("status") != "done":
            state = "is gone" if base is None else f"is {base.get('status')!r}"
            problems.append(f"it rests on {name}, which {state}")
    if pbm_moment(document) is None:
        problems.append("it records no time")
    return problems


def pbm_moment(document: Mapping[str, Any]) -> datetime | None:
    """Return the time up to which a PBM backup has the writes; None where it records none.

    ``last_write_ts`` is the cluster time to which it restores; without one, the time of its beginning.
    """
    stamp: Timestamp | None = document.get("last_write_ts")
    seconds = getattr(stamp, "time", 0) or int(document.get("start_ts") or 0)
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def pbm_facts(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a PBM backup's document, as JSON data."""
    stamp = document.get("last_write_ts")
    sets = document.get("replsets") or []
    return {
        "type": document.get("type"),
        "status": document.get("status"),
        "replica_sets": [str(each.get("name")) for each in sets],
        "config_servers": any(each.get("iscs") for each in sets),
        "last_write": [stamp.time, stamp.inc] if stamp is not None else None,
        "mongodb_version": document.get("mongodb_version"),
        "pbm_version": document.get("pbm_version"),
    }


def pbm_open_ends(document: Mapping[str, Any], version: str) -> tuple[str, ...]:
    """Say what the document does not tell about a PBM backup.

    Args:
        document: its document of admin.pbmBackups.
        version: the cluster's version.
    """
    found = ["whether its files are still on PBM's storage and whole: pbm describe-backup and a restore tell"]
    made = str(document.get("mongodb_version") or "")
    if made.split(".")[:2] != version.split(".")[:2]:
        found.append(
            f"whether it restores here: it was made on MongoDB {made or 'of an unknown version'}, not {version}"
        )
    if document.get("type") == "external":
        found.append("whether the data files were copied: PBM only opened the servers for a copy by somebody else")
    if not any(each.get("iscs") for each in document.get("replsets") or []):
        found.append("whether the config servers are in it: PBM does not mark them")
    return tuple(found)
