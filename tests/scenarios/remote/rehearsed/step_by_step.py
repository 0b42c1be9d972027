"""A runbook whose steps wait for a gate, so that a test decides what happens in their middle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbooks._steps_at_gates import use_secret, write_one, write_three, write_two

from credscale.core.runbook import runbook

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(builds_target=True)
def step_by_step(ctx: Context, *, folder: str = "", text: str = "a text", secret: str = "", leak: str = "") -> None:
    """Write lines into a file, one at a time.

    Args:
        folder: of the file and of the gates, which are files: a step ends when its own is there
        text: the first line says it
        secret: a secret reference; its value's sha256 is a line of the file
        leak: what is done with the value besides: say, raise
    """
    # ## The first line
    write_one(ctx, folder=folder, text=text)
    # ## The second line
    write_two(ctx, folder=folder, text=text)
    # ## The secret
    use_secret(ctx, folder=folder, secret=secret, leak=leak)
    # ## The last line
    write_three(ctx, folder=folder, text=text)
