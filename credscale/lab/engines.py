"""What the lab's processes are: MongoDB's own programs where they are installed, a simulation where they are not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from credscale.core.errors import MissingExtra, PreconditionFailed
from credscale.lab.processes import HOST, Plan, free_ports
from credscale.lab.state import FAULTS, NAMES, read_ports, write_file, write_ports
from credscale.mongo.deploy.config_files import settings_of, yaml_text
from credscale.mongo.deploy.layout import ROUTER, Layout, Process, ReplicaSet

REAL, SIMULATED, AUTO = "real", "simulated", "auto"
ENGINES = (AUTO, REAL, SIMULATED)
PROGRAMS = "CREDSCALE_MONGO_BIN"
CONFIG_SET = "configReplSet"
SIMULATED_VERSION = "5.0.28"  # what the simulated router poses as; a cluster of one version
MEMBERS = (("config", "config", CONFIG_SET), ("shard1", "shard", "shard1ReplSet"), ("shard2", "shard", "shard2ReplSet"))
CACHE_GIGABYTES = 0.25  # the least that mongod accepts; its default would take half of the machine's memory each


@dataclass(frozen=True)
class Tuning:
    """How the simulation runs.

    Args:
        round_seconds: pause between two rounds of the balancer.
        oplog_entries: how many entries a shard's oplog keeps.
    """

    round_seconds: float = 0.15
    oplog_entries: int = 35_000  # restoring and moving 20,000 documents makes 30,000


def find_program(name: str) -> str | None:
    """Return the path of one of MongoDB's programs: from the folder $CREDSCALE_MONGO_BIN, else from PATH."""
    folder = os.environ.get(PROGRAMS)
    return (shutil.which(name, path=folder) if folder else None) or shutil.which(name)


def choose_engine(asked: str, existing: str | None, directory: Path) -> str:
    """Decide which engine a lab runs on.

    Args:
        asked: ``auto``, ``real`` or ``simulated``.
        existing: the engine of the lab that is already in the folder; ``auto`` stays with it.
        directory: the folder, for messages.

    Raises:
        PreconditionFailed: MongoDB's programs are absent, or the lab in the folder runs on the other engine.
        MissingExtra: SecantusDB is not installed.
    """
    if asked not in ENGINES:
        raise PreconditionFailed(f"unknown lab engine {asked!r}; expected one of {', '.join(ENGINES)}")
    if existing is not None and asked not in (AUTO, existing):
        raise PreconditionFailed(
            f"the lab in {directory} runs on the {existing} engine, asked for is {asked}. Stop it first: "
            "invoke lab.down (its data stays, and is used again when that engine is)"
        )
    missing = [program for program in ("mongod", "mongos") if find_program(program) is None]
    engine = existing or asked
    if engine == AUTO:
        engine = SIMULATED if missing else REAL
    if engine == REAL and missing:
        raise PreconditionFailed(
            f"the real lab needs {' and '.join(missing)}, found neither on PATH nor in ${PROGRAMS}. Install MongoDB's "
            "server and mongos (packages mongodb-org-server and mongodb-org-mongos), or set "
            f"{PROGRAMS} to the folder of their programs, or ask for the simulated engine"
        )
    if engine == SIMULATED and find_spec("secantus") is None:
        raise MissingExtra("secantusdb", "lab", "the simulated lab")
    return engine


def data_folder(directory: Path, engine: str) -> Path:
    """Return where an engine keeps its data; each has its own, so that neither can open the other's."""
    return directory / "data" / engine


def plan_processes(directory: Path, engine: str, tuning: Tuning) -> list[Plan]:
    """Lay out the four processes; ports are picked once and stay with the data, which refers to them.

    Args:
        directory: the lab's folder.
        engine: ``real`` or ``simulated``.
        tuning: of the simulation.
    """
    folder = data_folder(directory, engine)
    ports = read_ports(folder)
    if set(ports) != set(NAMES):
        ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        write_ports(folder, ports)
    if engine == REAL:
        return _real_plans(folder, ports)
    logs = directory / "logs"
    plans = []
    for name, role, replica_set in MEMBERS:
        data = folder / name
        command = _simulated_member(role, replica_set, ports[name], data, tuning)
        plans.append(Plan(name, role, replica_set, ports[name], command, logs / f"{name}.log", data))
    command = _simulated_router(ports, directory / FAULTS, tuning)
    return [*plans, Plan("mongos", "router", "", ports["mongos"], command, logs / "mongos.log", None)]


def _real_plans(folder: Path, ports: dict[str, int]) -> list[Plan]:
    """Write the processes' configuration, rendered as for any deployment, and lay the processes out."""
    from credscale.core.sections import Deploy

    deploy = Deploy.model_construct(
        security="none", admin=None, tls=None, bind_ip="", cache_gb=CACHE_GIGABYTES, start="systemd"
    )  # no daemons: this lab keeps its processes itself
    sets = tuple(
        ReplicaSet(name, (Process(role, name, f"{HOST}:{ports[key]}", "", str(folder)),)) for key, role, name in MEMBERS
    )
    router = Process(ROUTER, "", f"{HOST}:{ports['mongos']}", "", str(folder))
    wanted = Layout(deploy, sets, (router,))
    plans = []
    for key, process in zip(NAMES, wanted.processes, strict=True):
        write_file(Path(process.config), yaml_text(settings_of(process, wanted)).decode())
        command = (_program(process.program), "--config", process.config, *_quick_end(process.program))
        data = Path(process.data) if process.program == "mongod" else None
        plans.append(Plan(key, process.role, process.replica_set, process.port, command, Path(process.log), data))
    return plans


def _simulated_member(role: str, replica_set: str, port: int, data: Path, tuning: Tuning) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "credscale.lab.simulated.shard", "--port", str(port), "--replica-set", replica_set,
        "--data", str(data), "--role", "configsvr" if role == "config" else "shardsvr",
        "--server-version", SIMULATED_VERSION, "--oplog-entries", str(tuning.oplog_entries),
    )  # fmt: skip


def _simulated_router(ports: dict[str, int], faults: Path, tuning: Tuning) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "credscale.lab.simulated.mongos", "--port", str(ports["mongos"]),
        "--config", f"{HOST}:{ports['config']}", "--config-set", CONFIG_SET, "--faults", str(faults),
        "--round-seconds", str(tuning.round_seconds),
    )  # fmt: skip


def _program(name: str) -> str:
    return find_program(name) or name


def _quick_end(name: str) -> tuple[str, ...]:
    """Shorten the 15 s for which servers since 5.0 wait for their clients after SIGTERM; older ones lack the option."""
    try:
        told = subprocess.run([_program(name), "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()  # starting it will say why
    version = re.search(r"version v(\d+)\.", told.stdout)
    if version is None or int(version[1]) < 5:
        return ()
    option = "shutdownTimeoutMillisForSignaledShutdown"
    if name == "mongos":
        option = "mongosShutdownTimeoutMillisForSignaledShutdown"
    return ("--setParameter", f"{option}=100")
