"""Tasks beside the runbooks: lab, reports, notebooks, the gates."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Collection, Exit, task

from credscale.core.errors import CredscaleError, EnvironmentInvalid, MissingExtra, Refused, UnknownTarget

if TYPE_CHECKING:
    from collections.abc import Callable

    from invoke import Context
    from rich.console import Console

    from credscale.core.environment import Environment

GATES = (
    ("ruff check", [sys.executable, "-m", "ruff", "check", "."]),
    ("ruff format", [sys.executable, "-m", "ruff", "format", "--check", "."]),
    ("mypy", [sys.executable, "-m", "mypy"]),
    ("import-linter", [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"]),
    ("notebooks.check", [sys.executable, "-m", "invoke", "notebooks.check"]),
    ("docs", [sys.executable, "-m", "invoke", "docs.build", "--check"]),
    ("pytest", [sys.executable, "-m", "pytest", "-q"]),
)


def _sentences(body: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors into one sentence and the contract's exit code."""

    @functools.wraps(body)
    def wrapped(c: Context, *args: Any, **kwargs: Any) -> None:
        try:
            body(c, *args, **kwargs)
        except (EnvironmentInvalid, UnknownTarget) as error:
            raise Exit(str(error), code=2) from None
        except Refused as error:
            raise Exit(str(error), code=3) from None
        except CredscaleError as error:
            raise Exit(str(error), code=1) from None

    return wrapped


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _lab_environment(env: str) -> Environment:
    from credscale.core.environment import load

    environment = load(env)
    if environment.lab is None:
        raise EnvironmentInvalid(
            f"the environment {environment.name!r} has no section lab; it is not a lab of this machine"
        )
    return environment


def _lab_settings(env: str) -> Any:
    return _lab_environment(env).lab


_ENV = {"env": "environment with a section lab (default: 'lab')"}


@task(auto_shortflags=False, help=_ENV | {"empty": "do not fill it with documents"})
@_sentences
def up(c: Context, env: str = "lab", empty: bool = False) -> None:  # noqa: ARG001 - invoke passes its context
    """Start the clusters on this machine, or what is missing of them."""
    from credscale import lab as clusters
    from credscale.frontends.lab_view import raise_redis, seed_with_bar, status_table

    environment, console = _lab_environment(env), _console()
    settings = _lab_settings(env)
    folder, problem = Path(settings.directory), ""
    state = clusters.up(folder, settings.engine, console.print)
    if not empty:
        seed_with_bar(console, state, settings.documents)
    try:
        raise_redis(environment, console)
    except MissingExtra as missing:  # MongoDB alone is a lab as well
        console.print(f"no Redis nodes: {missing}", markup=False)
    except CredscaleError as error:
        problem = f"MongoDB runs, the Redis nodes do not: {error}"
    console.print(status_table(state, clusters.redis_nodes(folder)))
    if problem:
        raise Exit(problem, code=1)


@task(auto_shortflags=False, help=_ENV | {"wipe": "delete its data as well"})
@_sentences
def down(c: Context, env: str = "lab", wipe: bool = False) -> None:  # noqa: ARG001
    """Stop the processes that lab.up started, and no others."""
    from credscale import lab as clusters

    folder = Path(_lab_settings(env).directory)
    stopped = clusters.down(folder, wipe=wipe) + clusters.redis_down(folder, wipe=wipe)
    _console().print(f"stopped: {', '.join(stopped)}" if stopped else "nothing of the lab was running")


@task(auto_shortflags=False, help=_ENV)
@_sentences
def status(c: Context, env: str = "lab") -> None:  # noqa: ARG001
    """Show engine, processes and addresses; exit 1 when a process is dead."""
    from credscale import lab as clusters
    from credscale.frontends.lab_view import status_table

    folder = Path(_lab_settings(env).directory)
    state, redis = clusters.status(folder), clusters.redis_nodes(folder)
    if state is None and not redis:
        raise Exit("the lab is down. Start it: invoke lab.up", code=1)
    _console().print(status_table(state, redis))
    if not all(process.alive for process in [*(state.processes if state is not None else ()), *redis]):
        raise Exit("a process is dead. Start it again: invoke lab.up", code=1)


@task(auto_shortflags=False, help=_ENV | {"documents": "how many (default: as the environment says)"})
@_sentences
def seed(c: Context, env: str = "lab", documents: int = 0) -> None:  # noqa: ARG001
    """Fill the running lab with realistic documents, unless it is filled."""
    from credscale import lab as cluster
    from credscale.frontends.lab_view import seed_with_bar

    settings = _lab_settings(env)
    state = cluster.status(Path(settings.directory))
    if state is None:
        raise Exit("the lab is down. Start it: invoke lab.up", code=1)
    seed_with_bar(_console(), state, documents or settings.documents)


