"""One run at a time: a file lock on this machine, a lease with a heartbeat in the target.

The file lock dies with its process. The lease lives in the target, so that two operators on two machines cannot work on
one cluster; it expires when its holder stops renewing it, and whoever takes it over learns whose it was. It also
remembers what a run must put back at its end, so that the next run can do it when this one was killed.

The lease is the bookkeeping of the runner, not a change to the user's data; it is the one write that does not go
through ``ctx.apply``.
"""

from __future__ import annotations

import getpass
import math
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from credscale.core.errors import ConnectFailed, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from filelock import BaseFileLock
    from pymongo import MongoClient

LEASE_SECONDS = 20.0
PATIENCE = 60.0  # for an election of the shard that holds the lease
CLOCK_SECONDS = 2.0  # start times are reckoned from an estimate of the boot time
GRACE_SECONDS = 3.0  # a killed runner's kernel notices the death of its parent within two seconds
DATABASE, COLLECTION, DOCUMENT = "credscale", "lease", "run"


@dataclass(frozen=True)
class Holder:
    """Who runs: shown to everybody who finds the lease taken."""

    run: str
    operator: str
    host: str
    machine: str
    pid: int
    process_started: float

    @classmethod
    def me(cls, run: str) -> Holder:
        """Describe this process."""
        return cls(run, getpass.getuser(), socket.gethostname(), machine(), os.getpid(), _started(os.getpid()))

    def __str__(self) -> str:
        """Return who, where and which run."""
        return f"{self.operator} on {self.host} (pid {self.pid}, run {self.run})"

    def is_dead(self) -> bool:
        """Tell whether the holder was a process of this machine that exists no more; a reused pid counts as dead."""
        return self.machine == machine() and abs(_started(self.pid) - self.process_started) > CLOCK_SECONDS


def machine() -> str:
    """Identify this boot of this machine and its pid namespace: pids mean nothing elsewhere, and host names repeat."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        import psutil

        return f"{socket.gethostname()}/{psutil.boot_time():.0f}"


def _started(pid: int) -> float:
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return math.inf


class Lease(Protocol):
    """The right to change a target, and a memory that survives the holder."""

    def check(self) -> None:
        """Raise Refused when the lease was lost."""

    def remember(self, key: str, value: Any) -> None:
        """Keep a JSON-compatible value in the target until it is forgotten; a value already kept stays."""

    def recall(self, key: str) -> Any | None:
        """Return what is kept under a key."""

    def recall_all(self) -> dict[str, Any]:
        """Return all that is kept, by key."""

    def forget(self, key: str) -> None:
        """Drop what is kept under a key."""


class MemoryLease:
    """A lease for plans and tests: always held, remembers in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def check(self) -> None:
        """Do nothing: nobody can take it."""

    def remember(self, key: str, value: Any) -> None:
        """Keep a value; one already kept stays."""
        self._kept.setdefault(key, value)

    def recall(self, key: str) -> Any | None:
        """Return a kept value."""
        return self._kept.get(key)

    def recall_all(self) -> dict[str, Any]:
        """Return all kept values."""
        return dict(self._kept)

    def forget(self, key: str) -> None:
        """Drop a kept value."""
        self._kept.pop(key, None)


class PlanLease(MemoryLease):
    """The lease of a dry run: takes nothing and writes nothing, but knows what an earlier run left to put back.

    Args:
        kept: what is kept in the target.
    """

    def __init__(self, kept: dict[str, Any]) -> None:
        super().__init__()
        self._kept = dict(kept)


def kept_in(client: MongoClient[dict[str, Any]]) -> dict[str, Any]:
    """Return what runs have left in the target to put back."""
    return dict((client[DATABASE][COLLECTION].find_one({"_id": DOCUMENT}) or {}).get("kept") or {})


