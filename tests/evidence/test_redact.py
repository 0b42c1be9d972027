from __future__ import annotations

import json
from typing import TYPE_CHECKING

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbformat import v4

from credscale.core.secrets import MASK, Secrets
from credscale.evidence.redact import find_secrets, redact_folder

if TYPE_CHECKING:
    from pathlib import Path

SECRET = 'p"w\\d<&>ä\nx'


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    monkeypatch.setenv("EVIDENCE_SECRET", SECRET)
    found = Secrets()
    found.resolve("env:EVIDENCE_SECRET")
    return found


def test_hides_a_secret_however_the_file_spells_it(tmp_path: Path, secrets: Secrets) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"a": [f"x{SECRET}y"], SECRET: 1}))
    (tmp_path / "more.jsonl").write_text(json.dumps({"a": SECRET}) + "\n" + json.dumps({"b": 1}) + "\n")
    (tmp_path / "log.txt").write_text(f"connect {SECRET}\n")
    (tmp_path / "page.html").write_text("<p>p&quot;w\\d&lt;&amp;&gt;ä\nx</p>")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "broken.json").write_text("{" + SECRET)
    assert len(find_secrets(tmp_path, [SECRET])) == 5
    assert len(redact_folder(tmp_path, secrets.mask)) == 5
    assert find_secrets(tmp_path, [SECRET]) == []
    assert json.loads((tmp_path / "plan.json").read_text()) == {"a": [f"x{MASK}y"], MASK: 1}
    assert (tmp_path / "page.html").read_text() == f"<p>{MASK}</p>"


def test_hides_a_secret_of_several_lines_in_a_notebook_and_keeps_pictures(tmp_path: Path) -> None:
    secret = "-----BEGIN\nabcd\nEND-----"
    picture = "abcdefgh"
    output = v4.new_output("display_data", data={"image/png": picture, "text/plain": f"key {secret}"})
    cell = v4.new_code_cell(f"password = '''{secret}'''", outputs=[output])
    path = tmp_path / "output.ipynb"
    nbformat.write(v4.new_notebook(cells=[cell], metadata={"papermill": {"parameters": {"p": secret}}}), path)
    redact_folder(tmp_path, lambda text: text.replace(secret, MASK).replace("abcd", MASK))
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source == f"password = '''{MASK}'''"
    assert notebook.cells[0].outputs[0].data == {"image/png": picture, "text/plain": f"key {MASK}"}
    assert notebook.metadata.papermill.parameters.p == MASK


def test_leaves_journal_binaries_and_clean_files_alone(tmp_path: Path, secrets: Secrets) -> None:
    contents = {
        "journal.jsonl": json.dumps({"a": SECRET}).encode() + b"\n",
        "dump.bson": b"\0\1" + SECRET.encode(),
        "latin.txt": "ä".encode("latin-1"),
        "plan.json": b'{"a":  1}',
        "clean.ipynb": b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert redact_folder(tmp_path, secrets.mask) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents
    assert [path.name for path in find_secrets(tmp_path, [SECRET])] == ["dump.bson", "journal.jsonl"]


def test_a_password_in_an_address_does_not_swallow_the_markup_after_it(tmp_path: Path) -> None:
    page = "<td>mongodb://127.0.0.1:27017</td><td>ana@ops1</td>"
    (tmp_path / "report.html").write_text(page)
    assert redact_folder(tmp_path, Secrets().mask) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(secret=st.text(min_size=6, max_size=20), around=st.text(max_size=10))
def test_no_value_survives_in_json(tmp_path: Path, secret: str, around: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"deep": [{"value": around + secret + around}]}))
    redact_folder(tmp_path, lambda text: text.replace(secret, MASK))
    assert secret not in json.loads(path.read_text())["deep"][0]["value"].replace(MASK, "")
