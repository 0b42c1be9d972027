"""The same deployment on a machine behind a real sshd: strict about keys, atomic about files."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.environment import load
from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.machines import SshMachine
from credscale.lab.processes import free_ports
from credscale.testing import require, wait_for
from tests.scenarios.mongo_deploy.conftest import answers
from tests.scenarios.mongo_deploy.test_build import deploy, shards_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scenarios.mongo_deploy.conftest import Site

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]
ADDRESS = "127.0.0.2"  # the loopback too, but not a name that can only mean this machine
EVIL = "a b;touch $(x) 'y' \"z\" \\ *"


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30)
    return path


class Sshd:
    """An sshd of this user on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, (self.port,) = folder, free_ports(1)
        self.program = require("ssh")
        folder.mkdir()
        self.key = make_key(folder / "user")
        self.known_hosts = folder / "known_hosts"
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        make_key(folder / "host")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.start()

    def start(self) -> None:
        settings = [
            f"Port {self.port}", f"ListenAddress {ADDRESS}", f"HostKey {self.folder}/host", "UsePAM no",
            f"AuthorizedKeysFile {self.folder}/authorized", "StrictModes no", "PasswordAuthentication no",
            f"PidFile {self.folder}/pid", "PermitRootLogin prohibit-password",
            f"SetEnv HOME={self.folder}",  # the user's own .bashrc may take its time
        ]  # fmt: skip
        (self.folder / "config").write_text("\n".join(settings) + "\n")
        command = [self.program, "-D", "-e", "-f", str(self.folder / "config")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        wait_for(lambda: answers(f"{ADDRESS}:{self.port}"))

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=10)

    def accept(self) -> None:
        """Accept the host key as an administrator would who compared it."""
        public = " ".join((self.folder / "host.pub").read_text().split()[:2])
        self.known_hosts.write_text(f"[{ADDRESS}]:{self.port} {public}\n")

    def fingerprint(self) -> str:
        told = subprocess.run(
            ["ssh-keygen", "-lf", str(self.folder / "host.pub")], capture_output=True, text=True, check=True, timeout=30
        )
        return told.stdout.split()[1]

    @property
    def host(self) -> dict[str, Any]:
        return {
            "address": ADDRESS, "port": self.port, "user": getpass.getuser(), "key": str(self.key),
            "known_hosts": str(self.known_hosts),
        }  # fmt: skip


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """Yield a running sshd whose host key nobody has accepted yet."""
    require("ssh")
    made = Sshd(tmp_path / "sshd")
    try:
        yield made
    finally:
        made.end()


def describe(site: Site, sshd: Sshd, **extra: Any) -> None:
    """Describe a cluster whose processes all run on the remote machine."""
    site.host = ADDRESS
    site.describe(config=3, shards=(1,))
    site.inventory["hosts"] = {"remote": sshd.host | extra}
    site.write()


@pytest.fixture
def machine(site: Site, sshd: Sshd) -> Iterator[SshMachine]:
    """Yield the remote machine, its key accepted."""
    sshd.accept()
    describe(site, sshd)
    made = SshMachine("remote", load(str(site.folder / "site.yaml")).hosts["remote"])
    try:
        yield made
    finally:
        made.close()


def test_a_cluster_is_built_and_survives_the_connection(site: Site, sshd: Sshd) -> None:
    sshd.accept()
    describe(site, sshd)
    assert deploy(site).changes == 5 + 4 + 2 + 1 + 2 + 1
    assert shards_of(site) == ["shard1ReplSet"]
    sshd.end()
    sshd.start()
    assert all(answers(f"{ADDRESS}:{port}") for port in site.pids()), "the servers are daemons of their machine"
    assert deploy(site).changes == 0
    assert sorted({path.stat().st_mode & 0o777 for path in (site.folder / "mongo").glob("*/key")}) == [0o400]


def test_an_unknown_host_key_is_refused_until_it_is_accepted(site: Site, sshd: Sshd) -> None:
    describe(site, sshd)
    machine = SshMachine("remote", load(str(site.folder / "site.yaml")).hosts["remote"])
    with pytest.raises(ConnectFailed, match="so nothing was sent") as caught:
        machine.run(["true"])
    message = str(caught.value)
    assert sshd.fingerprint() in message
    command = re.search(r"accept it with: (.+)$", message)
    assert command is not None
    assert shlex.split(command[1])[0] == "ssh-keyscan"
    subprocess.run(command[1], shell=True, check=True, timeout=30, capture_output=True)  # noqa: S602 - as the user would
    assert machine.run(["true"]).code == 0
    machine.close()


def test_a_changed_host_key_is_refused(machine: SshMachine, sshd: Sshd) -> None:
    assert machine.run(["true"]).code == 0
    machine.close()
    sshd.end()
    (sshd.folder / "host").unlink()
    old = sshd.fingerprint()
    make_key(sshd.folder / "host")
    sshd.start()
    with pytest.raises(ConnectFailed, match="is not the one known") as caught:
        machine.run(["true"])
    assert old in str(caught.value)
    assert sshd.fingerprint() in str(caught.value)


def test_a_login_that_is_refused_says_what_to_check(machine: SshMachine, sshd: Sshd) -> None:
    (sshd.folder / "authorized").write_text("")
    with pytest.raises(ConnectFailed, match="refused the login"):
        machine.run(["true"])


def test_files_and_programs_as_on_this_machine(machine: SshMachine, tmp_path: Path) -> None:
    path = str(tmp_path / EVIL)
    assert machine.read(path) is None
    for data, mode in ((b"\x00\xff\nbytes", 0o400), (b"", 0o644), (os.urandom(400_000), 0o600)):
        machine.write(path, data, mode=mode)
        assert machine.read(path) == data
        assert machine.read_with_mode(path) == (data, mode)
    assert machine.run(["printf", "%s", EVIL]).text == EVIL
    done = machine.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in")
    assert (done.code, done.stdout, done.stderr) == (3, b"in", b"err\n")
    with pytest.raises(PreconditionFailed, match="cannot be run"):
        machine.run(["/no/such/program"])
    with pytest.raises(ConnectFailed, match="did not end"):
        machine.run(["sleep", "60"], timeout=0.3)
    assert machine.run(["sh", "-c", "sleep 30 & echo started"], timeout=10.0).text == "started\n"


def test_a_jump_host_is_verified_too(site: Site, sshd: Sshd) -> None:
    describe(site, sshd, jump="bastion")
    other = str(site.folder / "other_known_hosts")
    site.inventory["hosts"]["bastion"] = sshd.host | {"known_hosts": other}
    hosts = load(str(site.write())).hosts
    sshd.accept()
    behind = SshMachine("remote", hosts["remote"], ("bastion", hosts["bastion"]))
    with pytest.raises(ConnectFailed, match=r"the host key of bastion .* is not in .*other_known_hosts"):
        behind.run(["true"])
    Path(other).write_text(sshd.known_hosts.read_text())
    assert behind.run(["echo", "through"]).text == "through\n"
    behind.close()


def test_a_tunnel_is_open_to_its_user_alone_and_closes(machine: SshMachine, sshd: Sshd) -> None:
    assert not machine.listens(free_ports(1)[0])
    path = Path(machine.tunnel(free_ports(1)[0]))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    machine.close()
    assert not path.parent.exists()
