"""The same work on many machines at once; no machine holds up the others, and nothing that one answered is lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from credscale.core.errors import ConnectFailed, Why

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from credscale.core.machines.machine import Machine

T = TypeVar("T")
Outcome = Literal["", "failed", "not asked"] | Why
PARALLEL, HOST_SECONDS = 20, 30.0
_LOOK_SECONDS = 1.0  # how often who is still out is told


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What came of the work on one machine.

    Args:
        host: the machine's name.
        value: what the work returned; None where it did not end well.
        why: empty when it ended well; ``failed`` when the work raised, ``timed out`` when it was not waited for any
            longer, ``not asked`` when it was never begun, else how the connection failed.
        problem: the same in words.
        seconds: how long it took.
    """

    host: str
    value: T | None
    why: Outcome = ""
    problem: str = ""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """Host and problem, as a part of a sentence."""
        return f"{self.host}: {self.why}: {self.problem}"


def fan_out(
    machines: Sequence[Machine],
    work: Callable[[Machine], T],
    *,
    parallel: int = PARALLEL,
    timeout: float = HOST_SECONDS,
    deadline: float | None = None,
    errors_allowed: int = -1,
    on_done: Callable[[Answer[T]], None] | None = None,
    on_wait: Callable[[tuple[str, ...]], None] | None = None,
) -> tuple[Answer[T], ...]:
    """Do the same work on many machines, some at a time.

    What hangs is given up, not ended: its thread is left behind, holds nobody up, and ends with the process at the
    latest. So the work should have a deadline of its own, no longer than ``timeout``.

    Args:
        machines: whose names differ.
        work: called with a machine, in a thread.
        parallel: how many at a time.
        timeout: seconds for each machine, from when its turn comes.
        deadline: seconds for all; None for as long as the turns of all take at most.
        errors_allowed: no new one is begun after more failures than this; -1 for no limit.
        on_done: receives each answer as it comes, in the calling thread.
        on_wait: receives the names of those that are still out, every second and after each answer.

    Returns:
        an answer for every machine, in their order.

    Raises:
        KeyboardInterrupt: at once; ``on_done`` has received what had come.
    """
    run = _Run(machines, timeout, deadline, on_done or _ignore, on_wait or _ignore)
    while True:
        while len(run.begun) < parallel and run.may_begin(errors_allowed):
            run.begin(work)
        if not run.begun:
            return run.all_answers()
        run.take()
        run.give_up()


class _Run(Generic[T]):
    """The state of one ``fan_out``: who waits, who has begun and when, and the answers; one thread's alone."""

    def __init__(
        self,
        machines: Sequence[Machine],
        timeout: float,
        deadline: float | None,
        on_done: Callable[[Answer[T]], None],
        on_wait: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._machines, self._timeout, self._on_done, self._on_wait = machines, timeout, on_done, on_wait
        self._end = time.monotonic() + deadline if deadline is not None else float("inf")
        self._waiting = deque(range(len(machines)))
        self._answers: dict[int, Answer[T]] = {}
        self._came: SimpleQueue[tuple[int, Answer[T]]] = SimpleQueue()
        self._failures = 0
        self.begun: dict[int, float] = {}

    def may_begin(self, errors_allowed: int) -> bool:
        in_budget = errors_allowed < 0 or self._failures <= errors_allowed
        return bool(self._waiting) and in_budget and time.monotonic() < self._end

    def begin(self, work: Callable[[Machine], T]) -> None:
        number = self._waiting.popleft()
        self.begun[number] = time.monotonic()
        machine = self._machines[number]
        arguments = (machine, work, number, self._came)
        threading.Thread(target=_serve, args=arguments, name=f"host-{machine.name}", daemon=True).start()

    def take(self) -> None:
        """Wait for the next answer, or until somebody's time is over, but not longer than a moment."""
        due = min(self._end, *(start + self._timeout for start in self.begun.values()))
        try:
            number, answer = self._came.get(timeout=max(0.0, min(due - time.monotonic(), _LOOK_SECONDS)))
        except Empty:
            self._tell()
        else:
            if number in self.begun:  # one that was given up may still answer, too late
                self._keep(number, answer)

    def give_up(self) -> None:
        """Wait no longer for those whose time is over."""
        now = time.monotonic()
        for number, start in list(self.begun.items()):
            if now >= min(self._end, start + self._timeout):
                name, seconds = self._machines[number].name, now - start
                late = f"no answer within {seconds:.1f} s"
                self._keep(number, Answer(name, None, "timed out", late, round(seconds, 3)))

    def all_answers(self) -> tuple[Answer[T], ...]:
        over = f"{self._failures} hosts had failed before its turn"
        reason = "the time for all was over" if time.monotonic() >= self._end else over
        for number in self._waiting:
            self._keep(number, Answer(self._machines[number].name, None, "not asked", reason))
        return tuple(self._answers[number] for number in range(len(self._machines)))

    def _keep(self, number: int, answer: Answer[T]) -> None:
        self.begun.pop(number, None)
        self._answers[number] = answer
        self._failures += bool(answer.why)
        self._on_done(answer)
        self._tell()

    def _tell(self) -> None:
        self._on_wait(tuple(self._machines[number].name for number in self.begun))


def _ignore(_: object) -> None:
    """Take what nobody asked for."""


def _serve(
    machine: Machine, work: Callable[[Machine], T], number: int, came: SimpleQueue[tuple[int, Answer[T]]]
) -> None:
    """Do the work on one machine and put what came of it into the queue."""
    start = time.monotonic()
    value: T | None = None
    why: Outcome = ""
    problem = ""
    try:
        value = work(machine)
    except ConnectFailed as error:
        why, problem = error.why, str(error)
    except Exception as error:  # noqa: BLE001 - a thread's end: it is told as this machine's answer
        ours = type(error).__module__.startswith("credscale.")
        why, problem = "failed", str(error) if ours else f"{type(error).__name__}: {error}"
    came.put((number, Answer(machine.name, value, why, problem, round(time.monotonic() - start, 3))))
