"""The same deployment on a machine behind a real sshd: strict about keys, atomic about files."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.environment import load
from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.machines import SshMachine
from credscale.lab.processes import free_ports
from credscale.testing import require
from tests.scenarios.mongo_deploy.conftest import answers
from tests.scenarios.mongo_deploy.test_build import deploy, shards_of
from tests.scenarios.sshd import ADDRESS, Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scenarios.mongo_deploy.conftest import Site

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]
EVIL = "a b;touch $(x) 'y' \"z\" \\ *"


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


def test_an_unknown_host_key_is_refused(site: Site, sshd: Sshd) -> None:
    describe(site, sshd)
    machine = SshMachine("remote", load(str(site.folder / "site.yaml")).hosts["remote"], environment="site")
    with pytest.raises(ConnectFailed, match="so nothing was sent") as caught:
        machine.run(["true"])
    command = re.search(r"accept it with: (.+)$", str(caught.value))
    assert command is not None
    expected = "invoke hosts.accept-host-key --env site --host remote --fingerprint " + sshd.fingerprint()
    assert shlex.split(command[1]) == expected.split()


def test_a_changed_host_key_is_refused(machine: SshMachine, sshd: Sshd) -> None:
    assert machine.run(["true"]).code == 0
    machine.close()
    old = sshd.fingerprint()
    sshd.new_host_key()
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
    behind = SshMachine("remote", hosts["remote"], SshMachine("bastion", hosts["bastion"]))
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
