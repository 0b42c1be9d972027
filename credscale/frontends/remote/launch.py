"""``--on HOST``: check here, prepare the host, start the run there, watch it, bring its evidence back."""

from __future__ import annotations

import getpass
import json
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

from credscale.core.clients import Clients
from credscale.core.errors import CredscaleError, EnvironmentInvalid, MissingExtra, PreconditionFailed, UnknownTarget
from credscale.core.secrets import Secrets, has_password
from credscale.evidence.manifest import commit_text
from credscale.frontends import notebook, policy
from credscale.frontends.masking import references_of, secrets_of
from credscale.frontends.remote.host import RemoteHost
from credscale.frontends.remote.preparing import patiently, prepare
from credscale.frontends.remote.records import Sent, forget, remember
from credscale.frontends.remote.watching import may_go_on, watch
from credscale.frontends.run import Outcome, inputs, problem_of
from credscale.frontends.session import new_folder, new_run
from credscale.frontends.telling import Changes, say_problem

if TYPE_CHECKING:
    from credscale.core.environment import Environment
    from credscale.core.runbook import Runbook
    from credscale.frontends.front import Terminal
    from credscale.frontends.run import Flags


def run_on(runbook: Runbook, flags: Flags, front: Terminal) -> Outcome:
    """Run a runbook on a host of the environment and bring its evidence here."""
    secrets, sent = Secrets(), None
    try:
        environment = _checked(runbook, flags)
        secrets = secrets_of(environment)
        with closing(Clients(environment, secrets)) as clients:
            host = RemoteHost(clients.machine(flags.on), environment.hosts[flags.on])
            order = _prepared(host, runbook, environment, flags, front)
            sent = _remembered(runbook, environment, flags)
            try:
                _launch(host, sent, order)
            except PreconditionFailed:
                if _is_there(host, sent.run):
                    raise
                forget(sent.run)  # the host itself says that it did not begin
                sent = None
                raise
            front.console.print(f"{host.name}: run {sent.run} goes on without this terminal", soft_wrap=True)
            return watch(host, sent, secrets, front)
    except (CredscaleError, KeyboardInterrupt, OSError) as error:
        code, status, text = problem_of(error)
        text = secrets.mask(text)
        if sent is None:
            say_problem(front.console, runbook, flags, text, Changes([], []))
            return Outcome(code, status, problem=text)
        return may_go_on(flags.on, sent, text, front)


def _checked(runbook: Runbook, flags: Flags) -> Environment:
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
    for name, value in flags.params.items():
        if has_password(str(value)):
            raise EnvironmentInvalid(
                f"parameter {name} has a password in it, which would lie on {flags.on}'s disk. Nothing was changed. "
                "Put it into the environment file as a reference"
            )
    if runbook.has_notebook:
        notebook.require_fresh(runbook)
    new_folder(environment.name, runbook.name).rmdir()  # it can be written; the evidence comes as a whole
    return environment


def _remembered(runbook: Runbook, environment: Environment, flags: Flags) -> Sent:
    asked_for = {"dry_run": flags.dry_run, "yes": flags.yes, "ticket": flags.ticket, "in_process": flags.in_process}
    sent = Sent(new_run(), runbook.name, environment.name, flags.env, flags.on, asked_for | {"params": flags.params})
    remember(sent)
    return sent


def _launch(host: RemoteHost, sent: Sent, order: dict[str, Any]) -> None:
    artifacts = f"artifacts/{sent.environment}/{sent.runbook}/{sent.run}"
    text = json.dumps(order | {"artifacts": artifacts}).encode()
    patiently(lambda: host.call("launch", sent.run, stdin=text))


def _is_there(host: RemoteHost, run: str) -> bool:
    """Tell whether a host knows of a run; yes where it cannot be asked."""
    try:
        host.call("evidence", run)
    except UnknownTarget:
        return False
    except CredscaleError:
        return True
    return True


def _prepared(
    host: RemoteHost, runbook: Runbook, environment: Environment, flags: Flags, front: Terminal
) -> dict[str, Any]:
    """Prepare the host; returns what it needs to know of the run."""
    with front.console.status(f"{host.name}: looking at it") as status:

        def doing(text: str) -> None:
            if front.console.is_terminal:
                status.update(f"{host.name}: {text}")
            else:
                front.console.print(f"{host.name}: {text}", markup=False, soft_wrap=True)

        references = sorted(set(references_of(environment)))
        packages, version, there = prepare(host, references, doing)
    return {
        "runbook": runbook.name, "environment": environment.name, "file": environment.path.name,
        "inventory": environment.path.read_text(encoding="utf-8"), "version": version, "packages": packages,
        "flags": {
            "env": flags.env, "on": flags.on, "dry_run": flags.dry_run, "yes": flags.yes, "ticket": flags.ticket,
            "in_process": flags.in_process, "params": flags.params,
        },
        "width": front.console.width, "answers": front.ask is not None,
        "requested_by": f"{getpass.getuser()}@{socket.gethostname()}", "commit": commit_text(),
        "secrets": {} if environment.lab is not None else _lacking(references, there),  # a lab's are its own
    }  # fmt: skip


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
