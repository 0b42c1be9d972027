"""Hosts behind a real sshd: who they are is verified, every fault has its name, and no deadline is missed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.clients import Clients
from credscale.core.environment import Environment
from credscale.core.errors import ConnectFailed, EnvironmentInvalid, PreconditionFailed
from credscale.core.machines import SshMachine
from credscale.core.machines.host_keys import accept_host_key, offered_key
from credscale.core.secrets import Secrets
from credscale.core.sections import Host
from credscale.testing import require, wait_for
from tests.scenarios.sshd import Sshd, make_key, require_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from credscale.core.errors import Why

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]
EVIL = "a b;touch $(x) 'y' \"z\" \\ * \n`id` ü€ --"
PASSWORD = "correct horse 'battery' $(staple)"
MARGIN = 2.0  # seconds a call may take longer than its deadline


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Yield an sshd whose key is known, for tests that leave it as it is."""
    require("ssh")
    made = Sshd(tmp_path_factory.mktemp("hosts") / "sshd")
    made.accept()
    try:
        yield made
    finally:
        made.kill_sessions()
        made.end()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """Yield an sshd of its own, whose key nobody has accepted yet."""
    require("ssh")
    made = Sshd(tmp_path / "sshd")
    try:
        yield made
    finally:
        made.kill_sessions()
        made.end()


@contextlib.contextmanager
def reached(sshd: Sshd, name: str = "box", **extra: Any) -> Iterator[SshMachine]:
    """Give the machine that an sshd serves."""
    machine = SshMachine(name, Host(**(sshd.host | extra)), environment="site")
    try:
        yield machine
    finally:
        machine.close()


@contextlib.contextmanager
def fails(why: Why, match: str, *, within: float) -> Iterator[pytest.ExceptionInfo[ConnectFailed]]:
    """Expect a call to end with a fault of this name, not much later than its deadline."""
    started = time.monotonic()
    with pytest.raises(ConnectFailed, match=match) as caught:
        yield caught
    assert time.monotonic() - started < within + MARGIN
    assert caught.value.why == why


@contextlib.contextmanager
def later(action: Callable[[], object], when: Callable[[], object]) -> Iterator[None]:
    """Do something from another thread as soon as something is the case."""
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            wait_for(when)
            action()
        except BaseException as error:  # raised again below
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)
        if errors:
            raise errors[0]


# -- host keys


