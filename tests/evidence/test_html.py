from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from nbformat import v4

from credscale.core.journal import read_journal
from credscale.evidence.html import SIMULATED, render
from credscale.evidence.html_notebook import clean
from credscale.evidence.manifest import journal_head
from credscale.evidence.notebook import correct_statuses

if TYPE_CHECKING:
    from pathlib import Path

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
LOADING = {"script", "link", "iframe", "frame", "object", "embed", "base", "audio", "video", "source", "svg", "form"}


class _Loads(HTMLParser):
    """Collect whatever a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag] if tag in LOADING else []
        for name, value in attrs:
            data = tag == "img" and name == "src" and str(value).startswith("data:image/")
            if name.startswith("on") or (name in {"src", "srcset", "href", "background", "style"} and not data):
                self.found.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style" and re.search(r"url\(|@import", data):
            self.found.append(data)


def _loads(page: str) -> list[str]:
    parser = _Loads()
    parser.feed(page)
    return parser.found


def _report(run: Any, notebook: Any = None) -> str:
    content = notebook if notebook is not None else run.notebook()
    run.write_notebook(correct_statuses(content, read_journal(run.folder / "journal.jsonl")))
    return render(run.folder).read_text()


@pytest.mark.parametrize("ending", ["ok", "failed", "interrupted", "aborted", "killed"])
def test_opens_with_the_result_and_loads_nothing(folder: Path, new_run: Any, ending: str) -> None:
    page = _report(new_run(folder, ending))
    assert f"<b>{ending}</b>" in page
    assert _loads(page) == []
    assert "default-src 'none'" in page
    assert ('class="trouble"' in page) == (ending != "ok")


def test_first_screen_says_who_what_where_when(folder: Path, new_run: Any) -> None:
    page = _report(new_run(folder))
    for text in (
        "Shard one collection",
        "app.events",
        "mongos 127.0.0.1:27017",
        "ana@ops1",
        "CHG-1042",
        "2 changes made",
    ):
        assert text in page
    rows = "<td>sharded</td><td>no</td><td>yes</td>", "<td>documents</td><td>50\N{THIN SPACE}000</td>"
    assert all(row in page for row in rows)
    assert "Indexes on secondaries were not compared." in page
    assert journal_head(folder / "journal.jsonl")[1] in page
    assert "invoke report.verify" in page


def test_a_run_on_another_machine_says_who_sent_it(folder: Path, new_run: Any) -> None:
    assert "ana@ops1, sent by ada@&lt;laptop&gt;" in _report(new_run(folder, requested_by="ada@<laptop>"))


@pytest.mark.parametrize(("engine", "simulated"), [("simulated", True), ("mongodb 4.4.6", False)])
def test_a_simulated_engine_cannot_be_overlooked(folder: Path, new_run: Any, engine: str, simulated: bool) -> None:
    assert (SIMULATED in _report(new_run(folder, engine=engine))) == simulated


def test_a_dry_run_says_that_nothing_was_changed(folder: Path, new_run: Any) -> None:
    page = _report(new_run(folder, dry_run=True))
    assert "DRY RUN" in page
    assert "2 changes planned" in page


def test_a_killed_run_names_the_open_change(folder: Path, new_run: Any) -> None:
    page = _report(new_run(folder, "killed"))
    assert "shard app.events - its end was not seen" in page
    assert '<code>verify_counts</code></td><td class="key s-pending">pending</td><td>not reached</td>' in page


def test_the_plan_and_its_hash_are_shown(folder: Path, new_run: Any) -> None:
    run = new_run(folder)
    (folder / "plan.json").write_text(json.dumps({"changes": [1, 2], "sha256": "beef"}))
    assert "2 planned changes" in _report(run)
    (folder / "plan.json").write_text("broken")
    assert "planned changes" not in _report(run)


def test_without_notebook_or_journal_there_is_still_a_report(folder: Path, new_run: Any) -> None:
    new_run(folder)
    assert "Executed notebook" not in render(folder).read_text()
    (folder / "journal.jsonl").unlink()
    assert "<b>killed</b>" in render(folder).read_text()


def test_data_from_the_target_cannot_inject_anything(folder: Path, new_run: Any) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    run = new_run(folder, "killed", title=evil, ticket=evil, target={evil: [evil]}, params={evil: evil}, engine=evil)
    run.finish("shard_collection", summary=evil, output={"before_after": [{"what": evil}], "not_checked": [evil]})
    run.end("aborted", evil)
    notebook = run.notebook()
    hostile = {"text/html": f'{evil}<a href="javascript:x">l</a><p style="background:url(http://x)" onclick="x">p</p>'}
    notebook.cells[2].outputs = [
        v4.new_output("display_data", data=hostile),
        v4.new_output("display_data", data={"image/png": f'{PIXEL}"><script>'}),
        v4.new_output("stream", name="stderr", text=evil),
        v4.new_output("error", ename="E", evalue=evil, traceback=[f"\x1b[31m{evil}\x1b[0m"]),
    ]
    notebook.cells[0].source = f"{evil}\n\n![p](http://x/y.png) [l](javascript:alert(1)) [m](https://x/y)"
    page = _report(run, notebook)
    assert "<script" not in page
    assert _loads(page) == []
    assert "m (https://x/y)" in page
    assert "\x1b" not in page


def test_outputs_are_shown_code_is_folded_and_the_first_picture_leads(folder: Path, new_run: Any) -> None:
    run = new_run(folder)
    notebook = run.notebook()
    data = {"text/html": "<table><tr><td>1</td></tr></table>", "text/plain": "unseen", "image/png": PIXEL}
    notebook.cells[2].outputs = [v4.new_output("display_data", data=data)]
    page = _report(run, notebook)
    assert page.count(PIXEL) == 2
    assert "<td>1</td>" in page
    assert "unseen" not in page
    assert "<details><summary><code>check_cluster</code></summary><pre>check_cluster(ctx)</pre></details>" in page


def test_clean_keeps_tables_and_embedded_pictures_only() -> None:
    kept = '<table><thead><tr><th colspan="2">x</th></tr></thead></table>'
    assert clean(kept) == kept
    assert clean(f'<img src="data:image/png;base64,{PIXEL}">').startswith('<img src="data:image/png')
    assert clean('<img src="https://x/y.png">') == "<img>"
    assert clean("<style>p {color: red}</style><p>a<script>x</script></p>") == "<p>a</p>"
