"""The main job: once, again, dry, in process; with the evidence that a user would attach."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.scenarios.lab.conftest import DOCUMENTS, ROOT, Stage

pytestmark = pytest.mark.scenario
KEY = {"createdAt": "hashed", "userId": 1}


def test_once_and_again(stage: Stage) -> None:
    code, first = stage.json("--ticket", "CHG-1042")
    assert (code, first["status"]) == (0, "ok")
    assert first["changes"] > 0
    expected = {"key": KEY, "even": True, "mode": "full", "documents": DOCUMENTS}
    done = stage.state()
    assert {key: done[key] for key in expected} == expected
    assert done["chunks"] >= 4

    folder = Path(first["artifacts"])
    names = {
        "plan.json",
        "input.ipynb",
        "output.ipynb",
        "report.html",
        "journal.jsonl",
        "manifest.json",
        "manifest.sig",
    }
    assert names <= {path.name for path in folder.iterdir()}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "CHG-1042" in page
    assert "SIMULATED" in page
    cells = nbformat.read(folder / "output.ipynb", as_version=4).cells
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))

    code, second = stage.json("--ticket", "CHG-1042")
    assert (code, second["status"], second["changes"]) == (0, "ok", 0)
    assert stage.state() == done


def test_a_dry_run_changes_nothing_and_lists_the_plan(stage: Stage) -> None:
    before = stage.state()
    code, out = stage.run("--dry-run")
    assert code == 0, out
    assert "shard_collection:" in out
    assert "planned, nothing was changed" in out
    assert stage.state() == before
    code, answer = stage.json("--dry-run")
    plan = json.loads((Path(answer["artifacts"]) / "plan.json").read_text())
    assert (code, answer["changes"]) == (0, 0)
    steps = [change["step"] for change in plan["changes"]]
    order = [
        "stop_balancer",
        "set_chunk_size",
        "enable_sharding",
        "create_shard_key_index",
        "shard_collection",
        "start_balancer",
    ]
    assert [step for step in dict.fromkeys(steps) if step in order] == [step for step in order if step in steps]
    assert "shard_collection" in steps


def verified(stage: Stage, folder: Path) -> subprocess.CompletedProcess[str]:
    """Check a run's evidence as a user would."""
    command = [sys.executable, "-m", "invoke", "report.verify", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=stage.environ(), capture_output=True, text=True, check=False)


def test_in_process_leaves_the_same_evidence(stage: Stage) -> None:
    code, answer = stage.json("--in-process")
    assert (code, answer["status"]) == (0, "ok")
    assert stage.state()["even"]
    folder = Path(answer["artifacts"])
    assert (folder / "output.ipynb").exists()
    assert "SIMULATED" in (folder / "report.html").read_text(encoding="utf-8")
    shown = verified(stage, folder)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "intact" in shown.stdout
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:7], lines[7].replace(b":", b";", 1), *lines[8:]]))
    shown = verified(stage, folder)
    assert shown.returncode == 1
    assert "line 8" in shown.stdout


def test_the_balancer_stays_off_when_it_was_off(stage: Stage) -> None:
    stage.client.admin.command("balancerStop")
    code, out = stage.run("--in-process")
    assert code == 0, out
    done = stage.state()
    assert done["even"]
    assert done["mode"] == "off"
