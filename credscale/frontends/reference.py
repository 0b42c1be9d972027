"""The reference page, built from docstrings and signatures so that it cannot say anything else than the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.frontends.catalogue import collection_of, parameter_texts

if TYPE_CHECKING:
    from credscale.core.runbook import Runbook
    from credscale.core.step import Step

PAGE = Path("docs/reference.md")


def build(runbooks: list[Runbook], steps: list[Step[Any]]) -> str:
    """Return the page as Markdown.

    Args:
        runbooks: become one section each.
        steps: become one section each, with their task.
    """
    parts = ["# Reference", "Built from docstrings by `invoke docs.build`.", "## Runbooks"]
    for runbook in runbooks:
        parts += [
            f"### `invoke {runbook.name}`",
            _prose(runbook.function),
            _parameters(runbook.parameters, runbook.function),
        ]
    parts.append("## Steps and probes")
    for step in steps:
        technology = collection_of(step)
        task = f"{technology}.{step.name.replace('_', '-')}"
        kind = "changes through `ctx.apply` only" if step.kind == "action" else "reads only"
        parts += [
            f"### `{technology}`: `{step.name}`",
            f"`invoke {task} --env ENV` · {step.kind}, {kind}",
            _prose(step.function),
        ]
        parts.append(_parameters(dict(list(step.__signature__.parameters.items())[1:]), step.function))
    return "\n\n".join(part for part in parts if part) + "\n"


def _prose(function: Any) -> str:
    text = inspect.getdoc(function) or ""
    head, *rest = re.split(r"\n(?=(?:Args|Returns|Raises):\n)", text)
    sections = [section for section in rest if not section.startswith("Args:")]
    return "\n\n".join([head.strip(), *(_section(section) for section in sections)])


def _section(section: str) -> str:
    title, _, body = section.partition(":\n")
    return f"**{title}:** {' '.join(body.split())}"


def _parameters(parameters: dict[str, inspect.Parameter], function: Any) -> str:
    if not parameters:
        return ""
    texts = parameter_texts(function)
    lines = ["| parameter | type | default | meaning |", "|---|---|---|---|"]
    for name, parameter in parameters.items():
        default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        meaning = texts.get(name, "").replace("|", "\\|")
        lines.append(f"| `{name}` | {parameter.annotation} | {default} | {meaning} |")
    return "\n".join(lines)
