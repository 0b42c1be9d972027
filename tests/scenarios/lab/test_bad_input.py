"""Nothing is changed on bad input; each mistake gets a sentence and its exit code."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.scenarios.lab.conftest import DEADLINE, ROOT, Stage

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]


def invoke(stage: Stage, *words: str, **extra: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *words], cwd=ROOT, env=stage.environ(**extra), timeout=DEADLINE,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--dry-rnu",), 2, ["--dry-rnu", "Did you mean --dry-run"]),
        (("--chunk-size-mb", "x"), 2, ["chunk_size_mb", "whole number"]),
        (("--chunk-size-mb", "0"), 2, ["1 to 1024"]),
        (("--window", "2am-6am"), 2, ["HH:MM"]),
        (("--window", "02:00-02:00"), 2, ["02:00"]),
        (("--shard-key", "createdAt:-1"), 2, ["createdAt"]),
        (("--on", "bastion"), 2, ["--on bastion: no such host", "Nothing was changed"]),
        (("--namespace", "credibility_test_absent.analyses"), 1, ["credibility_test_absent.analyses"]),
        (("--namespace", "nodots"), 2, ["nodots"]),
    ],
)
def test_flags(stage: Stage, flags: tuple[str, ...], code: int, words: list[str]) -> None:
    before = stage.state()
    found, out = invoke(stage, "shard-migrate", "--env", str(stage.environment), "--in-process",
                        *(("--namespace", stage.namespace) if "--namespace" not in flags else ()), *flags)  # fmt: skip
    assert found == code, out
    assert all(word in out for word in words), out
    assert "Traceback" not in out
    assert stage.state() == before


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("shard-migrate",), 2, "--env NAME"),
        (("shard-migrate", "--env", "pord"), 2, "no environment 'pord'"),
        (("shard-migrat", "--env", "lab"), 2, "Did you mean shard-migrate"),
        (("--dry", "shard-migrate", "--env", "lab"), 2, "--dry-run"),
    ],
)
def test_command_line(stage: Stage, words: tuple[str, ...], code: int, expected: str) -> None:
    found, out = invoke(stage, *words)
    assert found == code, out
    assert expected in out
    assert "Traceback" not in out


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [("policy", "polcy", "line 2: polcy: unknown key. Did you mean 'policy'"),
     ("confirm: none", "confirm: maybe", "line 2: policy.confirm"),
     ("chunk_size_mb: 1", "chunk_size_md: 1", "no parameter 'chunk_size_md'")],
)  # fmt: skip
def test_environment_file(stage: Stage, old: str, new: str, expected: str) -> None:
    stage.environment.write_text(stage.environment.read_text().replace(old, new))
    code, out = invoke(stage, "shard-migrate", "--env", str(stage.environment))
    assert code == 2, out
    assert expected in out


def test_policy_refusals(stage: Stage) -> None:
    text = stage.environment.read_text().replace("confirm: none", "confirm: type-name, require_ticket: true")
    stage.environment.write_text(text)
    command = ("shard-migrate", "--env", str(stage.environment), "--namespace", stage.namespace, "--in-process")
    code, out = invoke(stage, *command)
    assert (code, "--ticket" in out) == (3, True), out
    code, out = invoke(stage, *command, "--ticket", "CHG-1")
    assert (code, "--yes" in out) == (3, True), out
    assert stage.state()["key"] == {}


def test_an_artifact_folder_that_cannot_be_written(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    command = ("shard-migrate", "--env", str(stage.environment), "--namespace", stage.namespace)
    code, out = invoke(stage, *command, CREDSCALE_ARTIFACTS=str(tmp_path / "file"))
    assert code == 3, out
    assert "cannot be written" in out
    assert stage.state()["key"] == {}


def test_an_empty_collection(stage: Stage) -> None:
    stage.collection.delete_many({})
    code, out = stage.run("--in-process")
    assert code == 1, out
    assert "empty" in out


def test_a_document_whose_shard_key_is_an_array(stage: Stage) -> None:
    identity = stage.collection.insert_one({"createdAt": [1, 2], "userId": "u"}).inserted_id
    code, out = stage.run("--in-process")
    assert code == 1, out
    assert "array" in out
    assert str(identity) in out.replace("\n", "")
    assert stage.state()["key"] == {}
