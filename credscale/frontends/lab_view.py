"""The lab as people see it: what of it is started for a run, a bar while it is filled, a table of its processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from credscale import lab
from credscale.core.environment import load
from credscale.core.errors import CredscaleError
from credscale.frontends.targets import MONGO, REDIS
from credscale.lab.state import rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from credscale.core.environment import Environment
    from credscale.core.runbook import Runbook
    from credscale.lab import LabState
    from credscale.lab.processes import Process

NAMESPACE = "credibility_prod.analyses"


def raise_lab(environment: Environment, runbook: Runbook, console: Console) -> Environment:
    """Bring up what a run needs of the embedded clusters, when the environment is a lab.

    Args:
        environment: of the run.
        runbook: what it runs; one that looks at both clusters shows what there is, though the other cannot start.
        console: receives what is done.

    Returns:
        the environment, read again where the lab may have written what it refers to.
    """
    if environment.lab is None:
        return environment
    starts = {MONGO: _raise_mongo, REDIS: raise_redis}
    there = [name for name in starts if getattr(environment, name) is not None]
    for name in there:
        if name != runbook.target and not runbook.keep_going:
            continue
        try:
            starts[name](environment, console)
        except CredscaleError as error:
            if not runbook.keep_going:
                raise
            _say(console, str(error))
    if REDIS in there and runbook.target == MONGO and not runbook.keep_going:
        _say(console, "its Redis nodes are not needed for this; a Redis runbook or invoke lab.up starts them")
    return load(str(environment.path))


def _say(console: Console, text: str) -> None:
    console.print(f"lab: {text}", style="dim", markup=False)


def _raise_mongo(environment: Environment, console: Console) -> None:
    if environment.lab is not None:
        settings = environment.lab
        state = lab.up(Path(settings.directory), settings.engine, lambda text: _say(console, text))
        seed_with_bar(console, state, settings.documents)


def raise_redis(environment: Environment, console: Console) -> None:
    """Bring up the lab's Redis nodes."""
    if environment.lab is not None and environment.redis is not None:
        lab.redis_up(Path(environment.lab.directory), environment.redis.nodes, lambda text: _say(console, text))


def seed_with_bar(console: Console, state: LabState, documents: int) -> None:
    """Fill the lab's collection, showing how far it is."""
    columns = (TextColumn("[dim]lab: filling " + NAMESPACE), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("seed", total=documents)
        done = lab.seed(state, NAMESPACE, documents, lambda count, _: bar.update(task, completed=count))
    console.print(f"[dim]lab: {done.summary}[/dim]")


def status_table(state: LabState | None, redis: Sequence[Process]) -> Table:
    """Return the lab's processes as a table whose title names the engine of its MongoDB cluster."""
    engine = f"engine: {state.engine}" if state is not None else "MongoDB is down"
    table = Table(title=f"lab · {engine}", title_justify="left")
    for column in ("process", "role", "replica set", "address", "pid", "state", "log"):
        table.add_column(column, overflow="fold")
    for row in rows_of([*(state.processes if state is not None else ()), *redis]):
        alive = "[green]running[/]" if row["alive"] else "[red]dead[/]"
        columns = (row["name"], row["role"], row["replica_set"], row["address"], str(row["pid"]), alive, row["log"])
        table.add_row(*columns)
    return table