def test_an_unknown_key_is_refused_until_the_one_read_on_the_console_is_accepted(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "home" / ".ssh" / "known_hosts"
    with reached(sshd, known_hosts=str(known)) as machine:
        with fails("host key", "so nothing was sent", within=10) as caught:
            machine.run(["true"])
        command = re.search(r"accept it with: (.+)$", str(caught.value))
        assert command is not None
        wanted = f"invoke hosts.accept-host-key --env site --host box --fingerprint {sshd.fingerprint()}"
        assert shlex.split(command[1]) == wanted.split()
        host = Host(**(sshd.host | {"known_hosts": str(known)}))
        assert offered_key("box", host) == ("ssh-ed25519", sshd.fingerprint(), False)
        with pytest.raises(PreconditionFailed, match="shows another key than the one to accept"):
            accept_host_key("box", host, "SHA256:" + "A" * 43)
        with pytest.raises(EnvironmentInvalid, match="is not a fingerprint"):
            accept_host_key("box", host, "yes")
        assert not known.exists()
        assert accept_host_key("box", host, sshd.fingerprint()) == str(known)
        assert (known.stat().st_mode & 0o777, known.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert accept_host_key("box", host, sshd.fingerprint()) == str(known), "once is enough"
        assert known.read_text() == f"{sshd.name} {sshd.public}\n"
        assert offered_key("box", host)[2]
        assert machine.run(["echo", "in"]).text == "in\n"
        found = subprocess.run(
            ["ssh-keygen", "-F", sshd.name, "-f", known], capture_output=True, check=True, timeout=30
        )
        assert sshd.public.encode() in found.stdout, "OpenSSH reads the line as well"


def test_a_changed_key_is_refused_and_not_accepted_over_the_old_one(sshd: Sshd) -> None:
    sshd.accept()
    old = sshd.fingerprint()
    with reached(sshd) as machine:
        assert machine.run(["true"]).code == 0
        machine.close()
        sshd.new_host_key()
        with fails("host key", "is not the one known", within=10) as caught:
            machine.run(["true"])
        assert old in str(caught.value)
        assert sshd.fingerprint() in str(caught.value)
        with pytest.raises(PreconditionFailed, match="by another key"):
            accept_host_key("box", Host(**sshd.host), sshd.fingerprint())
        command = re.search(r"remove the old key with: (.+)$", str(caught.value))
        assert command is not None
        subprocess.run(shlex.split(command[1]), check=True, timeout=30, capture_output=True)
        accept_host_key("box", Host(**sshd.host), sshd.fingerprint())
        assert machine.run(["true"]).code == 0


def test_a_revoked_key_is_refused_wherever_else_it_stands(sshd: Sshd) -> None:
    sshd.known_hosts.write_text(f"{sshd.name} {sshd.public}\n@revoked * {sshd.public}\n")
    with reached(sshd) as machine, fails("host key", "is revoked in .*known_hosts", within=10):
        machine.run(["true"])
    with pytest.raises(PreconditionFailed, match="is revoked"):
        accept_host_key("box", Host(**sshd.host), sshd.fingerprint())
    assert not offered_key("box", Host(**sshd.host))[2]


def test_hashed_names_and_other_types_of_keys_do_not_get_in_the_way(sshd: Sshd, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(tmp_path / "other")], check=True, timeout=30)
    sshd.settings = (f"HostKey {tmp_path}/other",)
    sshd.end()
    sshd.start()
    ecdsa = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    sshd.known_hosts.write_text(f"{sshd.name} {ecdsa}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(sshd.known_hosts)], check=True, timeout=30, capture_output=True)
    assert sshd.known_hosts.read_text().startswith("|1|")
    with reached(sshd) as machine:
        assert machine.run(["true"]).code == 0, "it is asked for the type of key that is known"


def test_a_certificate_authority_is_said_to_be_of_no_use(sshd: Sshd) -> None:
    sshd.known_hosts.write_text(f"@cert-authority * {sshd.public}\n")
    with reached(sshd) as machine, fails("host key", "signed host keys are not supported", within=10):
        machine.run(["true"])


# -- ways that fail


def test_a_closed_port_is_refused(sshd: Sshd) -> None:
    sshd.accept()
    sshd.end()
    with reached(sshd) as machine, fails("refused", "cannot be reached over SSH: Connection refused", within=1):
        machine.run(["true"])
    sshd.start()


def test_a_name_that_nobody_knows_is_unreachable(shared: Sshd) -> None:
    lost = {"address": "no-such-host.invalid", "connect_timeout": 5}
    with reached(shared, **lost) as machine, fails("unreachable", "no-such-host.invalid", within=5):
        machine.run(["true"])


@pytest.mark.parametrize("greets", [False, True])
def test_a_server_that_says_nothing_more_is_not_waited_for(shared: Sshd, greets: bool) -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        held = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                held.append(server.accept()[0])
                if greets:
                    held[0].sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")

        thread = threading.Thread(target=accept)
        thread.start()
        with reached(shared, port=server.getsockname()[1], connect_timeout=0.7) as machine:
            stage = "let us in" if greets else "greeted"
            with fails("timed out", f"it has not {stage}.* within 0.7 s", within=0.7):
                machine.run(["true"])
        thread.join(5)
        for each in held:
            each.close()


def test_an_address_from_which_nothing_comes_times_out(shared: Sshd) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.2", 0))
        server.listen(0)  # a full queue drops what comes, as a firewall does
        address = server.getsockname()
        with (
            socket.create_connection(address),
            reached(shared, port=address[1], connect_timeout=0.7) as machine,
            fails("timed out", "it has not answered within 0.7 s", within=0.7),
        ):
            machine.run(["true"])


def test_a_jump_host_is_named_when_it_is_the_one_that_fails(sshd: Sshd, tmp_path: Path) -> None:
    sshd.accept()
    behind = Host(**sshd.host)
    for way, why, match in (
        ({"known_hosts": str(tmp_path / "none")}, "host key", r"host key of bastion .* is not in"),
        ({"port": 1}, "refused", r"bastion \(127.0.0.2:1\) cannot be reached"),
        ({"key": str(make_key(tmp_path / "stranger"))}, "auth", r"bastion .* refused the login"),
    ):
        machine = SshMachine("box", behind, SshMachine("bastion", Host(**(sshd.host | way))))
        with fails(why, match, within=10):  # type: ignore[arg-type]
            machine.run(["true"])
    assert offered_key("box", behind, ("bastion", behind)) == ("ssh-ed25519", sshd.fingerprint(), True)
    unknown = Host(**(sshd.host | {"known_hosts": str(tmp_path / "none")}))
    with fails("host key", r"invoke hosts\.accept-host-key --env site --host bastion ", within=10):
        offered_key("box", behind, ("bastion", unknown), environment="site")
    closed = SshMachine("box", Host(**(sshd.host | {"port": 1})), jump := SshMachine("bastion", behind))
    with fails("unreachable", r"box .* through bastion\) .*: the jump host bastion cannot connect to it", within=10):
        closed.run(["true"])
    jump.close()
    wait_for(lambda: not sshd.sessions())


def test_machines_behind_a_jump_host_share_one_connection_to_it(sshd: Sshd) -> None:
    """Its sshd would turn some away: of more than ten that log in at a time, by default."""
    sshd.accept()
    host = Host(**sshd.host)
    hosts = {"bastion": host} | {f"box{number}": host.model_copy(update={"jump": "bastion"}) for number in range(3)}
    clients = Clients(Environment(name="site", hosts=hosts), Secrets())
    for name in hosts:
        assert clients.machine(name).run(["cat"], stdin=b"through").text == "through"
    assert len(sshd.sessions()) == 2 + 3, "to the bastion itself, to it as a jump host, and to three boxes"
    sshd.kill_sessions()
    for name in hosts:
        assert clients.machine(name).run(["echo", "again"]).text == "again\n"
    clients.close()
    wait_for(lambda: not sshd.sessions())


def test_a_frozen_jump_host_holds_no_call_longer_than_its_deadline(sshd: Sshd) -> None:
    sshd.accept()
    jump = SshMachine("bastion", Host(**sshd.host))
    machine = SshMachine("box", Host(**sshd.host), jump)
    jump.run(["true"])
    (first,) = sshd.sessions()
    machine.run(["true"])
    os.kill(first, signal.SIGSTOP)
    with Path("/dev/zero").open("rb") as endless, fails("timed out", "did not end within 0.4 s", within=0.4):
        machine.run(["cat"], stdin=endless, timeout=0.4)
    sshd.kill_sessions()
    assert machine.run(["echo", "again"]).text == "again\n"
    machine.close()
    jump.close()


# -- connections that end


def test_a_connection_that_is_killed_is_broken_and_the_next_call_connects_again(sshd: Sshd, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    sshd.accept()
    with reached(sshd) as machine, socket.create_server(("127.0.0.1", 0)) as server:
        machine.run(["true"])
        way = machine.tunnel(server.getsockname()[1])
        with later(sshd.kill_sessions, runs.exists), fails("broken", "the connection broke while sh ran", within=5):
            machine.run(["sh", "-c", 'touch "$1"; sleep 8', "sh", str(runs)], timeout=20)
        assert machine.run(["echo", "again"]).text == "again\n"
        sshd.kill_sessions()
        assert machine.run(["echo", "idle"]).text == "idle\n", "nothing ran on the connection, so nothing is in doubt"
        chunks = machine.stream(["sh", "-c", "while echo alive; do sleep 0.1; done"], silence=1)
        started = time.monotonic()
        while time.monotonic() - started < 1.2:  # longer than the silence that is allowed
            assert next(chunks) == b"alive\n"
        sshd.kill_sessions()
        with fails("broken", "the connection broke while sh ran", within=1):
            list(chunks)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(way)
            server.settimeout(10)
            server.accept()[0].close()  # a tunnel leads through the new connection


def test_a_frozen_host_holds_no_call_longer_than_its_deadline(sshd: Sshd) -> None:
    sshd.accept()

    def freeze() -> None:
        for pid in sshd.sessions():
            os.kill(pid, signal.SIGSTOP)

    with reached(sshd) as machine:
        machine.run(["true"])
        freeze()
        with fails("timed out", "did not end within 0.4 s", within=0.4):
            machine.run(["true"], timeout=0.4)
        sshd.kill_sessions()
        machine.run(["true"])
        freeze()
        with Path("/dev/zero").open("rb") as endless, fails("timed out", "did not end within 0.4 s", within=0.4):
            machine.run(["cat"], stdin=endless, timeout=0.4)  # what is sent has nowhere to go
        sshd.kill_sessions()
        chunks = machine.stream(["sh", "-c", "echo first; sleep 8"], silence=1)
        assert next(chunks) == b"first\n"
        freeze()
        with fails("timed out", "printed nothing for 1 s", within=1):
            next(chunks)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop packets")
def test_dropped_packets_hold_no_call_longer_than_its_deadline(sshd: Sshd) -> None:
    nft = require_beside("nft")
    sshd.accept()
    table = f"credscale_hosts_{sshd.port}"
    rules = f"""table ip {table} {{
        chain out {{
            type filter hook output priority 0
            ip daddr {sshd.address} tcp dport {sshd.port} drop
            ip saddr {sshd.address} tcp sport {sshd.port} drop
        }}
    }}"""
    with reached(sshd, connect_timeout=1) as machine:
        machine.run(["true"])
        made = subprocess.run([nft, "-f", "-"], input=rules, capture_output=True, text=True, check=False, timeout=30)
        if "not permitted" in made.stderr:
            pytest.skip(f"nft may not change anything here: {made.stderr.strip()}")
        assert made.returncode == 0, made.stderr
        try:
            with fails("timed out", "did not end within 0.4 s", within=0.4):
                machine.run(["true"], timeout=0.4)
            with fails("timed out", "it has not answered within 1 s", within=1):
                machine.run(["true"])
        finally:
            subprocess.run([nft, "delete", "table", "ip", table], check=True, timeout=30)
        assert machine.run(["echo", "back"]).text == "back\n"


# -- programs, files and streams


def test_hostile_values_arrive_as_they_are(shared: Sshd, tmp_path: Path) -> None:
    path = str(tmp_path / EVIL)
    with reached(shared) as machine:
        assert machine.run(["printf", "%s|", EVIL, "", "-n"]).text == f"{EVIL}||-n|"
        data = EVIL.encode() * 1000 + b"\x00\xff\r\n"
        machine.write(path, data, mode=0o640)
        assert machine.read_with_mode(path) == (data, 0o640)
        assert b"".join(machine.stream(["printf", "%s", EVIL], silence=10)) == EVIL.encode()
    assert [each.name for each in tmp_path.iterdir()] == [EVIL]


def test_a_hundred_megabytes_go_through_while_the_program_answers(shared: Sshd, tmp_path: Path) -> None:
    big = tmp_path / "big"
    block = os.urandom(1 << 20)
    big.write_bytes(block * 100)
    digest = hashlib.sha256(block * 100).hexdigest()
    with reached(shared) as machine:
        with big.open("rb") as data:
            assert machine.run(["sha256sum"], stdin=data, timeout=60).text.split()[0] == digest
        with big.open("rb") as data:
            data.seek(90 << 20)
            assert machine.run(["tee", "/dev/stderr"], stdin=data, timeout=60).stderr == block * 10
        with big.open("rb") as data:
            assert machine.run(["head", "-c", "3"], stdin=data, timeout=60).stdout == block[:3], "it need not read it"


def test_a_stream_comes_as_it_is_printed_and_tells_how_it_ended(shared: Sshd, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with reached(shared) as machine:
        script = 'echo one; while [ ! -e "$1" ]; do sleep 0.02; done; cat'
        chunks = machine.stream(["sh", "-c", script, "sh", str(go)], stdin=b"two", silence=20)
        assert next(chunks) == b"one\n"
        go.touch()
        assert list(chunks) == [b"two"]
        with pytest.raises(PreconditionFailed, match="sh ended with exit code 3: no"):
            list(machine.stream(["sh", "-c", "echo no >&2; exit 3"], silence=20))
        with pytest.raises(PreconditionFailed, match="cannot be run"):
            list(machine.stream(["/no/such/program"], silence=20))
        endless = machine.stream(["sh", "-c", "echo $$; while sleep 0.05; do echo x; done"], silence=20)
        pid = int(next(endless).split()[0])
        endless.close()  # type: ignore[attr-defined]
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        assert machine.run(["sh", "-c", "kill -9 $$"]).code < 0


# -- keys


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], None]]:
    """Yield a way to add a key to an agent of this test's own."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/agent"
        process = subprocess.Popen([require_beside("ssh-agent"), "-D", "-a", path], stdout=subprocess.DEVNULL)
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        asker = Path(folder, "ask")
        asker.write_text('#!/bin/sh\nprintf "%s\\n" "$PASSPHRASE"\n')
        asker.chmod(0o700)

        def add(key: Path, passphrase: str) -> None:
            extra = {"SSH_ASKPASS": str(asker), "SSH_ASKPASS_REQUIRE": "force", "PASSPHRASE": passphrase}
            command = ["ssh-add", "-q", str(key)]
            subprocess.run(command, env=os.environ | extra, check=True, timeout=30, capture_output=True)

        try:
            wait_for(lambda: Path(path).exists())
            yield add
        finally:
            process.terminate()
            process.wait(timeout=10)


def test_keys_come_from_the_agent_or_the_file_that_is_named(
    shared: Sshd, agent: Callable[[Path, str], None], tmp_path: Path
) -> None:
    locked = make_key(tmp_path / "locked", passphrase="open sesame")
    authorized = shared.folder / "authorized"
    before = authorized.read_text()
    authorized.write_text(before + (tmp_path / "locked.pub").read_text())
    try:
        with reached(shared, key=None) as machine, fails("auth", "refused the login", within=10):
            machine.run(["true"])
        with reached(shared, key=str(locked)) as machine:
            with fails("auth", "is encrypted, and no agent holds it", within=10) as caught:
                machine.run(["true"])
            assert str(caught.value).endswith(f"Add it with: ssh-add {locked}")
            agent(locked, "open sesame")
            assert machine.run(["true"]).code == 0, "the agent's copy of that key"
        with reached(shared, key=None) as machine:
            assert machine.run(["true"]).code == 0, "whatever the agent has"
        stranger = make_key(tmp_path / "stranger")
        with reached(shared, key=str(stranger)) as machine, fails("auth", "refused the login", within=10):
            machine.run(["true"])  # the agent's key would open, but another one was named
        match = r"absent cannot be used: No such file.*hosts\.box\.key"
        with reached(shared, key=str(tmp_path / "absent")) as machine, fails("auth", match, within=10):
            machine.run(["true"])
    finally:
        authorized.write_text(before)


# -- sudo


@pytest.fixture(scope="module")
def people() -> Iterator[tuple[Sshd, dict[str, str]]]:
    """Yield an sshd and throw-away users: one whom sudo asks for a password, one whom it does not, one it refuses."""
    require("ssh")
    require_beside("sudo")
    if os.geteuid() != 0:
        pytest.skip("only root makes users")
    names = {role: f"cs{os.getpid()}{role}" for role in ("asked", "free", "nobody")}
    rules = Path(f"/etc/sudoers.d/credscale-test-{os.getpid()}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # sshd reads the keys of a user as that user
        made = Sshd(Path(folder, "sshd"))
        made.accept()
        (made.folder / "authorized").chmod(0o644)
        try:
            for name in names.values():
                subprocess.run(["useradd", "-M", "-d", "/", "-s", "/bin/sh", name], check=True, timeout=30)
                subprocess.run(["chpasswd"], input=f"{name}:{PASSWORD}", text=True, check=True, timeout=30)
            rules.write_text(f"{names['asked']} ALL=(ALL) ALL\n{names['free']} ALL=(ALL) NOPASSWD: ALL\n")
            rules.chmod(0o440)
            yield made, names
        finally:
            made.kill_sessions()
            made.end()
            rules.unlink(missing_ok=True)
            for name in names.values():
                subprocess.run(["userdel", "-f", name], check=True, timeout=30, capture_output=True)


@contextlib.contextmanager
def logged_in(people: tuple[Sshd, dict[str, str]], role: str, sudo: bool | str) -> Iterator[SshMachine]:
    """Give the machine as one of the users sees it."""
    with reached(people[0], user=people[1][role], sudo=sudo) as machine:
        yield machine


def everywhere(secret: str) -> list[str]:
    """Return the processes whose arguments or environment hold a text, but for this one, whose own variable it is."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if secret.encode() in (folder / name).read_bytes() and folder.name != str(os.getpid()):
                    found.append(f"{folder.name} {name}")
    return found


@pytest.mark.parametrize("role", ["asked", "free"])
def test_sudo_gets_its_password_when_it_asks_and_the_program_never_does(
    people: tuple[Sshd, dict[str, str]], role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOX_SUDO", PASSWORD)
    with logged_in(people, role, "env:BOX_SUDO") as machine:
        assert machine.run(["id", "-u"]).stdout == b"0\n"
        done = machine.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"input")
        assert (done.code, done.stdout, done.stderr) == (3, b"input", b"err\n")
        assert machine.run(["printf", "%s|", EVIL, ""]).text == f"{EVIL}||"
        assert machine.run(["cat"], stdin=b"\x00\xff" * 500_000).stdout == b"\x00\xff" * 500_000
        assert list(machine.stream(["cat"], stdin=b"streamed", silence=20)) == [b"streamed"]
        with pytest.raises(PreconditionFailed, match="/no/such/program cannot be run"):
            machine.run(["/no/such/program"])
        chunks = machine.stream(["sh", "-c", "while echo; do sleep 0.05; done"], silence=20)
        next(chunks)
        assert everywhere(PASSWORD) == []
        chunks.close()  # type: ignore[attr-defined]
        assert PASSWORD not in repr(vars(machine))


def test_a_wrong_password_is_said_at_once_and_not_shown(
    people: tuple[Sshd, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOX_SUDO", wrong := "wrong-horse-battery")
    match = r"sudo refused the password of box.*env:BOX_SUDO \(hosts.box.sudo\)"
    with logged_in(people, "asked", "env:BOX_SUDO") as machine:
        with fails("auth", match, within=10) as caught:
            machine.run(["true"])
        assert wrong not in str(caught.value)
        monkeypatch.setenv("BOX_SUDO", "two\nlines")
        with pytest.raises(EnvironmentInvalid, match="has more than one line"):
            machine.run(["true"])
        monkeypatch.delenv("BOX_SUDO")
        with pytest.raises(EnvironmentInvalid, match="BOX_SUDO is not set"):
            machine.run(["true"])


def test_a_sudo_that_does_not_start_the_program_says_why(
    people: tuple[Sshd, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOX_SUDO", PASSWORD)
    with logged_in(people, "free", True) as machine:
        assert machine.run(["id", "-u"]).stdout == b"0\n"
        machine.write(path := f"/etc/credscale-test-{os.getpid()}", b"as root", mode=0o600)
        assert machine.owner(path) == "root"
        Path(path).unlink()
    with logged_in(people, "asked", True) as machine:
        match = r"a password is required.*NOPASSWD in sudoers, or give hosts\.box\.sudo a reference"
        with fails("auth", match, within=10):
            machine.run(["true"])
    with logged_in(people, "nobody", "env:BOX_SUDO") as machine, fails("auth", "sudo -l", within=20) as caught:
        machine.run(["true"])
    assert PASSWORD not in str(caught.value)


def test_by_hand_with_fabric(shared: Sshd, tmp_path: Path) -> None:
    """In a notebook people work as in a fabfile, over the same verified connection."""
    machine = SshMachine("db1", Host(**shared.host))
    try:
        hand = machine.by_hand()
        assert hand.run("echo $((6 * 7))", hide=True, in_stream=False).stdout == "42\n"
        (tmp_path / "here").write_text("ü")
        hand.put(str(tmp_path / "here"), str(tmp_path / "there"))
        assert (tmp_path / "there").read_text() == "ü"
        assert machine.run(["cat", str(tmp_path / "there")]).text == "ü"
    finally:
        machine.close()
    strange = SshMachine("db1", Host(**shared.host | {"known_hosts": str(tmp_path / "none")}))
    with pytest.raises(ConnectFailed, match="is not in"):
        strange.by_hand().run("echo hi", hide=True, in_stream=False)
    with pytest.raises(TypeError, match="the machine connects"):
        strange.by_hand().client.connect("127.0.0.1")
