"""The lab as real processes: started, killed, repaired, seeded, stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import yaml

from credscale import lab as labs
from credscale.core.errors import ConnectFailed, MissingExtra, PreconditionFailed, Refused
from credscale.lab import LabState, cluster, engines, processes, seeding
from credscale.lab.documents import make_documents
from credscale.lab.processes import Plan, Process
from credscale.lab.seeding import MARKERS
from credscale.lab.state import NAMES, PORTS, STATE, URI, only_one, read_state, write_state
from credscale.testing import require, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.scenario
TUNING = engines.Tuning(round_seconds=0.5)
LOG_FLUSH_SECONDS = 1.5  # SecantusDB keeps acknowledged writes in memory for about half a second


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    require("secantusdb")
    folder = tmp_path_factory.mktemp("cluster")
    yield folder
    discard(folder)


@pytest.fixture
def state(directory: Path) -> LabState:
    """The lab, complete at the start of each test."""
    return labs.up(directory, "simulated", tuning=TUNING)


def pids(state: LabState) -> dict[str, int]:
    return {process.name: process.pid for process in state.processes}


def kill(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not process.alive)


def up_again(state: LabState, said: list[str] | None = None) -> LabState:
    note = said.append if said is not None else None
    return labs.up(state.directory, "auto", note, tuning=TUNING)


def discard(folder: Path) -> None:
    """End a lab whose data nobody needs, without the seconds that a clean end takes."""
    state = labs.status(folder)
    if state is not None:
        processes.stop(state.processes, kill_after=0.0)
    labs.down(folder, wipe=True)


def router(state: LabState) -> Any:
    return cluster.connect(state.process("mongos").plan)


# --- up


def test_up_makes_a_cluster_of_two_shards(state: LabState) -> None:
    assert state.engine == "simulated"
    assert [process.name for process in state.processes] == list(NAMES)
    assert state.running
    assert (state.directory / URI).read_text(encoding="utf-8") == f"{state.uri}\n"
    with router(state) as client:
        shards = client.admin.command("listShards")["shards"]
        assert {shard["_id"]: shard["state"] for shard in shards} == {"shard1ReplSet": 1, "shard2ReplSet": 1}


def test_up_again_starts_nothing(state: LabState) -> None:
    said: list[str] = []
    assert up_again(state, said) == state
    assert len(said) == 1
    assert "running already" in said[0]


def test_processes_survive_the_terminal(state: LabState) -> None:
    assert all(os.getsid(process.pid) == process.pid for process in state.processes)


def test_killed_router_comes_back_on_its_port(state: LabState) -> None:
    kill(state.process("mongos"))
    assert not state.running
    said: list[str] = []
    repaired = up_again(state, said)
    assert repaired.uri == state.uri
    assert repaired.running
    assert {name for name in NAMES if pids(repaired)[name] != pids(state)[name]} == {"mongos"}
    assert "restarting mongos" in said[0]


def test_reboot_brings_everything_back_with_its_data(state: LabState) -> None:
    with router(state) as client:
        client.kept.things.insert_one({"_id": 1, "text": "still here"})
    time.sleep(LOG_FLUSH_SECONDS)
    for process in state.processes:
        kill(process)
    repaired = up_again(state)
    assert not set(pids(repaired).values()) & set(pids(state).values())
    with router(repaired) as client:
        assert client.kept.things.find_one({"_id": 1}) == {"_id": 1, "text": "still here"}
        assert len(client.admin.command("listShards")["shards"]) == 2


def test_up_killed_halfway_is_completed(state: LabState) -> None:
    kill(state.process("mongos"))
    write_state(replace(state, processes=state.processes[:3]), state.directory)
    half = labs.status(state.directory)
    assert half is not None
    assert not half.running
    with pytest.raises(PreconditionFailed, match=r"invoke lab\.up"):
        _ = half.uri
    assert up_again(state).uri == state.uri


def test_two_ups_at_once_start_one_cluster(state: LabState) -> None:
    kill(state.process("mongos"))
    found: list[LabState] = []
    both = [threading.Thread(target=lambda: found.append(up_again(state))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    assert len(found) == 2
    assert found[0] == found[1]


def test_locked_lab_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOCK_SECONDS", 0.05)
    with only_one(tmp_path, "lab", 1), pytest.raises(Refused, match="another command"):
        labs.up(tmp_path, "simulated")


def test_hanging_router_is_reported_and_left_alone(state: LabState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "START_SECONDS", 0.5)
    mongos = state.process("mongos")
    os.kill(mongos.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ConnectFailed, match=r"mongos does not answer on 127\.0\.0\.1"):
            up_again(state)
    finally:
        os.kill(mongos.pid, signal.SIGCONT)
    assert mongos.alive
    assert labs.status(state.directory) == state


def test_failed_start_leaves_nothing_running(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; print('line one'); sys.exit('cannot bind, says the router')"
    monkeypatch.setattr(engines, "_simulated_router", lambda *_: (sys.executable, "-c", program))
    with pytest.raises(ConnectFailed, match="cannot bind, says the router") as caught:
        labs.up(tmp_path, "simulated")
    assert str(tmp_path / "logs" / "mongos.log") in str(caught.value)
    assert labs.status(tmp_path) is None
    assert not (tmp_path / URI).exists()
    ours = [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or [])]
    assert ours == []


def test_failed_repair_keeps_what_was_running(state: LabState, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(state.process("mongos"))
    monkeypatch.setattr(engines, "_simulated_router", lambda *_: (sys.executable, "-c", "raise SystemExit('no')"))
    with pytest.raises(ConnectFailed):
        up_again(state)
    assert labs.status(state.directory) == state
    assert [process.name for process in state.processes if process.alive] == ["config", "shard1", "shard2"]


def test_taken_port_is_named(state: LabState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PORT_SECONDS", 0.1)
    mongos = state.process("mongos")
    kill(mongos)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_for(lambda: processes.is_free(mongos.plan.port))
        thief.bind(("127.0.0.1", mongos.plan.port))
        thief.listen()
        with pytest.raises(PreconditionFailed, match=rf"port {mongos.plan.port} .*pid {os.getpid()}"):
            up_again(state)


# --- engines


def test_other_engine_is_refused(state: LabState) -> None:
    with pytest.raises(PreconditionFailed, match=r"runs on the simulated engine.*invoke lab\.down"):
        labs.up(state.directory, "real")


def test_real_engine_without_mongodb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_program", lambda _name: None)
    with pytest.raises(PreconditionFailed, match=r"mongod and mongos.*CREDSCALE_MONGO_BIN"):
        labs.up(tmp_path, "real")


def test_simulated_engine_without_secantusdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'credscale\[lab\]'"):
        labs.up(tmp_path, "simulated")


def test_unknown_engine(tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match="'docker'; expected one of auto, real, simulated"):
        labs.up(tmp_path, "docker")


def fake_mongodb(folder: Path, version: str) -> None:
    """Put programs into a folder that take MongoDB's options and run the simulation, with the commands it lacks."""
    folder.mkdir()
    for name, body in (("mongod", MONGOD), ("mongos", MONGOS)):
        program = folder / name
        program.write_text(f"#!{sys.executable}\nVERSION = {version!r}\n{PROLOGUE}{body}", encoding="utf-8")
        program.chmod(0o755)


