"""One run at a time: a lease with a heartbeat in the target, so that two operators cannot work on one cluster.

A lease expires when its holder stops renewing it, and whoever takes it over learns whose it was. It also remembers what
a run must put back at its end, so that the next run can do it when this one was killed.

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
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from credscale.core.errors import ConnectFailed, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

LEASE_SECONDS = 20.0
PATIENCE = 60.0  # for an election of the shard that holds the lease
CLOCK_SECONDS = 2.0  # start times are reckoned from an estimate of the boot time
END_SECONDS = 10.0  # for a renewal that is under way when the run ends
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux's monotonic clock stands still in a suspend
GRACE_SECONDS = 3.0  # a killed runner's kernel notices the death of its parent within two seconds


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


@dataclass(frozen=True)
class Taken:
    """Who holds a lease, and when it ends, in words."""

    holder: Holder | None
    ends: str


class TargetLease(ABC):
    """A lease in a target, renewed by a thread; how it is written there is the subclass's.

    Args:
        run: this run's id.
        note: receives one sentence when a stale lease is taken over, and on what endangers this one.
        seconds: how long the lease lives without a heartbeat.
    """

    place: ClassVar[str]  # where it is kept
    needs: ClassVar[str]  # what the user must be allowed to do, as a sentence

    def __init__(self, run: str, note: Callable[[str], object], seconds: float) -> None:
        self._note, self.seconds = note, seconds
        self._holder = Holder.me(run)
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
        self._valid_until = 0.0
        self._lost = ""

    @property
    @abstractmethod
    def _failures(self) -> tuple[type[Exception], ...]:
        """Return the driver's errors."""

    @abstractmethod
    def _write(self) -> tuple[bool, Holder | None]:
        """Take the lease where it is free, expired, a dead process's or this run's.

        Returns:
            whether it is ours now, and whose it was before.
        """

    @abstractmethod
    def _renew(self) -> bool:
        """Make it last again, also where it ran out; tells whether nobody else has had it since it was taken."""

    @abstractmethod
    def _found(self) -> Taken:
        """Tell who holds it."""

    @abstractmethod
    def _give_back(self) -> None:
        """Free it, such that whoever held it before sees that somebody else has; what is kept stays."""

    @abstractmethod
    def recall_all(self) -> dict[str, Any]:
        """Return all kept values."""

    def acquire(self) -> None:
        """Take the lease and keep it alive.

        A holder that is a dead process of this machine is replaced at once; one that may just be dying is given
        ``GRACE_SECONDS``; any other only after its lease expired.

        Raises:
            Refused: somebody else holds it; the message says who and until when.
            ConnectFailed: the cluster does not answer, or does not let this user write the lease.
        """
        try:
            risk = self._risk()
            self._wait_and_take()
        except self._failures as error:
            raise ConnectFailed(
                f"the lease {self.place} cannot be taken ({type(error).__name__}: {error}). Nothing was "
                f"changed. {self._remedy(error)}"
            ) from None
        self._heart.start()
        if risk:
            self._note(risk)

    def _risk(self) -> str:
        """Return how the target may lose what the lease keeps, as a sentence; nothing where it does not."""
        return ""

    def _remedy(self, error: Exception) -> str:  # noqa: ARG002 - for targets whose errors tell more
        """Return what to do about a lease that cannot be taken, as a sentence."""
        return self.needs

    def _wait_and_take(self) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        while not self._take():
            if time.monotonic() > deadline:
                taken = self._found()
                raise Refused(
                    f"another run works on this cluster: {taken.holder or 'unknown'}, {taken.ends}. "
                    "Nothing was changed. Wait for it, or stop it; then run this again"
                )
            time.sleep(0.3)

    def _take(self) -> bool:
        clock = time.clock_gettime(CLOCK)
        ours, before = self._write()
        if ours:
            self._valid_until = clock + self.seconds
            if before is not None and before.run != self._holder.run:
                self._note(f"took over the stale lease of {before}")
        return ours

    def _beat(self) -> None:
        while not self._stop.wait(self.seconds / 4):
            try:
                ours = self._last_again()
            except self._failures:
                continue  # the next change checks the validity; until then an unreachable target only delays us
            if not ours:
                self._lost = "somebody else took the lease"
                return

    def _last_again(self) -> bool:
        clock = time.clock_gettime(CLOCK)
        ours = self._renew()
        if ours:
            self._valid_until = clock + self.seconds
        return ours

    def check(self) -> None:
        """Raise Refused when the lease is lost or could not be renewed in time; an election is waited for."""
        if not self._lost and time.clock_gettime(CLOCK) >= self._valid_until and not self._renew_late():
            self._lost = f"the lease could not be renewed for {self.seconds:.0f} s and somebody else took it"
        if self._lost:
            raise Refused(f"{self._lost}; stopped before the next change")

    def _renew_late(self) -> bool:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._last_again()
            except self._failures as error:
                if time.monotonic() >= deadline:
                    raise Refused(
                        f"the lease ran out and could not be renewed for {PATIENCE:.0f} s ({type(error).__name__}); "
                        "stopped before the next change. Run again once the target answers"
                    ) from error
            time.sleep(0.5)

    def recall(self, key: str) -> Any | None:
        """Return a kept value."""
        return self.recall_all().get(key)

    def release(self) -> None:
        """Give the lease back; what is kept stays for the next run."""
        self._stop.set()
        if self._heart.is_alive():  # a renewal that is under way would take it again
            self._heart.join(END_SECONDS)
        try:
            self._give_back()
        except self._failures as error:
            self._note(f"the lease could not be given back ({error}); it expires within {self.seconds:.0f} s")