@task(name="list", auto_shortflags=False, help={"env": "only this environment", "json": "one JSON array"})
@_sentences
def list_(c: Context, env: str = "", json: bool = False) -> None:  # noqa: ARG001
    """List past runs, newest first."""
    import json as jsonlib
    from dataclasses import asdict

    from rich.table import Table

    from credscale.evidence import runs
    from credscale.frontends.remote.records import away
    from credscale.frontends.session import artifacts_root

    elsewhere = [sent for sent in away() if env in ("", sent.environment)]
    if elsewhere and not json:
        for sent in elsewhere:
            _console().print(
                f"{sent.runbook} on {sent.environment} is on {sent.on}: invoke report.attach {sent.run}", markup=False
            )
    found = runs.list_runs(artifacts_root(), env or None)
    if json:
        sys.stdout.write(jsonlib.dumps([asdict(run) for run in found], default=str) + "\n")
        return
    if not found:
        _console().print(f"no runs in {artifacts_root()}/. The first one: invoke shard-migrate --env lab")
        return
    table = Table()
    for column in ("run", "environment", "runbook", "status", "changes", "duration", "ticket", "engine"):
        table.add_column(column, no_wrap=column == "run")
    for run in found:
        seconds = f"{run.duration:.0f} s" if run.duration is not None else ""
        table.add_row(
            run.run, run.environment, run.runbook, run.status, str(run.changes), seconds, run.ticket, run.engine
        )
    _console().print(table)


@task(
    auto_shortflags=False,
    help={
        "run": "run id, the beginning of one, a folder, or 'last'",
        "svg": "also save what is shown as this SVG file",
    },
)
@_sentences
def show(c: Context, run: str = "last", svg: str = "") -> None:  # noqa: ARG001
    """Show one run: its steps, what it changed, where its report lies."""
    import re

    from rich.console import Console

    from credscale.core.journal import read_journal
    from credscale.evidence import runs
    from credscale.frontends.progress import RunView
    from credscale.frontends.session import artifacts_root

    folder = runs.find_run(artifacts_root(), run)
    console = Console(highlight=False, record=bool(svg), width=120 if svg else None, force_terminal=bool(svg) or None)
    view, ending = RunView(console, f"Run {folder.name}"), "killed: the journal has no last line"
    for event in read_journal(folder / "journal.jsonl"):
        if event["event"] == "run_started":
            for key in ("runbook", "environment", "target", "engine", "operator", "requested_by", "ticket"):
                if key != "requested_by" or key in event:
                    console.print(f"{key.replace('_', ' ') + ':':13}{event.get(key, '')}", markup=False)
        if event["event"] in ("step_finished", "note") or not console.is_terminal:
            view.update(event)
        if event["event"] == "run_finished":
            ending = f"{event['status']}: {event['text']}, {event['changes']} changes"
    if console.is_terminal:
        console.print(view.render())
    console.print(f"{'result:':13}{ending}\n{'report:':13}{folder / 'report.html'}", markup=False, soft_wrap=True)
    if svg:
        drawn = console.export_svg(title=f"invoke report.show --run {folder.name}")
        fonts = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # they would be fetched from the network
        Path(svg).write_text(fonts.sub("", drawn), encoding="utf-8")


@task(auto_shortflags=False, positional=["path"], help={"path": "artifact folder, run id or 'last'"})
@_sentences
def verify(c: Context, path: str) -> None:  # noqa: ARG001
    """Check a run's evidence offline: signature, hashes, journal chain."""
    from credscale.evidence import manifest, runs
    from credscale.frontends.session import artifacts_root

    folder = runs.find_run(artifacts_root(), path)
    found = manifest.verify(folder)
    console = _console()
    console.print(f"{folder}: {found.files} files, {found.journal_lines} journal lines", soft_wrap=True)
    console.print(found.signer, markup=False, soft_wrap=True)
    for problem in found.problems:
        console.print(f"✗ {problem}", markup=False, soft_wrap=True)
    if not found.ok:
        raise Exit("the evidence is not intact", code=1)
    console.print("[green]✓ intact: nothing was changed, removed or added since it was signed[/]")