PROLOGUE = """
import argparse, sys, yaml
if sys.argv[1:] == ["--version"]:
    print(f"db version v{VERSION}" if "mongod" in sys.argv[0] else f"mongos version v{VERSION}\\nBuild Info: {{}}")
    sys.exit()
parser = argparse.ArgumentParser()
parser.add_argument("--config")
parser.add_argument("--setParameter")
flags = parser.parse_args()
given = yaml.safe_load(open(flags.config))
assert given["net"]["bindIp"] == "127.0.0.1" and (flags.setParameter is None or int(VERSION[0]) >= 5)
port, role = str(given["net"]["port"]), given["sharding"].get("clusterRole")
"""
MONGOD = """
from credscale.lab.simulated import shard
import secantus.server
known, configs = secantus.server.dispatch, []
def dispatch(request, context):
    name = next(iter(request))
    if name == "replSetInitiate":
        config = request[name]
        assert bool(config.get("configsvr")) == (role == "configsvr")
        assert config["_id"] == given["replication"]["replSetName"]
        configs.append(config)
        return {"ok": 1.0}
    if name == "replSetGetConfig":
        missing = {"ok": 0.0, "code": 94, "errmsg": "no replset config has been received"}
        return {"ok": 1.0, "config": configs[0]} if configs else missing
    if name == "replSetGetStatus" and not configs:
        return {"ok": 0.0, "code": 94, "errmsg": "no replset config has been received"}
    return known(request, context)
secantus.server.dispatch = dispatch
name, data = given["replication"]["replSetName"], given["storage"]["dbPath"]
sys.argv[1:] = ["--port", port, "--replica-set", name, "--data", data, "--role", role]
shard.main()
"""
MONGOS = """
from credscale.lab.simulated import mongos
name, _, host = given["sharding"]["configDB"].partition("/")
sys.argv[1:] = ["--port", port, "--config", host, "--config-set", name]
mongos.main()
"""


