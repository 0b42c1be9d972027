"""A runbook that only reads, repeated on the screen until Ctrl-C; leaves no evidence."""

from __future__ import annotations

import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.errors import CredscaleError
from credscale.core.journal import Journal
from credscale.frontends.masking import secrets_of
from credscale.frontends.tables import tables_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from credscale.core.environment import Environment
    from credscale.core.runbook import Runbook

SELECT_SECONDS = 3.0  # a screen that waits longer for a dead cluster looks dead itself


def watch(runbook: Runbook, environment: Environment, params: dict[str, object], seconds: float) -> int:
    """Show a runbook's tables again and again.

    Args:
        runbook: one that only reads.
        environment: where.
        params: its parameters, coerced.
        seconds: between the end of one look and the start of the next.

    Returns:
        the exit code of the last look: 1 when it failed.
    """
    secrets = secrets_of(environment)
    clients = Clients(environment, secrets, select_timeout=SELECT_SECONDS)
    console, problem = Console(highlight=False), ""
    full = console.is_terminal
    try:
        with Live(console=console, screen=full, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                with tempfile.TemporaryDirectory(prefix="credscale-watch-") as folder:
                    ctx = Context(
                        environment, Journal(Path(folder) / "watch.jsonl", secrets.mask), clients, secrets,
                        reads_only=True,
                    )  # fmt: skip
                    problem = _look(runbook, ctx, params)
                picture = _picture(runbook, ctx, seconds, problem, console.width)
                live.update(picture, refresh=True) if full else console.print(picture)
                time.sleep(seconds)
    except KeyboardInterrupt:
        return 1 if problem else 0
    finally:
        clients.close()


def _look(runbook: Runbook, ctx: Context, params: dict[str, object]) -> str:
    """Run once; returns what is wrong, empty when nothing is."""
    try:
        runbook(ctx, **params)
    except CredscaleError as error:
        return str(error)
    finally:
        ctx.journal.close()
    return ""


def _picture(runbook: Runbook, ctx: Context, seconds: float, problem: str, width: int) -> Group:
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    parts: list[RenderableType] = [
        Text.assemble((f"{runbook.name} {ctx.environment.name}", "bold"), f"  {now}, every {seconds:g} s, Ctrl-C ends")
    ]
    if problem and not ctx.results:
        parts.append(Text(problem, "bold red"))
    for result in ctx.results:
        parts.append(Text(result.summary, "bold red" if result.error is not None else "green"))
        parts += tables_of(result.output, width)
    return Group(*parts)
