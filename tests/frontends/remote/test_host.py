"""Finding a Python on a host and putting the agent there, on this machine as the host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import ConnectFailed, PreconditionFailed, UnknownTarget
from credscale.core.machines import Completed, LocalMachine
from credscale.core.sections import Host
from credscale.frontends.remote import agent
from credscale.frontends.remote.host import RemoteHost, is_lost

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def remote(**keys: Any) -> RemoteHost:
    return RemoteHost(LocalMachine(), Host(address="bastion", **keys))


def test_the_agent_is_put_there_once_and_again_when_it_differs(home: Path) -> None:
    for _ in range(2):
        assert remote().call("look", "p", "v")["packages"] is False
    (put,) = (home / ".credscale").glob("agent-*.py")
    assert put.read_bytes() == Path(agent.__file__).read_bytes()
    assert put.parent.stat().st_mode & 0o777 == 0o700
    put.write_text("raise SystemExit('torn')")
    assert remote().call("look", "p", "v")["version"] is False


def test_another_folder(home: Path) -> None:
    remote(folder=f"{home}/it's here; $(touch x)").call("look", "p", "v")
    assert list((home / "it's here; $(touch x)").glob("agent-*.py"))
    assert not (home / "x").exists()


def fake_python(folder: Path, name: str, version: str) -> str:
    """Make a Python that says it is too old."""
    path = folder / name
    path.write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo "Python {version}" && exit 0\nexit 1\n')
    path.chmod(0o755)
    return str(path)


def test_a_python_that_is_too_old_is_named_with_its_version(home: Path) -> None:
    named = fake_python(home, "python3.9", "3.9.2")
    with pytest.raises(PreconditionFailed) as caught:
        remote(python=named).call("look", "p", "v")
    text = str(caught.value)
    assert f"{named} is Python 3.9.2" in text
    assert "has no Python 3.11 or newer" in text
    assert ".python" in text
    assert not (home / ".credscale").exists()


def test_no_python_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = home / "bin"
    programs.mkdir()
    for name in ("sh", "dirname", "cat", "mktemp"):
        (programs / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(PreconditionFailed, match="has no Python 3.11 or newer: no python3"):
        remote().call("look", "p", "v")


def test_what_the_agent_says_of_a_failure(home: Path) -> None:
    with pytest.raises(UnknownTarget, match="there is no run nowhere"):
        remote().call("stop", "nowhere")


def test_a_stream_is_cut_into_lines(home: Path) -> None:
    host = remote()
    folder = home / ".credscale" / "runs" / "run"
    host.call("look", "p", "v")
    folder.mkdir(parents=True)
    (folder / "order.json").write_text("{}")
    big = "x" * 200_000
    (folder / "stream.jsonl").write_text(f'{{"said": "{big}"}}\n{{"ended": {{}}}}\n')
    records = [record for _, record in host.stream("follow", "run", "0")]
    assert records == [{"said": big}, {"ended": {}}]


@pytest.mark.parametrize(
    ("why", "lost"),
    [
        ("broken", True),
        ("timed out", True),
        ("unreachable", True),
        ("refused", True),
        ("auth", False),
        ("host key", False),
    ],
)
def test_which_failures_may_pass(why: Any, lost: bool) -> None:
    assert is_lost(ConnectFailed("x", why=why)) is lost


def test_what_a_shell_prints_at_login_is_left_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Chatty(LocalMachine):
        def run(self, *words: Any, **more: Any) -> Completed:
            done = super().run(*words, **more)
            return Completed(done.code, b"Welcome to bastion!\n" + done.stdout, done.stderr)

        def stream(self, *words: Any, **more: Any) -> Iterator[bytes]:
            yield b"Welcome to bas"
            yield b"tion!\n"
            yield from super().stream(*words, **more)

    host = RemoteHost(Chatty(), Host(address="bastion"))
    monkeypatch.setattr(Chatty, "read", lambda *_: Path(agent.__file__).read_bytes())
    path = remote().call("look", "p", "v") and next((home / ".credscale").glob("agent-*.py"))
    assert path
    assert host.call("look", "p", "v")["packages"] is False
    assert list(host.stream("follow", "nowhere", "0")) == [
        [0, {"gone": f"there is no run nowhere in {home}/.credscale"}]
    ]


def test_a_host_without_runs_is_left_as_it_is(home: Path) -> None:
    assert not remote().has_runs()
    assert not (home / ".credscale").exists()
    (home / ".credscale" / "runs").mkdir(parents=True)
    assert remote().has_runs()