def test_real_engine_takes_the_steps_of_a_deployment(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_mongodb(tmp_path / "bin", "7.0.31")
    monkeypatch.setenv("CREDSCALE_MONGO_BIN", str(tmp_path / "bin"))
    folder = tmp_path / "lab"
    try:
        state = labs.up(folder, "auto")
        assert state.engine == "real"
        assert "mongosShutdownTimeoutMillisForSignaledShutdown=100" in state.process("mongos").plan.command
        with cluster.connect(state.process("shard1").plan) as member:
            config = member.admin.command("replSetGetConfig")["config"]
            assert config["_id"] == "shard1ReplSet"
            assert config["members"][0]["host"] == state.process("shard1").plan.address
        assert pids(labs.up(folder, "real")) == pids(state)
    finally:
        discard(folder)


@pytest.mark.parametrize(("version", "option"), [("4.4.6", False), ("5.0.7", True), ("8.0.4", True)])
def test_quick_shutdown_only_where_the_server_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, option: bool
) -> None:
    fake_mongodb(tmp_path / "bin", version)
    monkeypatch.setenv("CREDSCALE_MONGO_BIN", str(tmp_path / "bin"))
    plans = engines.plan_processes(tmp_path, "real", engines.Tuning())
    assert [("--setParameter" in plan.command) for plan in plans] == [option] * 4
    roles = [yaml.safe_load(Path(plan.command[2]).read_text())["sharding"] for plan in plans]
    assert [role.get("clusterRole") for role in roles] == ["configsvr", "shardsvr", "shardsvr", None]
    assert roles[3]["configDB"] == f"configReplSet/{plans[0].address}"


# --- down and status


def test_status_of_nothing(tmp_path: Path) -> None:
    assert labs.status(tmp_path / "absent") is None
    assert labs.down(tmp_path / "absent") == []
    assert not (tmp_path / "absent").exists()


def test_status_tells_who_is_alive(state: LabState) -> None:
    kill(state.process("mongos"))
    seen = labs.status(state.directory)
    assert seen is not None
    assert {row["name"]: row["alive"] for row in seen.rows()} == {
        "config": True, "shard1": True, "shard2": True, "mongos": False,
    }  # fmt: skip


def test_damaged_state_is_explained(tmp_path: Path) -> None:
    (tmp_path / STATE).write_text("{", encoding="utf-8")
    for call in (labs.status, labs.up, labs.down):
        with pytest.raises(PreconditionFailed, match="state.json is not a state"):
            call(tmp_path)


def test_reused_pid_is_neither_trusted_nor_stopped(state: LabState) -> None:
    kill(state.process("mongos"))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        try:
            path = state.directory / STATE
            data = json.loads(path.read_text(encoding="utf-8"))
            data["processes"][3] |= {
                "pid": stranger.pid,
                "create_time": psutil.Process(stranger.pid).create_time() - 60,
            }
            path.write_text(json.dumps(data), encoding="utf-8")
            seen = read_state(state.directory)
            assert seen is not None
            assert not seen.process("mongos").alive
            assert processes.stop(seen.processes[3:]) == []
            repaired = up_again(state)
            assert repaired.process("mongos").pid != stranger.pid
            assert repaired.running
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_down_stops_keeps_data_and_wipes_on_request(directory: Path, tmp_path: Path) -> None:
    state = labs.up(directory, "simulated", tuning=TUNING)
    with router(state) as client:
        client.kept.more.insert_one({"_id": 1})
    state.faults.write_text("{}", encoding="utf-8")
    assert labs.down(directory) == ["mongos", "shard1", "shard2", "config"]
    assert not any(process.alive for process in state.processes)
    assert labs.status(directory) is None
    assert not state.faults.exists()
    assert not (directory / URI).exists()
    assert labs.down(directory) == []
    again = labs.up(directory, "simulated", tuning=TUNING)
    assert again.uri == state.uri
    with router(again) as client:
        assert client.kept.more.find_one({}) == {"_id": 1}


