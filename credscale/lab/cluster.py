"""The embedded MongoDB cluster: one config server, two shards and one router, each a replica set of one.

The processes survive the command that started them. Starting again is the repair: what is dead comes back on its port
with its data, what is alive is left alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.lab import engines
from credscale.lab.processes import HOST, Plan, Process, start, stop, wait_answering
from credscale.lab.state import FAULTS, NAMES, PORTS, URI, LabState, only_one, read_state, write_file, write_state

if TYPE_CHECKING:
    from pymongo import MongoClient

DIRECTORY = Path(".credscale/lab")
START_SECONDS = 60.0  # for one process to answer; a first start of mongod on a slow disk takes 10
LOCK_SECONDS = 180.0
Note = Callable[[str], None]


def up(
    directory: Path = DIRECTORY, engine: str = engines.AUTO, note: Note | None = None,
    *, tuning: engines.Tuning | None = None,
) -> LabState:  # fmt: skip
    """Start the lab, or whatever of it is not running.

    Args:
        directory: the folder that holds everything of it.
        engine: ``real``, ``simulated``, or ``auto``: real where MongoDB is installed.
        note: receives one sentence per thing done.
        tuning: of the simulation; None leaves its defaults.

    Returns:
        the running lab.

    Raises:
        PreconditionFailed: no MongoDB for the real engine, another engine's lab in the folder, a port taken.
        MissingExtra: no SecantusDB for the simulated engine.
        ConnectFailed: a process did not answer; whatever was started by this call is stopped again.
        Refused: another command works on this lab.
    """
    directory, say = directory.resolve(), note if note is not None else _say_nothing
    with only_one(directory, "lab", LOCK_SECONDS):
        before = read_state(directory)
        chosen = engines.choose_engine(engine, before.engine if before is not None else None, directory)
        plans = engines.plan_processes(directory, chosen, tuning if tuning is not None else engines.Tuning())
        running = _alive(before)
        _announce(directory, chosen, before, running, say)
        started: list[Process] = []
        try:
            state = _start_missing(directory, chosen, plans, running, started)
            run_up_steps(state, say)
        except BaseException:
            stop(started[::-1])
            write_state(before, directory)
            raise
        write_file(directory / URI, state.uri + "\n")
    return state


def _alive(state: LabState | None) -> dict[str, Process]:
    return {process.name: process for process in (state.processes if state is not None else ()) if process.alive}


def _say_nothing(_sentence: str) -> None:
    """Take a note nobody asked for."""


def _announce(directory: Path, engine: str, before: LabState | None, running: dict[str, Process], note: Note) -> None:
    dead = [name for name in NAMES if name not in running]
    if not dead:
        note(f"the lab in {directory} is running already ({engine} engine)")
    elif before is not None:
        note(f"restarting {', '.join(dead)} of the lab in {directory} ({engine} engine), which had ended")
    else:
        kind = "MongoDB" if engine == engines.REAL else "SecantusDB behind a simulated mongos, not MongoDB"
        note(f"starting the {engine} lab in {directory}: a config server, two shards and a router ({kind})")


def _start_missing(
    directory: Path, engine: str, plans: list[Plan], running: dict[str, Process], started: list[Process]
) -> LabState:
    """Start what is not running: first the members, all at once, then the router, which needs their replica sets."""
    present = dict(running)
    state = LabState(directory, engine, tuple(present.values()))
    for group in ([plan for plan in plans if plan.role != "router"], [plan for plan in plans if plan.role == "router"]):
        for plan in group:
            if plan.name not in present:
                present[plan.name] = start(plan)
                started.append(present[plan.name])
                # recorded at once: when this command is killed, the next one knows what it started
                state = LabState(directory, engine, tuple(present[name] for name in NAMES if name in present))
                write_state(state, directory)
        deadline = time.monotonic() + START_SECONDS
        for plan in group:
            wait_answering(present[plan.name], deadline)
            if plan.role != "router":
                _form_replica_set(present[plan.name], engine)
    return state


def _form_replica_set(process: Process, engine: str) -> None:
    """Initiate the replica set of one member and wait until it is primary."""
    from credscale.mongo.deploy.replica_sets import initiate_replica_set, wait_primary

    plan = process.plan
    with connect(plan) as client:
        if engine == engines.REAL:  # a SecantusDB process is born as the primary of its replica set
            initiate_replica_set(
                client, plan.replica_set, [plan.address], config_server=plan.role == "config", timeout=START_SECONDS
            )
        wait_primary(client, plan.replica_set, timeout=START_SECONDS)


def run_up_steps(state: LabState, note: Note) -> None:
    """Make shards of the shard replica sets, through the same steps as a deployment; what is done already stays.

    Args:
        state: a lab whose processes answer.
        note: receives one sentence per shard added.

    Raises:
        PreconditionFailed: the router refuses a shard.
        WaitTimeout: it did not list one in time.
    """
    from credscale.mongo.deploy.shards import add_shard

    with connect(state.process("mongos").plan) as mongos:
        for process in state.processes:
            plan = process.plan
            if plan.role == "shard" and add_shard(mongos, plan.replica_set, [plan.address], timeout=START_SECONDS):
                note(f"added {plan.replica_set} at {plan.address} as a shard")


def connect(plan: Plan) -> MongoClient[dict[str, Any]]:
    """Return a direct connection to one process of the lab; the caller closes it."""
    from pymongo import MongoClient

    return MongoClient(
        HOST, plan.port, directConnection=True, appname="credscale-lab",
        serverSelectionTimeoutMS=10_000, socketTimeoutMS=120_000,
    )  # fmt: skip


def down(directory: Path = DIRECTORY, *, wipe: bool = False) -> list[str]:
    """Stop the lab: router, shards, config server; only processes that it started itself.

    Args:
        directory: the lab's folder.
        wipe: remove its data and logs too; otherwise the next start finds the data again.

    Returns:
        the names of the processes that were running.

    Raises:
        PreconditionFailed: the state is damaged, or a process belongs to another user.
        Refused: another command works on this lab.
    """
    directory = directory.resolve()
    if not directory.exists():
        return []
    stopped: list[str] = []
    with only_one(directory, "lab", LOCK_SECONDS):
        state = read_state(directory)
        for role in ("router", "shard", "config"):
            stopped += stop([process for process in (state.processes if state else ()) if process.plan.role == role])
        write_state(None, directory)
        (directory / FAULTS).unlink(missing_ok=True)
        if wipe:
            _wipe(directory)
    return stopped


def _wipe(directory: Path) -> None:
    """Remove what the lab wrote, and nothing else that may lie in the same folder."""
    for engine in (engines.REAL, engines.SIMULATED):
        folder = engines.data_folder(directory, engine)
        if (folder / PORTS).exists():
            shutil.rmtree(folder)
    for name in NAMES:
        (directory / "logs" / f"{name}.log").unlink(missing_ok=True)
    for folder in (directory / "data", directory / "logs"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def status(directory: Path = DIRECTORY) -> LabState | None:
    """Return the lab in a folder, or None when none was started there; each process tells whether it is alive.

    Raises:
        PreconditionFailed: the state is damaged.
    """
    return read_state(directory.resolve())
