"""The host's side: what is installed once, started once, followed from anywhere, answered once."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from credscale.frontends.remote import agent

RUN = "20261123T220000Z-abcdef"
ORDER = {
    "environment": "prod", "runbook": "shard-migrate", "artifacts": f"artifacts/prod/shard-migrate/{RUN}",
    "requested_by": "ada@laptop", "flags": {"env": "prod"}, "version": "v1", "packages": "p1", "commit": "abc True",
}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the agent's folder; it leaves the working folder where the agent put it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agent, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(agent, "POLL_SECONDS", 0.01)
    return tmp_path / "base"


class Agent:
    """Calls the agent as a connection would."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._base, self._patch = base, monkeypatch

    def __call__(self, verb: str, *arguments: str, stdin: bytes = b"") -> list[Any]:
        code, out, err = self.run(verb, *arguments, stdin=stdin)
        assert code == 0, err
        return [json.loads(line) for line in out.decode().splitlines()]

    def run(self, verb: str, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        given = self._base.with_name("given")
        given.write_bytes(stdin)
        with given.open(encoding="utf-8") as standard_input:
            self._patch.setattr(sys, "stdin", standard_input)
            return self._called(verb, *arguments)

    def _called(self, verb: str, *arguments: str) -> tuple[int, bytes, str]:
        out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = agent.main([verb, str(self._base), *arguments])
        out.flush()
        printed: bytes = out.buffer.getvalue()  # type: ignore[attr-defined]
        assert printed.startswith(f"{agent.MARK}\n".encode())
        return code, printed.partition(b"\n")[2], err.getvalue()


@pytest.fixture
def call(base: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent(base, monkeypatch)


@pytest.fixture
def sent(base: Path) -> Path:
    """Return the folder of a run that was sent, with its evidence's folder."""
    folder = base / "runs" / RUN
    folder.mkdir(parents=True)
    (folder / "order.json").write_text(json.dumps(ORDER))
    (base / "work" / ORDER["artifacts"]).mkdir(parents=True)  # type: ignore[operator]
    return folder


def alive(folder: Path) -> None:
    (folder / "process.json").write_text(json.dumps({"pid": os.getpid(), "began": agent._began(os.getpid())}))


def archive(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as made:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return data.getvalue()


def test_look_tells_what_is_there(call: Agent, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "x")
    (tmp_path / "secret").touch()
    (found,) = call(
        "look", "p1", "v1", "env:THERE", "env:NOT_THERE", f"file:{tmp_path}/secret", "file:/no", "keyring:a/b"
    )
    assert found["has"] == ["env:THERE", f"file:{tmp_path}/secret"]
    assert (found["packages"], found["version"]) == (False, False)
    assert found["free"] > 0
    assert base.stat().st_mode & 0o777 == 0o700
    assert Path.cwd() == base / "work"  # where relative files of the environment are looked for


def test_a_version_is_added_once(call: Agent, base: Path) -> None:
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("credscale/__init__.py", "there = True")
    sent = archive({"credscale-1-py3-none-any.whl": wheel.getvalue(), "notebooks/a.ipynb": b"{}"})
    for _ in range(2):
        call("receive", "versions", "v1", stdin=sent)
        call("install", "versions", "v1")
    folder = base / "versions" / "v1"
    assert sorted(path.name for path in folder.iterdir()) == ["credscale", "notebooks", "ready"]
    assert (folder / "credscale" / "__init__.py").read_text() == "there = True"
    (found,) = call("look", "p1", "v1")
    assert found["version"] is True


@pytest.mark.parametrize("name", ["../outside", "/etc/outside"])
def test_an_archive_that_is_not_ours_leaves_nothing(call: Agent, base: Path, name: str) -> None:
    code, _, problem = call.run("receive", "versions", "v1", stdin=archive({name: b"x"}))
    assert code == 1
    assert name in problem
    assert not list(base.glob("versions/v1*"))


def test_an_archive_that_breaks_off_leaves_nothing(call: Agent, base: Path) -> None:
    whole = archive({"big": os.urandom(100_000)})
    code, _, problem = call.run("receive", "packages", "p1", stdin=whole[:60_000])
    assert code == 1
    assert problem
    assert not list(base.glob("packages/p1*"))


def test_packages_that_cannot_be_installed_leave_nothing(call: Agent, base: Path) -> None:
    call("receive", "packages", "p1", stdin=archive({"requirements.txt": b"no-such==1\n", "wheels/none": b""}))
    code, said, problem = call.run("install", "packages", "p1")
    assert code == 1
    assert "no-such==1" in problem
    assert b"making a virtual environment" in said
    assert b"installing 1 packages from the wheels that were sent" in said
    assert not (base / "packages" / "p1").exists()


def launch(base: Path, worker: str) -> Path:
    """Start a run whose worker is a stand-in."""
    python = base / "packages" / "p1" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    module = base / "versions" / "v1" / "credscale" / "frontends" / "remote" / "worker.py"
    module.parent.mkdir(parents=True)
    for folder in (module.parent, *list(module.parents)[1:3]):
        (folder / "__init__.py").touch()
    module.write_text(worker)
    (base / "work").mkdir(exist_ok=True)
    # in a process of its own, which ends before the worker does
    words = [sys.executable, str(agent.__file__), "launch", str(base), RUN]
    order = json.dumps(ORDER | {"secrets": {"env:A": "hidden"}}).encode()
    said = subprocess.run(words, input=order, capture_output=True, timeout=30, check=True).stdout
    assert said.decode().splitlines() == [agent.MARK, '{"done": "started"}']
    return base / "runs" / RUN


def test_a_run_is_started_once_and_its_secrets_come_on_standard_input(call: Agent, base: Path) -> None:
    folder = launch(
        base,
        "import json, os, sys, pathlib\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "who = os.environ['CREDSCALE_REQUESTED_BY']\n"
        "seen = [json.load(sys.stdin), os.getcwd(), who, os.getsid(0) == os.getpid()]\n"
        "(folder / 'seen').write_text(json.dumps(seen))\n"
        "(folder / 'stream.jsonl').write_text('{\"ended\": {\"status\": \"ok\"}}\\n')\n",
    )  # fmt: skip
    again = call("launch", RUN, stdin=json.dumps(ORDER | {"secrets": {}}).encode())
    assert again == [{"done": "it was started before"}]
    lines = call("follow", RUN, "0")
    assert lines[-1][1] == {"ended": {"status": "ok"}}
    assert json.loads((folder / "seen").read_text()) == [{"env:A": "hidden"}, str(base / "work"), "ada@laptop", True]
    kept = [path for path in base.rglob("*") if path.is_file() and path.name != "seen" and not path.is_symlink()]
    assert not [path for path in kept if b"hidden" in path.read_bytes()]
    (listed,) = call("runs")
    assert [(each["run"], each["status"], each["runbook"]) for each in listed["runs"]] == [(RUN, "ok", "shard-migrate")]


def test_a_worker_that_dies_is_told_with_its_last_words(call: Agent, base: Path) -> None:
    launch(base, "import sys\nsys.stdin.read()\nraise SystemExit('no more memory')\n")
    assert call("follow", RUN, "0")[-1] == [0, {"died": "no more memory"}]
    (listed,) = call("runs")
    assert listed["runs"][0]["status"] == "died"


def test_a_stream_is_followed_from_any_place_as_it_grows(call: Agent, sent: Path) -> None:
    alive(sent)
    stream = sent / "stream.jsonl"
    stream.write_bytes(b'{"title": "a"}\n{"event": {}}\n{"torn')

    def grow() -> None:
        time.sleep(0.2)  # long enough for signs of life
        with stream.open("ab") as file:
            file.write(b'": 1}\n{"ended": {"code": 0}}\n')

    threading.Thread(target=grow).start()
    lines = call("follow", RUN, "15")
    records = [record for _, record in lines if record]
    assert records == [{"event": {}}, {"torn": 1}, {"ended": {"code": 0}}]
    assert [15 + len('{"event": {}}\n'), {}] in lines  # a sign of life, with the place to go on from
    ends = [end for end, record in lines if record]
    assert call("follow", RUN, str(ends[0]))[0] == [ends[1], {"torn": 1}]
    assert ends[-1] == stream.stat().st_size


def test_the_first_answer_counts(call: Agent, sent: Path) -> None:
    assert call("answer", RUN, stdin=b"prod") == [{"done": "answered"}]
    assert call("answer", RUN, stdin=b"no") == [{"done": "it was answered before"}]
    assert (sent / "answer").read_text() == "prod"
    assert sorted(path.name for path in sent.iterdir()) == ["answer", "order.json"]


def test_stop_reaches_a_run_and_spares_sealed_evidence(call: Agent, sent: Path, base: Path) -> None:
    evidence = base / "work" / str(ORDER["artifacts"])
    call("stop", RUN)
    assert (evidence / "stop").exists()
    (evidence / "stop").unlink()
    (evidence / "manifest.json").touch()
    call("stop", RUN)
    assert not (evidence / "stop").exists()


def test_interrupt_signals_the_run_and_nobody_who_has_its_number_now(
    call: Agent, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *each: signalled.append(each))
    alive(sent)
    call("interrupt", RUN)
    assert signalled == [(os.getpid(), 2)]
    (sent / "process.json").write_text(json.dumps({"pid": os.getpid(), "began": "another boot 1"}))
    call("interrupt", RUN)
    assert len(signalled) == 1


def test_evidence_is_told_and_fetched(call: Agent, sent: Path, base: Path) -> None:
    folder = base / "work" / str(ORDER["artifacts"])
    (folder / "journal.jsonl").write_bytes(b"{}\n")
    (told,) = call("evidence", RUN)
    assert told["files"]["journal.jsonl"]["bytes"] == 3
    _, data, _ = call.run("fetch", RUN)
    with tarfile.open(fileobj=io.BytesIO(data)) as made:
        assert made.getnames() == ["journal.jsonl"]


def test_a_run_that_is_not_there(call: Agent, base: Path) -> None:
    assert call("follow", "nowhere", "7") == [[7, {"gone": f"there is no run nowhere in {base}"}]]
    code, _, problem = call.run("stop", "nowhere")
    assert code == agent.GONE
    assert problem == f"there is no run nowhere in {base}\n"


def test_a_run_without_a_process_is_starting_for_a_while(
    call: Agent, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (listed,) = call("runs")
    assert listed["runs"][0]["status"] == "running"
    monkeypatch.setattr(agent, "START_SECONDS", 0.0)
    (listed,) = call("runs")
    assert listed["runs"][0]["status"] == "died"
    assert call("follow", RUN, "0") == [[0, {"died": ""}]]


def test_torn_files_hide_nobody_else(call: Agent, sent: Path, base: Path) -> None:
    alive(sent)
    for name in ("20260101T000000Z-000001", "20260101T000000Z-000002"):
        (base / "runs" / name).mkdir()
    (base / "runs" / "20260101T000000Z-000001" / "order.json").write_text("")
    (base / "runs" / "20260101T000000Z-000002" / "order.json").write_text(
        '{"environment": "prod"}'
    )  # another version's
    (listed,) = call("runs")
    assert [(each["run"], each["status"]) for each in listed["runs"]] == [(RUN, "running")]
    (sent / "stream.jsonl").write_bytes(b'{"a": 1}\n{"cut o\n\0\0\0\n{"ended": {"status": "ok"}}\n')
    assert [record for _, record in call("follow", RUN, "0")] == [{"a": 1}, {"ended": {"status": "ok"}}]


def test_a_run_is_not_dead_while_its_kernel_writes(call: Agent, sent: Path, base: Path) -> None:
    """Its evidence would be taken while it grows."""
    (sent / "process.json").write_text(json.dumps({"pid": 1, "began": "another boot 1"}))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"]) as kernel:
        journal = base / "work" / str(ORDER["artifacts"]) / "journal.jsonl"
        journal.write_text(json.dumps({"event": "run_started", "pid": kernel.pid}) + "\n")
        lines = call("follow", RUN, "0")
        assert lines[-1] == [0, {"died": ""}]
        assert kernel.poll() is not None or agent._began(kernel.pid) is None


def test_a_folder_of_somebody_else_is_refused(call: Agent, base: Path) -> None:
    call("look", "p", "v")
    (base / "packages").mkdir(mode=0o777)
    (base / "packages").chmod(0o777)
    code, _, problem = call.run("look", "p", "v")
    assert code == 1
    assert f"{base}/packages belongs to another user or can be written by others" in problem


def test_what_is_sent_must_keep_coming(call: Agent, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal whose cable was cut holds nobody up: not by silence, and not by the lock."""
    monkeypatch.setattr(agent, "SENT_SECONDS", 0.05)
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as standard_input, os.fdopen(writing, "wb"):
        monkeypatch.setattr(sys, "stdin", standard_input)
        code, _, problem = call._called("receive", "versions", "v1")
    assert code == 1
    assert "nothing was sent for" in problem
    assert not list((base / "versions").glob("v1*"))
