"""The report: one HTML file that opens without a network, for the change ticket and for the archive."""

from __future__ import annotations

import html
import json
import shlex
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import JournalBroken
from credscale.core.journal import Event, read_journal
from credscale.core.step import Status, mark_of
from credscale.evidence.html_notebook import first_picture, render_notebook
from credscale.evidence.html_style import STYLE
from credscale.evidence.manifest import journal_head
from credscale.evidence.notebook import steps_not_reached
from credscale.evidence.story import StepRecord, Story, tell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REPORT = "report.html"
SIMULATED = "SIMULATED LAB - this run did not touch MongoDB"
_RESULT_WORDS = {
    "interrupted": "stopped by the operator",
    "aborted": "stopped by an error outside a step",
    "killed": "the journal has no end",
}
_UNCLEAR = {"failed": "failed", "under way": "its end was not seen"}
# a second lock on the door: even if something slipped through, a browser would load and run nothing
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(folder: Path) -> Path:
    """Write report.html from the journal, and from output.ipynb and plan.json where they exist.

    Args:
        folder: the artifact folder, already redacted.

    Returns:
        the path of the report.
    """
    story = tell(_readable(folder / "journal.jsonl"))
    notebook = _notebook(folder / "output.ipynb")
    title = str(story.started.get("title") or story.started.get("runbook") or folder.name)
    body = "\n".join(
        part
        for part in (
            _header(story, title),
            _banners(story),
            _trouble(story),
            _facts(story, folder),
            _outcome(story, notebook),
            _steps(story, notebook),
            _unchecked(story),
            _changes(story),
            "" if notebook is None else f"<h2>Executed notebook</h2>\n{render_notebook(notebook)}",
            _footer(folder),
        )
        if part
    )
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_safe(title)}: {_safe(story.status)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
    path = folder / REPORT
    path.write_text(page, encoding="utf-8")
    return path


def _readable(path: Path) -> Iterator[Event]:
    """Yield what can be read: the report of a broken journal shows its whole part, the check tells the rest."""
    with suppress(OSError, JournalBroken):
        yield from read_journal(path)


def _notebook(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4) if path.is_file() else None


def _header(story: Story, title: str) -> str:
    count = len([change for change in story.changes if change.state == "planned"] if story.dry_run else story.made())
    made = f"{count} change{'' if count == 1 else 's'} {'planned' if story.dry_run else 'made'}"
    note = _RESULT_WORDS.get(story.status)
    kind = "dry" if story.dry_run and story.ok else story.status
    subtitle = " · ".join(_safe(story.started[key]) for key in ("runbook", "run") if story.started.get(key))
    return (
        f'<header><div><h1>{_safe(title)}</h1><p class="sub">{subtitle}</p></div>'
        f'<div class="result {_safe(kind)}"><b>{_safe(story.status)}</b>'
        f"<span>{f'{note} · ' if note else ''}{made}</span></div></header>"
    )


def _banners(story: Story) -> str:
    banners = []
    if str(story.started.get("engine") or "").lower().startswith("simulated"):
        banners.append(f'<div class="banner lab">{SIMULATED}</div>')
    if story.dry_run:
        banners.append('<div class="banner dry">DRY RUN - a plan only, nothing was changed</div>')
    return "\n".join(banners)


def _trouble(story: Story) -> str:
    if story.ok:
        return ""
    lines, step = [], story.failing
    if step is not None:
        word = "failed" if step.status == "failed" else "did not finish"
        lines.append(f"<p><b>{_safe(step.name)} {word}.</b> {_safe(step.error or story.text)}</p>")
    if step is None or (step.error is not None and step.error not in story.text):
        lines.append(f"<p>{_safe(story.text)}</p>")
    made = [_safe(change.what) for change in story.made()]
    lines.append(f"<p><b>Changed by this run:</b></p>{_listed(made)}" if made else "<p>Nothing was changed.</p>")
    unclear = [f"{_safe(change.what)} - {_safe(change.error or _UNCLEAR[change.state])}" for change in story.unclear()]
    if unclear:
        lines.append(f"<p><b>Begun, outcome unclear; check the target:</b></p>{_listed(unclear)}")
    return f'<div class="trouble">{"".join(lines)}</div>'


def _facts(story: Story, folder: Path) -> str:
    about = story.started
    params: dict[str, Any] = about.get("params") or {}
    rest = {name: value for name, value in params.items() if name != "namespace"}
    what = f"<code>{_safe(params['namespace'])}</code>" if params.get("namespace") else _safe(about.get("runbook", "-"))
    duration = _elapsed(str(about.get("time") or ""), story.finished or story.last)
    finished = _time(story.finished) if story.finished else f"no end; last line {_time(story.last)}"
    narrow = [
        ("What", what),
        ("Ticket", _safe(about.get("ticket") or "none")),
        ("Where", _safe(about.get("environment", "-"))),
        ("Engine", _safe(about.get("engine") or "unknown")),
        ("Target", _plainly(about.get("target"))),
        ("Who", _who(about)),
        ("Started", _time(str(about.get("time") or ""))),
        ("Finished", f"{finished} ({duration})"),
    ]
    chips = "".join(f'<span class="params mono"><i>{_safe(name)}</i> {_value(rest[name])}</span>' for name in rest)
    wide = [("Parameters", chips)] if chips else []
    plan = _plan(folder / "plan.json")
    wide += [("Plan", plan)] if plan else []
    cells = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in narrow)
    cells += "".join(f'<dt>{name}</dt><dd class="wide">{value}</dd>' for name, value in wide)
    return f'<dl class="facts">{cells}</dl>'


