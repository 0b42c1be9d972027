"""The lease of a MongoDB cluster: one document in the database ``credscale``.

Times are the server's (``hello.localTime``): two operators' clocks may differ. A user that changes the cluster needs
readWrite on that database.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from credscale.core.lease import LEASE_SECONDS, Holder, Taken, TargetLease

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo import MongoClient

DATABASE, COLLECTION, DOCUMENT = "credscale", "lease", "run"


def kept_in(client: MongoClient[dict[str, Any]]) -> dict[str, Any]:
    """Return what runs have left in the target to put back."""
    return dict((client[DATABASE][COLLECTION].find_one({"_id": DOCUMENT}) or {}).get("kept") or {})


class MongoLease(TargetLease):
    """A lease document in the target cluster, renewed by a thread.

    Args:
        client: a connection to the cluster.
        run: this run's id.
        note: receives one sentence when a stale lease is taken over.
        seconds: how long the lease lives without a heartbeat.
    """

    place = f"{DATABASE}.{COLLECTION}"
    needs = f"The user needs readWrite on the database {DATABASE}"

    def __init__(
        self,
        client: MongoClient[dict[str, Any]],
        run: str,
        note: Callable[[str], object],
        seconds: float = LEASE_SECONDS,
    ) -> None:
        from pymongo import WriteConcern

        super().__init__(run, note, seconds)
        self._client = client
        self._leases = client[DATABASE].get_collection(
            COLLECTION, write_concern=WriteConcern("majority", wtimeout=10000)
        )

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        from pymongo.errors import PyMongoError

        return (PyMongoError,)

    def _now(self) -> datetime:
        moment: datetime = self._client.admin.command("hello")["localTime"]
        return moment

    def _write(self) -> tuple[bool, Holder | None]:
        from pymongo import ReturnDocument
        from pymongo.errors import DuplicateKeyError

        now = self._now()
        free: list[dict[str, Any]] = [{"expires": {"$lte": now}}, {"holder": None}, {"holder.run": self._holder.run}]
        before = _holder(self._leases.find_one({"_id": DOCUMENT}))
        if before is not None and before.is_dead():
            free.append({"holder.run": before.run})
        mine = {"holder": asdict(self._holder), "expires": now + timedelta(seconds=self.seconds)}
        try:
            self._leases.find_one_and_update(
                {"_id": DOCUMENT, "$or": free}, {"$set": mine}, upsert=True, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError:
            return False, before
        return True, before

    def _renew(self) -> bool:
        mine = {"_id": DOCUMENT, "holder.run": self._holder.run}
        lasting = {"$set": {"expires": self._now() + timedelta(seconds=self.seconds)}}
        return bool(self._leases.update_one(mine, lasting).matched_count)

    def _found(self) -> Taken:
        found = self._leases.find_one({"_id": DOCUMENT}) or {}
        return Taken(_holder(found), f"lease until {found.get('expires')} UTC")

    def _give_back(self) -> None:
        mine = {"_id": DOCUMENT, "holder.run": self._holder.run}
        self._leases.update_one(mine, {"$set": {"holder": None, "expires": self._now()}})

    def remember(self, key: str, value: Any) -> None:
        """Keep a value in the target; one already kept (by a run that was killed) stays."""
        kept = f"kept.{key}"
        self._leases.update_one({"_id": DOCUMENT, kept: {"$exists": False}}, {"$set": {kept: value}})

    def recall_all(self) -> dict[str, Any]:
        """Return all kept values."""
        return dict((self._leases.find_one({"_id": DOCUMENT}) or {}).get("kept") or {})

    def forget(self, key: str) -> None:
        """Drop a kept value."""
        self._leases.update_one({"_id": DOCUMENT}, {"$unset": {f"kept.{key}": ""}})


def _holder(document: dict[str, Any] | None) -> Holder | None:
    found = (document or {}).get("holder")
    return Holder(**found) if found else None