class MongoLease:
    """A lease document in the target cluster, renewed by a thread.

    Times are the server's (``hello.localTime``): two operators' clocks may differ.

    Args:
        client: a connection to the cluster.
        run: this run's id.
        note: receives one sentence when a stale lease is taken over.
        seconds: how long the lease lives without a heartbeat.
    """

    def __init__(
        self,
        client: MongoClient[dict[str, Any]],
        run: str,
        note: Callable[[str], object],
        seconds: float = LEASE_SECONDS,
    ) -> None:
        from pymongo import WriteConcern

        self._client, self._note, self.seconds = client, note, seconds
        self._holder = Holder.me(run)
        self._leases = client[DATABASE].get_collection(
            COLLECTION, write_concern=WriteConcern("majority", wtimeout=10000)
        )
        self._stop = threading.Event()
        self._valid_until = 0.0
        self._lost = ""

    def _now(self) -> datetime:
        moment: datetime = self._client.admin.command("hello")["localTime"]
        return moment

    def acquire(self) -> None:
        """Take the lease and keep it alive.

        Needs readWrite on the database ``credscale``.

        A holder that is a dead process of this machine is replaced at once; one that may just be dying is given
        ``GRACE_SECONDS``; any other only after its lease expired.

        Raises:
            Refused: somebody else holds it; the message says who and until when.
            ConnectFailed: the cluster does not answer, or does not let this user write the lease.
        """
        from pymongo.errors import PyMongoError

        try:
            self._wait_and_take()
        except PyMongoError as error:
            raise ConnectFailed(
                f"the lease {DATABASE}.{COLLECTION} cannot be taken ({type(error).__name__}: {error}). Nothing was "
                f"changed. The user needs readWrite on the database {DATABASE}"
            ) from None
        threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True).start()

    def _wait_and_take(self) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        while not self._take():
            if time.monotonic() > deadline:
                found = self._leases.find_one({"_id": DOCUMENT}) or {}
                raise Refused(
                    f"another run works on this cluster: {_holder(found) or 'unknown'}, lease until "
                    f"{found.get('expires')} UTC. Nothing was changed. Wait for it, or stop it; then run this again"
                )
            time.sleep(0.3)

    def _take(self) -> bool:
        from pymongo import ReturnDocument
        from pymongo.errors import DuplicateKeyError

        now, clock = self._now(), time.monotonic()
        free: list[dict[str, Any]] = [{"expires": {"$lte": now}}, {"holder": None}, {"holder.run": self._holder.run}]
        found = self._leases.find_one({"_id": DOCUMENT})
        holder = _holder(found)
        if holder is not None and holder.is_dead():
            free.append({"holder.run": holder.run})
        mine = {"holder": asdict(self._holder), "expires": now + timedelta(seconds=self.seconds)}
        try:
            self._leases.find_one_and_update(
                {"_id": DOCUMENT, "$or": free}, {"$set": mine}, upsert=True, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError:
            return False
        self._valid_until = clock + self.seconds
        if holder is not None and holder.run != self._holder.run:
            self._note(f"took over the stale lease of {holder}")
        return True

    def _beat(self) -> None:
        from pymongo.errors import PyMongoError

        while not self._stop.wait(self.seconds / 4):
            clock = time.monotonic()
            try:
                mine = {"_id": DOCUMENT, "holder.run": self._holder.run}
                renewed = self._leases.update_one(
                    mine, {"$set": {"expires": self._now() + timedelta(seconds=self.seconds)}}
                )
            except PyMongoError:
                continue  # the next change checks the validity; until then an unreachable target only delays us
            if not renewed.matched_count:
                self._lost = "somebody else took the lease"
                return
            self._valid_until = clock + self.seconds

    def check(self) -> None:
        """Raise Refused when the lease is lost or could not be renewed in time; an election is waited for."""
        if not self._lost and time.monotonic() >= self._valid_until and not self._take_again():
            self._lost = f"the lease could not be renewed for {self.seconds:.0f} s and somebody else took it"
        if self._lost:
            raise Refused(f"{self._lost}; stopped before the next change")

    def _take_again(self) -> bool:
        from pymongo.errors import PyMongoError

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._take()
            except PyMongoError as error:
                if time.monotonic() >= deadline:
                    raise Refused(
                        f"the lease ran out and could not be renewed for {PATIENCE:.0f} s ({type(error).__name__}); "
                        "stopped before the next change. Run again once the target answers"
                    ) from error
            time.sleep(0.5)

    def remember(self, key: str, value: Any) -> None:
        """Keep a value in the target; one already kept (by a run that was killed) stays."""
        kept = f"kept.{key}"
        self._leases.update_one({"_id": DOCUMENT, kept: {"$exists": False}}, {"$set": {kept: value}})

    def recall(self, key: str) -> Any | None:
        """Return a kept value."""
        return self.recall_all().get(key)

    def recall_all(self) -> dict[str, Any]:
        """Return all kept values."""
        return dict((self._leases.find_one({"_id": DOCUMENT}) or {}).get("kept") or {})

    def forget(self, key: str) -> None:
        """Drop a kept value."""
        self._leases.update_one({"_id": DOCUMENT}, {"$unset": {f"kept.{key}": ""}})

    def release(self) -> None:
        """Give the lease back; what is kept stays for the next run."""
        from pymongo.errors import PyMongoError

        self._stop.set()
        mine = {"_id": DOCUMENT, "holder.run": self._holder.run}
        try:
            self._leases.update_one(mine, {"$set": {"holder": None, "expires": self._now()}})
        except PyMongoError as error:
            self._note(f"the lease could not be given back ({error}); it expires within {self.seconds:.0f} s")


def _holder(document: dict[str, Any] | None) -> Holder | None:
    found = (document or {}).get("holder")
    return Holder(**found) if found else None


def lock_file(path: Path) -> BaseFileLock:
    """Take the file lock of an environment on this machine.

    Args:
        path: the lock file; the holder's name is beside it.

    Returns:
        the held lock; ``release()`` gives it back, and so does the end of the process.

    Raises:
        Refused: a run of the same environment is under way here.
        ConnectFailed: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    owner = path.with_suffix(".owner")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=0)
        owner.write_text(f"{getpass.getuser()} (pid {os.getpid()})", encoding="utf-8")
    except Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "somebody"
        raise Refused(
            f"{who} is running on this environment from this machine (lock {path}). Nothing was changed. "
            "Wait until it ends, or follow it with: invoke report.list"
        ) from None
    except OSError as error:
        raise ConnectFailed(f"the lock file {path} cannot be written: {error.strerror}") from None
    return lock
