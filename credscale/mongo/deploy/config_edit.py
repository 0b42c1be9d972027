"""Change single options of somebody else's configuration file and leave every other line, comments included."""

from __future__ import annotations

import copy
import re
from typing import Any

import yaml

from credscale.core.errors import PreconditionFailed


def with_options(text: str, options: dict[str, Any]) -> str:
    """Return a YAML configuration with some options set.

    Args:
        text: the file.
        options: by dotted name of two parts, such as ``sharding.clusterRole``.

    Raises:
        PreconditionFailed: the file is written in a way in which this cannot be done line by line.
    """
    try:
        present = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        present = None
    if not isinstance(present, dict):
        raise PreconditionFailed(f"the file is not YAML. Set in it, by hand: {_told(options)}")
    wanted = copy.deepcopy(present)
    for name, value in options.items():
        section, _, key = name.partition(".")
        inner = wanted.get(section)
        wanted[section] = (inner if isinstance(inner, dict) else {}) | {key: value}
        if not isinstance(inner, dict) or inner.get(key) != value:
            text = _set_line(text, section, key, value)
    try:
        # counted, because YAML takes the second of two equal keys without a word, and the server may not
        sections = [line for line in text.splitlines() if re.match(r"[^\s#]", line)]
        reached = yaml.safe_load(text) == wanted and len(sections) == len(wanted)
    except yaml.YAMLError:
        reached = False
    if not reached:
        raise PreconditionFailed(f"the file is written in an unusual way. Set in it, by hand: {_told(options)}")
    return text


def _told(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in options.items())


def _set_line(text: str, section: str, key: str, value: Any) -> str:
    lines = text.splitlines()
    head = next((n for n, line in enumerate(lines) if re.match(rf"{re.escape(section)}\s*:\s*(#.*)?$", line)), None)
    if head is None:
        return "\n".join([*lines, f"{section}:", f"  {key}: {value}"]) + "\n"
    end = next((n for n in range(head + 1, len(lines)) if re.match(r"[^\s#]", lines[n])), len(lines))
    body = [n for n in range(head + 1, end) if lines[n].strip() and not lines[n].lstrip().startswith("#")]
    indent = re.match(r"\s*", lines[body[0]])[0] if body else "  "  # type: ignore[index]
    line = f"{indent}{key}: {value}"
    there = next((n for n in body if re.match(rf"{indent}{re.escape(key)}\s*:", lines[n])), None)
    if there is not None:
        lines[there] = line
    else:
        lines.insert(head + 1, line)
    return "\n".join(lines) + "\n"
