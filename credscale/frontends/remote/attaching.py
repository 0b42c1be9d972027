"""``report.attach``: watch a run on another machine again, from wherever the inventory is."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from credscale.core.clients import Clients
from credscale.core.environment import load
from credscale.core.errors import ConnectFailed, EnvironmentInvalid, UnknownTarget
from credscale.core.machines.fanout import fan_out
from credscale.frontends.masking import secrets_of
from credscale.frontends.remote.host import RemoteHost
from credscale.frontends.remote.records import Sent, away, chosen, remember
from credscale.frontends.remote.watching import watch

if TYPE_CHECKING:
    from credscale.core.environment import Environment
    from credscale.core.machines import Machine
    from credscale.frontends.front import Terminal
    from credscale.frontends.run import Outcome

LOOK_SECONDS = 30.0


def attach(run: str, env: str, on: str, front: Terminal) -> tuple[Sent, Outcome]:
    """Watch a run to its end and bring its evidence here.

    Args:
        run: its id, the beginning of one, or ``last``.
        env: the environment, for a run that was not sent from here; may be empty.
        on: the host it is on; empty to ask all of the environment's.
        front: where it is shown.

    Returns:
        the run and how it ended.

    Raises:
        UnknownTarget: no such run, here or on the hosts.
        ConnectFailed: a host that was named cannot be reached.
    """
    here = [sent for sent in away() if (not env or load(env).name == sent.environment) and on in ("", sent.on)]
    sent = chosen(run, here)
    if sent is None and not env:
        raise UnknownTarget(
            f"no run {run!r} was sent from here and is still away. One that was sent from another machine, or that is "
            f"back: invoke report.attach {run} --env NAME (asks the environment's hosts), or invoke report.list"
        )
    environment = load(env or (sent.env if sent is not None else env))
    if sent is not None and sent.on not in environment.hosts:
        raise EnvironmentInvalid(f"run {sent.run} is on {sent.on}, which {environment.path} does not have any more")
    secrets = secrets_of(environment)
    with closing(Clients(environment, secrets)) as clients:
        if sent is None:
            sent, silent = _search(environment, clients, run, env, on)
            for each in silent:
                front.console.print(f"not asked: {each}", markup=False, soft_wrap=True)
            remember(sent)
        told = f"{sent.runbook} on {sent.environment}, run {sent.run} on {sent.on}"
        front.console.print(told, markup=False, soft_wrap=True)
        host = RemoteHost(clients.machine(sent.on), environment.hosts[sent.on])
        return sent, watch(host, sent, secrets, front)


def _search(environment: Environment, clients: Clients, run: str, env: str, on: str) -> tuple[Sent, list[str]]:
    """Ask the hosts for a run; returns it, and why others could not be asked."""
    if not environment.hosts:
        raise EnvironmentInvalid(f"{environment.path} has no section hosts, so no run can be elsewhere")
    if on and on not in environment.hosts:
        known = ", ".join(environment.hosts)
        raise EnvironmentInvalid(f"--on {on}: no such host in {environment.path}. It has: {known}")
    names = [on] if on else list(environment.hosts)

    def runs(machine: Machine) -> Any:
        host = RemoteHost(machine, environment.hosts[machine.name])
        return host.call("runs", timeout=LOOK_SECONDS)["runs"] if host.has_runs() else []

    answers = fan_out([clients.machine(name) for name in names], runs, timeout=LOOK_SECONDS)
    there = [
        Sent(each["run"], each["runbook"], environment.name, env, answer.host, _flags_of(each))
        for answer in answers
        for each in answer.value or ()
        if each["environment"] == environment.name
    ]
    silent = [answer.text for answer in answers if answer.why]
    if on and silent:
        raise ConnectFailed(f"{silent[0]}. So it cannot be asked for its runs")
    if run == "last" and silent:
        raise ConnectFailed(f"{'; '.join(silent)}. So nobody knows which run is the last one; give its id")
    found = chosen(run, there)
    if found is None:
        more = f" Not asked: {'; '.join(silent)}." if silent else ""
        raise UnknownTarget(f"no run {run!r} of {environment.name} is on {', '.join(names)}.{more}")
    return found, silent


def _flags_of(told: dict[str, Any]) -> dict[str, object]:
    return {key: value for key, value in told["flags"].items() if key not in ("env", "on")}
