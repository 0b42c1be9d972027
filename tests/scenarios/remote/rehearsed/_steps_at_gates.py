"""Steps of the runbook ``step_by_step``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from credscale.core.errors import VerificationFailed
from credscale.core.step import Finding, step

if TYPE_CHECKING:
    from credscale.core.context import Context

GATE_SECONDS = 120.0


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _write(ctx: Context, folder: str, line: str, text: str) -> Finding:
    path, gate = Path(folder) / "lines", Path(folder) / f"gate-{line}"
    wanted = json.dumps([line, text])
    if wanted in _lines(path):
        return Finding(f"{path} has the line {line} already")
    ctx.apply(f"append the line {line} to {path}", _append, path, wanted)
    ctx.wait_until(f"{gate} is there", lambda: (gate.exists(), "it is not"), GATE_SECONDS, every=0.05)
    return Finding(f"{path} has the line {line}")


@step()
def write_one(ctx: Context, *, folder: str, text: str) -> Finding:
    """Append the first line to the file, then wait for the gate of that name."""
    return _write(ctx, folder, "one", text)


@step()
def write_two(ctx: Context, *, folder: str, text: str) -> Finding:
    """Append the second line to the file, then wait for the gate of that name."""
    return _write(ctx, folder, "two", text)


@step()
def write_three(ctx: Context, *, folder: str, text: str) -> Finding:
    """Append the last line to the file, then wait for the gate of that name."""
    return _write(ctx, folder, "three", text)


@step()
def use_secret(ctx: Context, *, folder: str, secret: str, leak: str) -> Finding:
    """Append the sha256 of a secret to the file, and try to betray it.

    Args:
        folder: of the file
        secret: its reference; empty for none
        leak: what is done with the value besides
    """
    if not secret:
        return Finding("there is no secret")
    value = ctx.secrets.resolve(secret)
    path = Path(folder) / "lines"
    wanted = json.dumps(["secret", hashlib.sha256(value.encode()).hexdigest()])
    if wanted not in _lines(path):
        ctx.apply(f"append the sha256 of the secret {value} to {path}", _append, path, wanted)
    if leak:
        ctx.note(f"the secret is {value}")
        print(f"the secret is {value}")
    if leak == "raise":
        raise VerificationFailed(f"the secret {value} is wrong", {"rows": [{"secret": value}]})
    return Finding(f"the secret {value} was used", {"rows": [{"secret": value}] if leak else []})
