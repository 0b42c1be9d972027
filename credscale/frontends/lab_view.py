"""The lab as people see it: a bar while it is filled, a table of its processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from credscale import lab

if TYPE_CHECKING:
    from rich.console import Console

    from credscale.lab import LabState

NAMESPACE = "credibility_prod.analyses"


def seed_with_bar(console: Console, state: LabState, documents: int) -> None:
    """Fill the lab's collection, showing how far it is."""
    columns = (TextColumn("[dim]lab: filling " + NAMESPACE), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("seed", total=documents)
        done = lab.seed(state, NAMESPACE, documents, lambda count, _: bar.update(task, completed=count))
    console.print(f"[dim]lab: {done.summary}[/dim]")


def status_table(state: LabState) -> Table:
    """Return the lab's processes as a table whose title names the engine."""
    table = Table(title=f"lab · engine: {state.engine}", title_justify="left")
    for column in ("process", "role", "replica set", "address", "pid", "state", "log"):
        table.add_column(column, overflow="fold")
    for row in state.rows():
        alive = "[green]running[/]" if row["alive"] else "[red]dead[/]"
        columns = (row["name"], row["role"], row["replica_set"], row["address"], str(row["pid"]), alive, row["log"])
        table.add_row(*columns)
    return table
