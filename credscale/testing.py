"""What tests of runbooks need: a cluster, documents in it, faults, patience, and no way out to the network.

Import the fixtures into a ``conftest.py``: ``from credscale.testing import isolated, lab, no_network``.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import socket
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import pytest

from credscale import lab as labs
from credscale.lab.cluster import connect
from credscale.lab.engines import PROGRAMS as BINARIES
from credscale.lab.engines import Tuning, find_program
from credscale.lab.processes import stop
from credscale.lab.seeding import seed
from credscale.lab.state import LabState, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pymongo import MongoClient

T = TypeVar("T")
REQUIRE = "CREDSCALE_REQUIRE"
LAB_DOCUMENTS = 500
TUNING = Tuning(round_seconds=0.2, oplog_entries=12_000)
MODULES = {"secantusdb": "secantus"}  # services that are Python packages rather than programs
PROGRAMS = {"ssh": "sshd", "redis": "redis-server", "docker": "dockerd"}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabState]:
    """Yield a running cluster in a temporary folder, with a quick balancer where it is simulated."""
    if find_program("mongod") is None:
        require("secantusdb")
    directory = tmp_path_factory.mktemp("lab")
    state = labs.up(directory, tuning=TUNING)
    yield state
    stop(state.processes, kill_after=0.0)  # nobody needs its data, so nobody waits for a clean end
    labs.down(directory, wipe=True)


@pytest.fixture
def lab_client(lab: LabState) -> Iterator[MongoClient[dict[str, Any]]]:
    """Yield a connection to the router of the lab."""
    with connect(lab.process("mongos").plan) as client:
        yield client


def fresh_collection(lab: LabState, documents: int = LAB_DOCUMENTS) -> str:
    """Make a collection that no other test uses, in a database of its own.

    Args:
        lab: a running lab.
        documents: how many documents it gets.

    Returns:
        its namespace, ``database.collection``.
    """
    namespace = f"credibility_test_{os.getpid()}_{next(_numbers)}.analyses"
    seed(lab, namespace, documents)
    return namespace


class Faults:
    """The faults of the simulated router; used with ``with``, they end with the block.

    Args:
        lab: a running lab on the simulated engine.
    """

    def __init__(self, lab: LabState) -> None:
        self._path = lab.faults

    def set(self, **faults: Any) -> Faults:
        """Order exactly these faults, such as ``lose=1`` or ``abort="reason"``; they hold from the next look on."""
        write_file(self._path, json.dumps(faults))
        return self

    def elect(self, *sets: str, seconds: float, codes: Sequence[int] = ()) -> Faults:
        """Order exactly this: the replica sets, such as ``config`` or a shard's name, have no primary from now on.

        Args:
            sets: the names.
            seconds: how long.
            codes: the errors to answer with in turn; empty: those of a present-day mongos.
        """
        return self.set(election={"sets": sets, "until": time.time() + seconds, "codes": codes})

    def clear(self) -> None:
        """Order no faults."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return the faults themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """Clear them."""
        self.clear()


def wait_for(predicate: Callable[[], T], deadline: float = 10.0, *, every: float = 0.05) -> T:
    """Poll until a predicate is true.

    Args:
        predicate: what is awaited.
        deadline: seconds.
        every: seconds between two polls.

    Returns:
        the predicate's first true value.

    Raises:
        AssertionError: it stayed false; carries the last value.
    """
    end = time.monotonic() + deadline
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"waited {deadline:.0f} s in vain; the last value was {value!r}")
        time.sleep(every)


def require(service: str) -> str:
    """Skip the test when a service is absent, or fail it where it must be there.

    Args:
        service: a program, such as ``mongod``, or one of the names ``ssh``, ``redis``, ``docker``, ``secantusdb`` and
            ``mongo``: MongoDB's own programs in the folder ``$CREDSCALE_MONGO_BIN``. ``CREDSCALE_REQUIRE`` lists, with
            commas, what must be there (``all``: everything), so that a CI job cannot pass by skipping.

    Returns:
        the path of the program or folder, or the name of the package.
    """
    if service in MODULES:
        found = MODULES[service] if find_spec(MODULES[service]) is not None else None
    elif service == "mongo":
        found = _mongo_folder()
    elif service in ("mongod", "mongos"):
        found = find_program(service)
    else:
        # servers lie where the PATH of a plain user does not lead
        found = shutil.which(
            PROGRAMS.get(service, service), path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
        )
    if found is not None:
        return found
    required = {name.strip() for name in os.environ.get(REQUIRE, "").split(",")}
    if required & {service, "all"}:
        pytest.fail(f"{service} is missing, and {REQUIRE} says that it must be there", pytrace=False)
    pytest.skip(f"needs {service}" + (f": set {BINARIES} to the folder of mongod and mongos" * (service == "mongo")))


def _mongo_folder() -> str | None:
    folder = os.environ.get(BINARIES)
    there = folder and all(shutil.which(program, path=folder) for program in ("mongod", "mongos"))
    return folder if there else None


@pytest.fixture
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that connects to anything, unless it is marked ``scenario``."""
    if request.node.get_closest_marker("scenario") is not None:
        return
    refuse_connections(monkeypatch)


def refuse_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every connection fail the test, but those of threads that are there already: they are an earlier test's.

    Args:
        monkeypatch: undoes it.
    """
    others = set(threading.enumerate()) - {threading.current_thread()}

    def refuse(_socket: socket.socket, address: Any) -> NoReturn:
        if threading.current_thread() in others:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the test that this thread belongs to has ended")
        pytest.fail(f"a unit test connects to {address!r}; mark it with pytest.mark.scenario if it must")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)


@pytest.fixture
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty home and key folder of its own, and return the home."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("CREDSCALE_KEY_DIR", str(home / "keys"))
    # shared by all tests, because matplotlib needs seconds to build its list of fonts
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "matplotlib"))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home