def test_wipe_removes_only_what_the_lab_wrote(tmp_path: Path) -> None:
    foreign = [tmp_path / "data" / "mine.txt", tmp_path / "data" / "real" / "theirs.txt", tmp_path / "notes.txt"]
    own = [tmp_path / "data" / "simulated" / PORTS, tmp_path / "logs" / "mongos.log"]
    for path in [*foreign, *own]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    labs.down(tmp_path, wipe=True)
    assert all(path.exists() for path in foreign)
    assert not any(path.exists() for path in own)


def sleeper(folder: Path, program: str) -> Process:
    return processes.start(Plan("sleeper", "shard", "", processes.free_ports(1)[0],
                                (sys.executable, "-c", program), folder / "sleeper.log", None))  # fmt: skip


def test_stubborn_process_is_killed(tmp_path: Path) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    deaf = sleeper(tmp_path, program)
    wait_for(lambda: "deaf" in deaf.plan.log.read_text(encoding="utf-8"))
    assert processes.stop([deaf], kill_after=0.3) == ["sleeper"]
    assert not deaf.alive


def test_foreign_listener_does_not_count_as_ours(tmp_path: Path) -> None:
    silent = sleeper(tmp_path, "import time; time.sleep(60)")
    try:
        with socket.create_server(("127.0.0.1", silent.plan.port)), pytest.raises(ConnectFailed, match="not listen"):
            processes.wait_listening(silent, 0.0)
    finally:
        processes.stop([silent])


def test_program_that_cannot_run(tmp_path: Path) -> None:
    plan = Plan("ghost", "shard", "", processes.free_ports(1)[0], (str(tmp_path / "no"),), tmp_path / "log", None)
    with pytest.raises(PreconditionFailed, match="cannot be run: No such file"):
        processes.start(plan)


# --- seed


def test_seed_once(state: LabState) -> None:
    told: list[tuple[int, int]] = []
    first = labs.seed(state, "once.analyses", 1500, lambda done, total: told.append((done, total)))
    assert (first.action, first.documents) == ("created", 1500)
    assert told == [(1000, 1500), (1500, 1500)]
    with router(state) as client:
        assert client.once.analyses.count_documents({}) == 1500
        assert client.once.analyses.find_one(sort=[("_id", 1)])["url"] == next(make_documents(1500))["url"]
        assert "userId_1_createdAt_-1" in client.once.analyses.index_information()
        client.once.analyses.delete_one({})
        second = labs.seed(state, "once.analyses", 1500)
        assert (second.action, second.documents) == ("kept", 0)
        assert client.once.analyses.count_documents({}) == 1499


def test_half_seeded_collection_is_made_anew(state: LabState, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done == 200:
            raise KeyboardInterrupt

    monkeypatch.setattr(seeding, "BATCH", 100)
    with pytest.raises(KeyboardInterrupt):
        labs.seed(state, "half.analyses", 300, interrupt)
    with router(state) as client:
        assert client.half.analyses.count_documents({}) == 200
        assert labs.seed(state, "half.analyses", 300).action == "recreated"
        assert client.half.analyses.count_documents({}) == 300
        assert client[MARKERS[0]][MARKERS[1]].find_one({"_id": "half.analyses"})["finished"] is True


def test_dropped_collection_is_seeded_again(state: LabState) -> None:
    labs.seed(state, "gone.analyses", 10)
    with router(state) as client:
        client.gone.drop_collection("analyses")
    assert labs.seed(state, "gone.analyses", 10).action == "created"


def test_somebody_elses_collection_is_left_alone(state: LabState) -> None:
    with router(state) as client:
        client.theirs.analyses.insert_one({"_id": "theirs"})
        assert labs.seed(state, "theirs.analyses", 10).action == "kept"
        assert client.theirs.analyses.count_documents({}) == 1


def test_seeding_a_dead_lab_fails_plainly(state: LabState, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymongo import MongoClient

    kill(state.process("mongos"))
    monkeypatch.setattr(
        seeding, "connect", lambda plan: MongoClient(plan.address, directConnection=True, serverSelectionTimeoutMS=100)
    )
    with pytest.raises(ConnectFailed, match=r"invoke lab\.up"):
        labs.seed(state, "dead.analyses", 10)
