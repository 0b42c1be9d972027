"""``--on HOST``: check here, prepare the host, start the run there, watch it, bring its evidence back."""

from __future__ import annotations

import getpass
import json
import socket
from contextlib import closing
from typing import TYPE_CHECKING

from credscale.core.clients import Clients
from credscale.core.errors import CredscaleError, EnvironmentInvalid, MissingExtra
from credscale.core.secrets import Secrets
from credscale.frontends import notebook, policy
from credscale.frontends.masking import references_of, secrets_of
from credscale.frontends.remote.host import RemoteHost
from credscale.frontends.remote.preparing import patiently, prepare
from credscale.frontends.remote.records import Sent, remember
from credscale.frontends.remote.watching import watch
from credscale.frontends.run import Outcome, inputs, problem_of
from credscale.frontends.session import new_folder
from credscale.frontends.telling import Changes, say_problem

if TYPE_CHECKING:
    from credscale.core.environment import Environment
    from credscale.core.runbook import Runbook
    from credscale.frontends.front import Terminal
    from credscale.frontends.run import Flags


def run_on(runbook: Runbook, flags: Flags, front: Terminal) -> Outcome:
    """Run a runbook on a host of the environment and bring its evidence here."""
    secrets = Secrets()
    try:
        environment, sent = _checked(runbook, flags)
        secrets = secrets_of(environment)
        with closing(Clients(environment, secrets)) as clients:
            host = RemoteHost(clients.machine(flags.on), environment.hosts[flags.on])
            _send(host, runbook, environment, flags, front, sent)
            return watch(host, sent, secrets, front)
    except (CredscaleError, KeyboardInterrupt) as error:
        code, status, text = problem_of(error)
        text = secrets.mask(text)
        say_problem(front.console, runbook, flags, text, Changes([], []))
        return Outcome(code, status, problem=text)


def _checked(runbook: Runbook, flags: Flags) -> tuple[Environment, Sent]:
    """Check all that needs no host: environment, parameters, policy, notebook, the folder for the evidence."""
    environment, _ = inputs(runbook, flags)
    if flags.watch:
        raise EnvironmentInvalid(f"--watch looks from here; log in to {flags.on} to look from there")
    if flags.on not in environment.hosts:
        known = ", ".join(environment.hosts) or "none; add the section hosts"
        raise EnvironmentInvalid(
            f"--on {flags.on}: no such host in {environment.path}. Nothing was changed. It has: {known}"
        )
    if not flags.dry_run and not runbook.reads_only:
        policy.check(environment, flags.ticket)
    if runbook.has_notebook:
        notebook.require_fresh(runbook)
    folder = new_folder(environment.name, runbook.name)
    folder.rmdir()  # it can be written; it comes back whole
    asked_for = {"dry_run": flags.dry_run, "yes": flags.yes, "ticket": flags.ticket, "in_process": flags.in_process}
    sent = Sent(folder.name, runbook.name, environment.name, flags.env, flags.on, asked_for | {"params": flags.params})
    return environment, sent


def _send(
    host: RemoteHost, runbook: Runbook, environment: Environment, flags: Flags, front: Terminal, sent: Sent
) -> None:
    """Prepare the host and start the run there."""
    with front.console.status(f"{host.name}: looking at it") as status:

        def doing(text: str) -> None:
            if front.console.is_terminal:
                status.update(f"{host.name}: {text}")
            else:
                front.console.print(f"{host.name}: {text}", markup=False, soft_wrap=True)

        references = sorted(set(references_of(environment)))
        packages, version, there = prepare(host, references, doing)
        order = {
            "runbook": runbook.name, "environment": environment.name, "file": environment.path.name,
            "inventory": environment.path.read_text(encoding="utf-8"), "version": version, "packages": packages,
            "artifacts": f"artifacts/{environment.name}/{runbook.name}/{sent.run}",
            "flags": sent.flags | {"env": flags.env, "on": flags.on},
            "width": front.console.width, "answers": front.ask is not None,
            "requested_by": f"{getpass.getuser()}@{socket.gethostname()}",
            "secrets": {} if environment.lab is not None else _lacking(references, there),  # a lab's are its own
        }  # fmt: skip
        remember(sent)
        doing("starting the run")
        patiently(lambda: host.call("launch", sent.run, stdin=json.dumps(order).encode()))
    front.console.print(
        f"{host.name}: run {sent.run} is started; it goes on without this terminal (invoke report.attach {sent.run})",
        markup=False, soft_wrap=True,
    )  # fmt: skip


def _lacking(references: list[str], there: list[str]) -> dict[str, str]:
    """Return the values of the references that the host lacks and this machine has."""
    found = {}
    for reference in references:
        if reference in there:
            continue
        try:
            found[reference] = Secrets().resolve(reference)
        except (EnvironmentInvalid, MissingExtra):
            continue  # nobody has it: the run says so where it needs it
    return found