@task(
    name="seal",
    auto_shortflags=False,
    positional=["path"],
    help={
        "path": "artifact folder, run id or 'last'",
        "ended": "the run's process has ended, though it was on another machine and left no last line",
    },
)
@_sentences
def seal_(c: Context, path: str, ended: bool = False) -> None:  # noqa: ARG001
    """Sign the evidence of a run that a scheduler or a killed terminal left unsealed; exit as the run would have."""
    from credscale.evidence import runs
    from credscale.frontends.schedule.sealing import ending_of, seal_run
    from credscale.frontends.session import artifacts_root

    folder = runs.find_run(artifacts_root(), path)
    console = _console()
    sealed = seal_run(folder, ended=ended)
    console.print("sealed" if sealed else "was sealed already and is intact: left as it is")
    ending, code = ending_of(folder)
    console.print(f"{'result:':13}{ending}\n{'report:':13}{folder / 'report.html'}", markup=False, soft_wrap=True)
    if code:
        raise Exit(code=code)


@task(
    auto_shortflags=False,
    positional=["run"],
    help={
        "run": "run id, the beginning of one, or 'last'",
        "env": "environment, for a run that was sent from another machine",
        "on": "host that the run is on; without it all hosts of the environment are asked",
    },
)
@_sentences
def attach(c: Context, run: str, env: str = "", on: str = "") -> None:  # noqa: ARG001
    """Watch a run on another machine (--on) again, from here; brings its evidence when it ends."""
    from credscale.frontends.catalogue import named, runbook_behind
    from credscale.frontends.front import terminal
    from credscale.frontends.remote.attaching import attach as attach_to
    from credscale.frontends.run import Flags
    from credscale.frontends.telling import say_where

    front = terminal(json=False)
    sent, outcome = attach_to(run, env, on, front)
    if outcome.folder is not None:
        flags: dict[str, Any] = {"env": sent.env, "on": sent.on, **sent.flags}
        say_where(front.console, runbook_behind(named(sent.runbook)), Flags(**flags), outcome)
    if outcome.code:
        raise Exit(code=outcome.code)


@task(auto_shortflags=False)
@_sentences
def build(c: Context) -> None:  # noqa: ARG001
    """Build the notebooks from the runbooks."""
    from credscale.frontends import catalogue, notebook

    for runbook in catalogue.runbooks():
        path = notebook.path_of(runbook)
        path.parent.mkdir(exist_ok=True)
        path.write_text(notebook.build(runbook), encoding="utf-8")
        _console().print(f"built {path}")


@task(name="check", auto_shortflags=False)
@_sentences
def check_notebooks(c: Context) -> None:  # noqa: ARG001
    """Fail when a notebook is not what its runbook would build."""
    from credscale.frontends import catalogue, notebook

    found = notebook.stale(catalogue.runbooks())
    if found:
        raise Exit(f"stale: {', '.join(map(str, found))}. Build again: invoke notebooks.build", code=1)
    _console().print("every notebook matches its runbook")


@task(name="open", auto_shortflags=False, help={"env": "environment that the notebooks open with"})
@_sentences
def open_(c: Context, env: str) -> None:  # noqa: ARG001
    """Open JupyterLab on the notebooks, for troubleshooting."""
    import importlib.util
    import os

    from credscale.core.environment import load
    from credscale.core.errors import MissingExtra
    from credscale.frontends.session import ENVIRONMENT

    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingExtra("jupyterlab", "jupyter", "notebooks.open")
    os.environ[ENVIRONMENT] = str(load(env).path)
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", "notebooks"])  # noqa: S606 - fixed arguments, no shell


@task(name="build", auto_shortflags=False, help={"check": "fail when the page is stale instead of writing it"})
@_sentences
def build_docs(c: Context, check: bool = False) -> None:  # noqa: ARG001
    """Build docs/reference.md from docstrings."""
    from credscale.frontends import catalogue, reference

    text = reference.build(catalogue.runbooks(), list(catalogue.steps()))
    if not check:
        reference.PAGE.write_text(text, encoding="utf-8")
    elif not reference.PAGE.is_file() or reference.PAGE.read_text(encoding="utf-8") != text:
        raise Exit(f"{reference.PAGE} is stale. Build it again: invoke docs.build", code=1)


@task(auto_shortflags=False, help={"fast": "leave out the tests that start real processes"})
def check(c: Context, fast: bool = False) -> None:  # noqa: ARG001
    """Run every gate: ruff, mypy, import-linter, pytest, stale notebooks."""
    import subprocess

    console, failed = _console(), []
    for name, command in GATES:
        console.rule(name)
        extra = ["-m", "not scenario"] if fast and name == "pytest" else []
        if subprocess.run([*command, *extra], check=False).returncode:
            failed.append(name)
    if failed:
        raise Exit(f"failed: {', '.join(failed)}", code=1)
    console.print("[green]every gate passed[/]")


lab = Collection("lab", up, down, status, seed)
report = Collection("report", list_, show, verify, seal_, attach)
notebooks = Collection("notebooks", build, check_notebooks, open_)
docs = Collection("docs", build_docs)
