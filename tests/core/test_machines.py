"""This machine, as every machine: files are replaced at once and no value is ever read as shell text."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.machines import Completed, LocalMachine, Machine
from credscale.core.machines.files import File, changes_on, write_changed
from credscale.core.machines.known_hosts import fingerprint, scan_type
from credscale.core.machines.ssh import command_line
from credscale.core.secrets import Secrets
from credscale.testing import require, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = LocalMachine()
EVIL = "a b;touch $(x) 'y' \"z\" \\ *"


def test_what_is_written_is_read_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    path = str(tmp_path / EVIL)
    assert HERE.read(path) is None
    for data, mode in ((b"\x00\xff\nbytes", 0o400), (b"", 0o644), (b"x" * 300_000, 0o600)):
        HERE.write(path, data, mode=mode)
        assert HERE.read(path) == data
        assert HERE.mode(path) == mode
        assert HERE.read_with_mode(path) == (data, mode)
    assert [each.name for each in tmp_path.iterdir()] == [EVIL], "no temporary file is left"


def test_a_write_that_fails_leaves_the_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(PreconditionFailed, match="cannot be written"):
        HERE.write(str(path), b"new", mode=0o600, owner="no-such-user-here")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("arrives", [0, 5])
def test_data_that_did_not_all_arrive_replaces_nothing(tmp_path: Path, arrives: int) -> None:
    """When the connection or the runner ends, the data seem to end as well."""

    class Cut(LocalMachine):
        def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 10.0) -> Completed:
            return super().run(argv, stdin=stdin[:arrives], timeout=timeout)

    path = tmp_path / "redis.conf"
    path.write_text("old")
    with pytest.raises(PreconditionFailed, match="cannot be written: not all of its 8 bytes arrived"):
        Cut().write(str(path), b"new data", mode=0o600)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_owner_is_a_change_and_an_empty_folder_is_given_away(tmp_path: Path) -> None:
    file = File(str(tmp_path / "f"), b"data", 0o600, owner="nobody")
    HERE.write(file.path, file.data, mode=file.mode)
    assert changes_on(HERE, [file]) == {file.path: ["owner root -> nobody"]}
    write_changed(HERE, [file])
    assert changes_on(HERE, [file]) == {}
    assert changes_on(HERE, [replace(file, owner=HERE.owner(file.path, numbers=True))]) == {}
    assert changes_on(HERE, [replace(file, owner="0:0")])[file.path][0].endswith(" -> 0:0")
    folder = tmp_path / "folder"
    folder.mkdir()
    HERE.make_folder(str(folder), mode=0o700, owner="nobody")
    assert HERE.owner(str(folder)) == "nobody"
    (folder / "data").touch()
    HERE.make_folder(str(folder), mode=0o700, owner="root")
    assert HERE.owner(str(folder)) == "nobody", "a folder that holds something stays as it is"


class Nobody(LocalMachine):
    """This machine for a user who is not the owner of anything."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 10.0) -> Completed:
        drop = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        return super().run([*drop, *argv], stdin=stdin, timeout=timeout)


def test_what_we_may_not_look_at_is_not_taken_for_absent() -> None:
    if os.geteuid() == 0:
        require("setpriv")
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies in a folder that is closed to others itself
        Path(folder).chmod(0o755)
        closed = Path(folder, "closed")
        config = closed / "27018" / "mongod.conf"
        config.parent.mkdir(parents=True)
        config.write_text("x")
        closed.chmod(0)
        for look in (Nobody().exists, Nobody().read, Nobody().read_with_mode):
            with pytest.raises(PreconditionFailed, match="may not look into the folder"):
                look(str(config))
        closed.chmod(0o755)
        assert Nobody().exists(str(config))
        assert not Nobody().exists(str(closed / "27019" / "mongod.conf"))


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    HERE.make_folder(str(folder), mode=0o700)
    assert HERE.mode(str(folder)) == 0o700
    folder.chmod(0o750)
    (folder / "data").touch()
    HERE.make_folder(str(folder), mode=0o700)
    assert HERE.mode(str(folder)) == 0o750
    assert HERE.exists(str(folder / "data"))


def test_programs() -> None:
    assert HERE.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in").code == 3
    assert HERE.run(["printf", "%s", EVIL]).text == EVIL
    assert HERE.find_program("sh") is not None
    assert HERE.find_program("no-such-program") is None
    with pytest.raises(PreconditionFailed, match="cannot be run"):
        HERE.run(["/no/such/program"])
    with pytest.raises(PreconditionFailed, match="exit code 3: bad"):
        HERE.must_run(["sh", "-c", "echo bad >&2; exit 3"])


