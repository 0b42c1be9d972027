"""What a command says on the terminal: warnings of the plan, tables, the last lines, problems and the next command."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from credscale.core.journal import read_journal
from credscale.core.secrets import Secrets
from credscale.frontends.session import JOURNAL
from credscale.frontends.tables import problem_rows, tables_of, without_good_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from credscale.core.runbook import Runbook
    from credscale.core.step import Result
    from credscale.frontends.run import Flags, Outcome
    from credscale.frontends.session import Request


def warn(console: Console, results: list[Result]) -> None:
    """Show what somebody should read before confirming."""
    rows = [row for result in results for row in problem_rows(result.output)]
    for row in rows:
        if row["severity"] == "warn":
            console.print(f"  ⚠ {_in_words(row)}", markup=False, soft_wrap=True)
    rest = dict.fromkeys(str(row.get("check")) for row in rows if row["severity"] != "warn")
    if rest:
        console.print(f"  ⚠ not looked at, the report says why: {', '.join(rest)}", markup=False, soft_wrap=True)


def _in_words(row: dict[str, Any]) -> str:
    """Return a judged row as a sentence: a check of the pre-flight, or a reason, which has a place."""
    if "check" in row:
        text, remedy = f"{row['check']}: {row.get('finding')}", row.get("remedy")
    else:
        text, remedy = f"{row.get('where')}: {row.get('what')}", row.get("what to do")
    return f"{text} ({remedy})" if remedy else text


def tell(console: Console, request: Request, flags: Flags, events: list[dict[str, Any]], status: str) -> None:
    """Print how a run ended: its tables and the verdict."""
    folder = request.folder
    last: dict[str, Any] = next((event for event in reversed(events) if event["event"] == "run_finished"), {})
    started = next((event for event in events if event["event"] == "run_started"), {})
    changes = changes_in(folder)
    for table in _tables(request, flags, events, console.width):
        console.print(table)
    if status == "ok":
        done = (
            "planned, nothing was changed"
            if flags.dry_run
            else "done, it only reads"
            if request.runbook.reads_only
            else f"{len(changes.made)} changes"
            if changes.made
            else "nothing had to be changed"
        )
        console.print(f"[bold green]✓ {request.runbook.name}: {done}[/]")
    else:
        console.print(f"[bold red]✗ {request.runbook.name} {status}[/]: ", end="")
        console.print(last.get("text", "no last line in the journal"), markup=False, soft_wrap=True)
        console.print(changes.text, markup=False, soft_wrap=True)
    if started.get("engine") == "simulated":
        console.print("[yellow]Engine: simulated lab. This rehearsal did not touch MongoDB.[/]")


def say_where(console: Console, runbook: Runbook, flags: Flags, outcome: Outcome) -> None:
    """Print where the evidence of a run is and the next command."""
    folder = outcome.folder
    if folder is None:
        return
    report = folder / "report.html"
    console.print(f"Evidence: {report if report.exists() else folder}", soft_wrap=True, markup=False)
    if outcome.problem:  # said, with the next command
        return
    if outcome.status == "ok":
        console.print(f"Verify:   invoke report.verify {folder}", soft_wrap=True, markup=False)
    else:
        console.print(f"Next:     {again(runbook, flags)}", soft_wrap=True, markup=False)


def say_problem(console: Console, runbook: Runbook, flags: Flags, text: str, changes: Changes) -> None:
    """Print why a command ended without a run, what was changed, and the next command."""
    console.print(f"[bold red]✗ {runbook.name}[/]: ", end="")
    console.print(text, markup=False, soft_wrap=True)
    console.print(changes.text, markup=False, soft_wrap=True)
    console.print(
        f"Next: invoke --help {runbook.name}, or again: {again(runbook, flags)}", markup=False, soft_wrap=True
    )


class Changes(NamedTuple):
    """What a run's journal says of its changes.

    Args:
        made: those that were made, or whose end was not seen.
        failed: those that failed or were interrupted; a part of such a one may have been made.
    """

    made: list[str]
    failed: list[str]

    @property
    def text(self) -> str:
        """All of them in words."""
        lines = [f"  ✎ {change}" for change in self.made]
        lines += [f"  ✗ {change} (it failed; a part of it may have been made)" for change in self.failed]
        return "\n".join(["Changed so far:", *lines]) if lines else "Changed so far: nothing"


def changes_in(folder: Path | None) -> Changes:
    """Return the changes that a run's journal announces; one that was cut off may have been made."""
    if folder is None or not (folder / JOURNAL).exists():
        return Changes([], [])
    made: dict[tuple[int, int], str] = {}
    failed: dict[tuple[int, int], str] = {}
    step = 0  # a runbook may call the same one twice
    for event in read_journal(folder / JOURNAL):
        step += event["event"] == "step_started"
        if event["event"] == "change_started":
            made[step, event["change"]] = f"{event['what']} (its end was not seen)"
        elif event["event"] == "change_finished":
            done = event["status"] == "done"
            (failed if done else made).pop((step, event["change"]), None)
            (made if done else failed)[step, event["change"]] = event["what"]
    return Changes([*made.values()], [*failed.values()])


def _tables(request: Request, flags: Flags, events: list[dict[str, Any]], width: int) -> Iterator[Any]:
    """Yield the tables people look for: those of single steps and of what only reads, and of a step that failed."""
    single = request.runbook.reads_only or not request.runbook.has_notebook
    for event in events:
        if event["event"] != "step_finished":
            continue
        if single and not flags.dry_run:
            yield from tables_of(event["output"], width)
        elif event["status"] == "failed":
            yield from tables_of(without_good_rows(event["output"]), width)


def again(runbook: Runbook, flags: Flags) -> str:
    """Return the command that asks for the same run."""
    words = ["invoke", runbook.name, "--env", flags.env]
    words += ["--on", flags.on] if flags.on else []
    words += ["--ticket", flags.ticket] if flags.ticket else []
    for name, value in flags.params.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    switches = {"--dry-run": flags.dry_run, "--yes": flags.yes, "--in-process": flags.in_process, "--json": flags.json}
    command = shlex.join(words + [flag for flag, given in switches.items() if given])
    return Secrets().mask(command)  # a password in a parameter, which is refused for that
