"""What the lab remembers between commands: ``state.json`` and the ports that its data refers to."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, Refused
from credscale.lab.processes import Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NAMES = ("config", "shard1", "shard2", "mongos")  # in the order in which they start
STATE, URI, FAULTS, PORTS = "state.json", "mongo-uri", "faults.json", "ports.json"


@dataclass(frozen=True)
class LabState:
    """A cluster on this machine.

    Args:
        directory: where everything of it lies.
        engine: ``real`` or ``simulated``.
        processes: config server, shards, router, in the order in which they start.
    """

    directory: Path
    engine: str
    processes: tuple[Process, ...]

    @property
    def running(self) -> bool:
        """Tell whether the cluster is complete and every process is alive."""
        complete = [process.name for process in self.processes] == list(NAMES)
        return complete and all(process.alive for process in self.processes)

    @property
    def uri(self) -> str:
        """Return the connection string of the router."""
        return f"mongodb://{self.process('mongos').plan.address}/"

    @property
    def faults(self) -> Path:
        """Return the file through which faults are ordered from the simulated router."""
        return self.directory / FAULTS

    def process(self, name: str) -> Process:
        """Return a process by name: ``config``, ``shard1``, ``shard2`` or ``mongos``.

        Raises:
            PreconditionFailed: the start of the lab was cut off before it.
        """
        for process in self.processes:
            if process.name == name:
                return process
        raise PreconditionFailed(f"the lab in {self.directory} has no {name} yet. Complete it with: invoke lab.up")

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat dict per process, for a table: who lives where, and is it alive."""
        return rows_of(self.processes)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON-compatible data."""
        return {"engine": self.engine, "processes": [process.to_json() for process in self.processes]}


def rows_of(processes: Sequence[Process]) -> list[dict[str, Any]]:
    """Return one flat dict per process, for a table."""
    return [
        {"name": process.name, "role": process.plan.role, "replica_set": process.plan.replica_set,
         "address": process.plan.address, "pid": process.pid, "alive": process.alive, "log": str(process.plan.log)}
        for process in processes
    ]  # fmt: skip


def read_state(directory: Path) -> LabState | None:
    """Return what a lab's folder says about it, or None when no lab was started there.

    Raises:
        PreconditionFailed: the file is damaged.
    """
    with _explained(directory / STATE) as path:
        if not path.exists():
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        return LabState(directory, data["engine"], tuple(Process.from_json(each) for each in data["processes"]))


def read_processes(path: Path) -> tuple[Process, ...]:
    """Return the processes that a file lists; none when it is absent.

    Raises:
        PreconditionFailed: the file is damaged.
    """
    with _explained(path):
        if not path.exists():
            return ()
        return tuple(Process.from_json(each) for each in json.loads(path.read_text(encoding="utf-8")))


def write_processes(processes: Sequence[Process], path: Path) -> None:
    """Replace such a file."""
    write_file(path, json.dumps([process.to_json() for process in processes], indent=1) + "\n")


@contextmanager
def _explained(path: Path) -> Iterator[Path]:
    try:
        yield path
    except (ValueError, KeyError, TypeError) as error:
        raise PreconditionFailed(
            f"{path} is not a state that this version wrote ({error}). If no process of this lab runs any more, "
            f"remove the file and start the lab again"
        ) from None


def write_state(state: LabState | None, directory: Path) -> None:
    """Replace a lab's state; None removes it together with the address of its router."""
    if state is not None:
        write_file(directory / STATE, json.dumps(state.to_json(), indent=1) + "\n")
        return
    for name in (STATE, URI):
        (directory / name).unlink(missing_ok=True)


def write_file(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new text, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def read_ports(folder: Path) -> dict[str, int]:
    """Return the ports under which the data in a folder knows its cluster; empty when it holds none yet."""
    try:
        return {str(name): int(port) for name, port in json.loads((folder / PORTS).read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise PreconditionFailed(
            f"{folder / PORTS} is damaged ({error}). Begin anew with: invoke lab.down --wipe"
        ) from None


def write_ports(folder: Path, ports: dict[str, int]) -> None:
    """Remember ports beside the data that refers to them."""
    write_file(folder / PORTS, json.dumps(ports) + "\n")


@contextmanager
def only_one(directory: Path, what: str, timeout: float) -> Iterator[None]:
    """Hold a lock of a lab's folder; the end of the process gives it back.

    Args:
        directory: the lab's folder.
        what: the lock's name: ``lab``, ``seed`` or ``redis``.
        timeout: seconds to wait for another command.

    Raises:
        Refused: another command held it all the time.
        PreconditionFailed: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    path = directory / f"{what}.lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=timeout)
    except Timeout:
        raise Refused(
            f"another command works on the lab in {directory} for more than {timeout:.0f} s ({path})"
        ) from None
    except OSError as error:
        raise PreconditionFailed(f"the lab's folder {directory} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