def test_a_program_that_does_not_end_is_not_waited_for() -> None:
    with pytest.raises(ConnectFailed, match="did not end within 0.1 s") as caught:
        HERE.run(["sleep", "60"], timeout=0.1)
    assert caught.value.why == "timed out"


def test_what_a_program_started_ends_with_it_when_its_time_is_up(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(ConnectFailed, match="did not end within 0.5 s and was killed"):
        HERE.run(["sh", "-c", 'sleep 60 & echo $! >"$1"; wait', "sh", str(pid)], timeout=0.5)
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    wait_for(lambda: not stat.exists() or stat.read_text().split()[2] == "Z")


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from("'\\\"$ ;")))
)
def test_a_login_shell_reads_every_word_as_it_is(words: list[str]) -> None:
    line = command_line(["printf", "%s\\0", *words])
    told = subprocess.run(["sh", "-c", line], capture_output=True, check=True, timeout=30).stdout
    assert told == "".join(f"{word}\0" for word in words or [""]).encode()
    in_fish = r"""(?:'[^'\\]*'|"'"|\\\\| )*"""  # no backslash inside quotes, nothing else outside
    assert re.fullmatch(in_fish, line)


def test_input_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"0123456789" * 100_000)
    with path.open("rb") as data:
        data.seek(10)
        assert HERE.run(["cat"], stdin=data).stdout == b"0123456789" * 99_999


def test_a_stream_comes_as_it_is_printed_and_tells_how_it_ended(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = 'echo one; while [ ! -e "$1" ]; do sleep 0.02; done; cat'
    chunks = HERE.stream(["sh", "-c", script, "sh", str(go)], stdin=b"two", silence=20)
    assert next(chunks) == b"one\n"
    go.touch()
    assert list(chunks) == [b"two"]
    assert b"".join(HERE.stream(["sh", "-c", "sleep 30 & echo kept"], silence=20)) == b"kept\n"
    with pytest.raises(PreconditionFailed, match="sh ended with exit code 3: no"):
        list(HERE.stream(["sh", "-c", "echo no >&2; exit 3"], silence=20))
    with pytest.raises(PreconditionFailed, match="cannot be run"):
        list(HERE.stream(["/no/such/program"], silence=20))


def test_a_silent_stream_ends_with_its_program() -> None:
    chunks = HERE.stream(["sh", "-c", "echo $$; sleep 60"], silence=0.2)
    pid = int(next(chunks))
    with pytest.raises(ConnectFailed, match="printed nothing for 0.2 s") as caught:
        next(chunks)
    assert caught.value.why == "timed out"
    assert not Path(f"/proc/{pid}").exists()


def test_a_stream_that_nobody_reads_further_ends_its_program() -> None:
    chunks = HERE.stream(["sh", "-c", "echo $$; sleep 60"], silence=20)
    pid = int(next(chunks))
    chunks.close()  # type: ignore[attr-defined]
    assert not Path(f"/proc/{pid}").exists()


def test_a_machine_that_cannot_stream_gives_everything_at_the_end() -> None:
    assert list(Machine.stream(HERE, ["echo", "all"], silence=10)) == [b"all\n"]


def test_a_failed_connection_says_why_and_without_a_reason_it_is_unreachable() -> None:
    assert ConnectFailed("no").why == "unreachable"
    assert ConnectFailed("no", "host key").why == "host key"


def test_a_child_that_keeps_the_streams_is_not_waited_for() -> None:
    assert HERE.run(["sh", "-c", "sleep 30 & echo $!"], timeout=5.0).text.strip().isdigit()


class Key:
    def asbytes(self) -> bytes:
        return base64.b64decode("AAAAC3NzaC1lZDI1NTE5AAAAIH6AexjLolU31hL0uhF3aw9PCR0jJWLYlnIuoew4DQV1")


def test_a_fingerprint_reads_as_openssh_prints_it() -> None:
    assert fingerprint(Key()) == "SHA256:yQ4351dUeeMLaxGwn1leSYzRy5hZOUV1WJ6ifXSt2qE"


def test_types_of_keys_are_called_as_ssh_keyscan_calls_them() -> None:
    names = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "ssh-rsa")
    assert [scan_type(name) for name in names] == ["ed25519", "ecdsa", "rsa", "rsa"]


def test_a_program_does_not_inherit_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_PASSWORD", "correct-horse")
    monkeypatch.setenv("DEPLOY_URI", "mongodb://ops:correct-horse@db1/")
    monkeypatch.setenv("HARMLESS", "kept")
    secrets = Secrets()
    secrets.resolve("env:DEPLOY_PASSWORD")
    told = LocalMachine(secrets.mask).must_run(["env"]).text
    assert "HARMLESS=kept" in told
    assert "PATH=" in told
    assert "correct-horse" not in told
