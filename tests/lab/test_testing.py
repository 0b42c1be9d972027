"""The fixtures that scenario tests stand on."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale import testing
from credscale.testing import Faults, fresh_collection, refuse_connections, require, wait_for

if TYPE_CHECKING:
    from credscale.lab import LabState

ABSENT = "credscale-no-such-program"


@pytest.mark.scenario
def test_fresh_collections_are_apart(lab: LabState, lab_client: Any) -> None:
    first, second = fresh_collection(lab, 20), fresh_collection(lab, 30)
    assert first != second
    for namespace, expected in ((first, 20), (second, 30)):
        database, _, name = namespace.partition(".")
        assert lab_client[database][name].count_documents({}) == expected


@pytest.mark.scenario
def test_faults_are_written_where_the_router_reads_them_and_end_with_the_block(lab: LabState) -> None:
    assert str(lab.faults) in lab.process("mongos").plan.command
    with Faults(lab).set(lose=1) as faults:
        assert json.loads(lab.faults.read_text(encoding="utf-8")) == {"lose": 1}
        faults.set(abort="disk full")
        assert json.loads(lab.faults.read_text(encoding="utf-8")) == {"abort": "disk full"}
    assert not lab.faults.exists()


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_unit_tests_reach_no_network(method: str) -> None:
    with socket.socket() as sock, pytest.raises(pytest.fail.Exception, match="a unit test connects to"):
        getattr(sock, method)(("127.0.0.1", 9))


def test_a_thread_that_an_earlier_test_left_is_refused_and_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, caught = threading.Event(), list[BaseException]()

    def connect() -> None:
        go_on.wait(10)
        try:
            with socket.socket() as sock:
                sock.connect(("127.0.0.1", 9))
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    refuse_connections(monkeypatch)
    go_on.set()
    thread.join(10)
    assert [type(each) for each in caught] == [ConnectionRefusedError]


@pytest.mark.scenario
def test_scenarios_reach_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


def test_home_and_keys_are_the_tests_own(isolated: Path) -> None:
    assert Path.home() == isolated
    assert list(isolated.iterdir()) == []
    assert Path(os.environ["CREDSCALE_KEY_DIR"]).parent == isolated


def test_wait_for_returns_the_first_true_value() -> None:
    values = iter([0, None, "", "there"])
    assert wait_for(lambda: next(values), every=0.001) == "there"


def test_wait_for_tells_what_it_saw_last() -> None:
    with pytest.raises(AssertionError, match=r"the last value was \[\]"):
        wait_for(list, 0.01, every=0.001)


def test_require_skips_and_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(testing.REQUIRE, raising=False)
    with pytest.raises(pytest.skip.Exception, match=ABSENT):
        require(ABSENT)


@pytest.mark.parametrize("required", [ABSENT, f"redis-server, {ABSENT}", "all"])
def test_require_fails_where_it_must_be_there(monkeypatch: pytest.MonkeyPatch, required: str) -> None:
    monkeypatch.setenv(testing.REQUIRE, required)
    with pytest.raises(pytest.fail.Exception, match=f"{ABSENT} is missing"):
        require(ABSENT)


def test_require_returns_what_is_there() -> None:
    assert Path(require("sh")).name == "sh"