def _who(about: dict[str, Any]) -> str:
    """Return whose process ran it where, and who sent it there from another machine."""
    there = _safe(f"{about.get('operator', 'unknown')}@{about.get('host', 'unknown')}")
    return f"{there}, sent by {_safe(about['requested_by'])}" if about.get("requested_by") else there


def _plan(path: Path) -> str:
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return ""
    if not isinstance(plan, dict):
        return ""
    changes = plan.get("changes")
    number = f"{len(changes)} planned changes · " if isinstance(changes, list) else ""
    return f'{number}sha256 <span class="mono">{_safe(plan.get("sha256", "unknown"))}</span>'


def _outcome(story: Story, notebook: Any) -> str:
    rows = [row for row in story.outputs("before_after") if isinstance(row, dict)]
    picture = None if notebook is None else first_picture(notebook)
    table = f"<div><h2>Before and after</h2>{_before_after(rows)}</div>" if rows else ""
    figure = f"<div><h2>Course of the run</h2><figure>{picture}</figure></div>" if picture else ""
    return f'<div class="pair">{table}{figure}</div>' if table and figure else table + figure


def _before_after(rows: list[dict[str, Any]]) -> str:
    body = "".join(map(_compared, rows))
    return f"<table><thead><tr><th>What</th><th>Before</th><th>After</th></tr></thead><tbody>{body}</tbody></table>"


def _compared(row: dict[str, Any]) -> str:
    what, before, after = (row.get(key) for key in ("what", "before", "after"))
    style = "" if before == after else ' class="differs"'
    return f"<tr{style}><td>{_value(what)}</td><td>{_value(before)}</td><td>{_value(after)}</td></tr>"


def _steps(story: Story, notebook: Any) -> str:
    rest = [] if notebook is None or story.ok else steps_not_reached(notebook, story)
    records = [*story.steps, *(StepRecord(name, "", {}, "pending", "not reached") for name in rest)]
    if not records:
        return ""
    head = '<th></th><th>Step</th><th>Status</th><th>Summary</th><th class="number">Changes</th>'
    body = "".join(_step(record) for record in records)
    return (
        f'<h2>Steps</h2><table><thead><tr>{head}<th class="number">Duration</th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _step(record: StepRecord) -> str:
    mark = mark_of(record.status) if record.status in set(Status) else {"interrupted": "✗"}.get(record.status, "○")
    summary = record.summary or ("started, but no end was recorded" if record.status == "interrupted" else "")
    duration = "" if record.duration is None else _duration(record.duration)
    style = f"s-{_safe(record.status)}"
    return (
        f'<tr><td class="mark {style}">{mark}</td><td class="key"><code>{_safe(record.name)}</code></td>'
        f'<td class="key {style}">{_safe(record.status)}</td><td>{_safe(summary)}</td>'
        f'<td class="number">{len(record.changes) or ""}</td><td class="number">{duration}</td></tr>'
    )


def _unchecked(story: Story) -> str:
    sentences = list(dict.fromkeys(str(item) for item in story.outputs("not_checked")))
    if not sentences:
        return ""
    items = "".join(f"<li>{_safe(sentence)}</li>" for sentence in sentences)
    return f'<h2>What was not checked</h2><ul class="unchecked">{items}</ul>'


def _changes(story: Story) -> str:
    if not story.changes:
        return ""
    rows = "".join(
        f'<tr><td class="count">{number}</td><td class="key">{_time(change.time)}</td>'
        f"<td>{_safe(change.what)}{f'<br>{_safe(change.error)}' if change.error else ''}</td>"
        f'<td class="key"><code>{_safe(change.step)}</code></td>'
        f'<td class="s-{_safe("interrupted" if change.state == "under way" else change.state)}">'
        f"{_safe(change.state)}</td></tr>"
        for number, change in enumerate(story.changes, 1)
    )
    head = '<th class="count">No.</th><th>Time</th><th>Change</th><th>Step</th><th>State</th>'
    return f"<h2>Changes</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _footer(folder: Path) -> str:
    lines, head = journal_head(folder / "journal.jsonl")
    where = folder.resolve()
    shown = where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where
    return (
        f"<footer><p>Journal: {lines} lines, head (sha256 of the last line) <code>{head}</code></p>"
        f"<p>Check this evidence without a network: <code>invoke report.verify {_safe(shlex.quote(str(shown)))}</code>"
        "</p><p>Put the head hash into the ticket: whoever has it can tell later that the journal is still the "
        "same.</p></footer>"
    )


def _listed(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _plainly(value: object) -> str:
    if isinstance(value, dict):
        return "<br>".join(f"{_safe(name)}: {_plainly(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plainly(item) for item in value)
    return _safe("-" if value in (None, "") else value)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}".replace(",", "\N{THIN SPACE}")
    return _plainly(value)


def _safe(value: object) -> str:
    return html.escape(str(value))


def _time(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return "unknown"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _elapsed(start: str, end: str) -> str:
    try:
        return _duration((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
    except (ValueError, TypeError):
        return "duration unknown"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
