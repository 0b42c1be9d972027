"""Hosts of the inventory asked, or changed, all at once: what a step uses of ``fan_out``."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from credscale.core.errors import (
    ConnectFailed,
    CredscaleError,
    EnvironmentInvalid,
    PreconditionFailed,
    VerificationFailed,
)
from credscale.core.machines.fanout import HOST_SECONDS, PARALLEL, Answer, fan_out
from credscale.core.phrases import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from credscale.core.context import Context
    from credscale.core.machines.machine import Machine

T = TypeVar("T")
MOST_PARALLEL, LONGEST_SECONDS = 500, 3600.0
MOST_LISTED = 100


def ask_hosts(
    ctx: Context,
    names: Sequence[str],
    work: Callable[[Machine], T],
    *,
    parallel: int = PARALLEL,
    timeout: float = HOST_SECONDS,
    deadline: float | None = None,
    errors_allowed: int = -1,
) -> tuple[Answer[T], ...]:
    """Do the same work on hosts of the inventory, and let the journal tell how far it is and who failed.

    Args:
        ctx: the run.
        names: hosts of the section hosts; the empty name is this machine.
        work: called with a machine, in a thread; it may read only.
        parallel: as for ``fan_out``, and so are the other ones.
        timeout: seconds.
        deadline: seconds.
        errors_allowed: number of hosts.

    Raises:
        EnvironmentInvalid: a number is out of its range; the message names the parameter.
        UnknownTarget: no such host.
        KeyboardInterrupt: a note says who had answered.
    """
    _check(parallel, timeout, errors_allowed)
    machines = [ctx.clients.machine(name) for name in names]  # before the threads, which must not make the same twice
    done: list[Answer[T]] = []

    def note(answer: Answer[T]) -> None:
        done.append(answer)
        if answer.why:
            ctx.note(answer.text)

    def tell(out: tuple[str, ...]) -> None:
        left = {"left": f"still out: {listed(out)}"} if out else {}
        ctx.progress(len(done), len(machines), "hosts", **left)

    try:
        return fan_out(
            machines, work, parallel=parallel, timeout=timeout, deadline=deadline, errors_allowed=errors_allowed,
            on_done=note, on_wait=tell,
        )  # fmt: skip
    except KeyboardInterrupt:
        ctx.note(f"interrupted when {len(done)} of {len(machines)} hosts had answered: {_told(_good(done))}")
        raise


def change_hosts(
    ctx: Context,
    what: str,
    names: Sequence[str],
    work: Callable[[Machine], T],
    *,
    parallel: int = PARALLEL,
    timeout: float = HOST_SECONDS,
    deadline: float | None = None,
    errors_allowed: int = 0,
) -> tuple[Answer[T], ...]:
    """Make the same change on several hosts, as one change of the plan and the journal.

    Args:
        ctx: the run.
        what: the change in words; the hosts are put behind it.
        names: hosts that really need it.
        work: makes the change on a machine and reads it back, in a thread; raises PreconditionFailed only when it
            changed nothing there.
        parallel: as for ``fan_out``, and so are the other ones.
        timeout: seconds.
        deadline: seconds.
        errors_allowed: number of hosts.

    Returns:
        the answers; empty in a dry run, and where no host needs it.

    Raises:
        VerificationFailed: not all could be changed; tells which are, which are not, and of which it is not known.
        PreconditionFailed: none was changed.
    """

    done: list[Answer[T]] = []
    untouched: set[str] = set()
    over = threading.Event()

    def reach_and_change(machine: Machine) -> T:
        """Make the change unless the machine cannot be reached, or is reached too late; nothing was sent then."""
        until = time.monotonic() + timeout
        try:
            machine.run(["true"], timeout=timeout)
            if over.is_set() or time.monotonic() >= until:
                raise ConnectFailed("it was reached too late, and left alone", "timed out")
        except CredscaleError:
            untouched.add(machine.name)
            raise
        try:
            value = work(machine)
        except PreconditionFailed:
            untouched.add(machine.name)
            raise
        done.append(Answer(machine.name, value))
        return value

    def change() -> tuple[Answer[T], ...]:
        try:
            answers = ask_hosts(
                ctx, names, reach_and_change, parallel=parallel, timeout=timeout, deadline=deadline,
                errors_allowed=errors_allowed,
            )  # fmt: skip
        except KeyboardInterrupt:
            made = _told(_good(done))
            raise KeyboardInterrupt(f"done on {made}; not known or not done on the others of {len(names)}") from None
        finally:
            over.set()
        if all(answer.why == "not asked" or answer.host in untouched for answer in answers):
            raise PreconditionFailed(f"{what}: none was changed: {_reasons(answers)}", {"rows": rows_of(answers)})
        return answers

    if not names:
        return ()
    answers = ctx.apply(f"{what} on {_told([name or 'this machine' for name in names])}", change)
    if answers is None:
        return ()
    if any(answer.why for answer in answers):
        not_done = [each.host for each in answers if each.why == "not asked" or (each.why and each.host in untouched)]
        unsure = [each.host for each in answers if each.why and each.host not in not_done]
        raise VerificationFailed(
            f"{what}: changed on {_told(_good(answers))}; not changed on "
            f"{_told(not_done)}; not known of {_told(unsure)}. {_reasons(answers)}. "
            "Mend these hosts and run it again: what is changed already is left alone",
            {"rows": rows_of(answers)},
        )
    return answers


def rows_of(answers: Iterable[Answer[Any]]) -> list[dict[str, Any]]:
    """Return how it went on each host, as rows of a table."""
    return [
        {"severity": "stop" if answer.why else "ok", "host": answer.host, "outcome": answer.why or "done",
         "seconds": answer.seconds, "what": answer.problem}
        for answer in answers
    ]  # fmt: skip


def _check(parallel: int, timeout: float, errors_allowed: int) -> None:
    if not 1 <= parallel <= MOST_PARALLEL:
        raise EnvironmentInvalid(f"parallel must be from 1 to {MOST_PARALLEL}, not {parallel}")
    if not 0 < timeout <= LONGEST_SECONDS:
        raise EnvironmentInvalid(f"timeout must be above 0 and at most {LONGEST_SECONDS:.0f} seconds, not {timeout:g}")
    if errors_allowed < -1:
        raise EnvironmentInvalid(f"errors_allowed must be 0 or more, or -1 for no limit, not {errors_allowed}")


def _good(answers: Iterable[Answer[T]]) -> list[str]:
    return [answer.host for answer in answers if not answer.why]


def _told(names: Iterable[str]) -> str:
    return listed(names, MOST_LISTED) or "none"


def _reasons(answers: Iterable[Answer[T]]) -> str:
    return listed([answer.text for answer in answers if answer.why], between="; ")
