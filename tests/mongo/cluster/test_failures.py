"""Every error of the reference and of a real 4.4.6 cluster is told what it means and what to do about it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    CursorNotFound,
    ExecutionTimeout,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)  # fmt: skip

from credscale.mongo.cluster.commands import CURSOR_LOST, RETRYABLE, is_passing
from credscale.mongo.cluster.failure_rules import NAMES, PATIENCE, TABLE, Action
from credscale.mongo.cluster.failures import advised, explain_failure

RETRY, READ_BACK, STOP = Action
CASES = json.loads((Path(__file__).parents[2] / "cases/mongo/failures/cases.json").read_text(encoding="utf-8"))

# §8.3, and Appendix B as far as it reaches us
SAID_RETRYABLE = {6, 7, 89, 91, 189, 10107, 13435, 11600, 11602, 262, 46, 117}
SAID_FATAL = {13, 20, 23, 51, 66, 72, 2, 96, 207}
APPENDIX_B = {
    2, 6, 7, 9, 13, 14, 18, 20, 23, 26, 27, 46, 47, 48, 50, 51, 59, 61, 64, 67, 70, 72, 74, 76, 85, 86, 87, 89, 91, 93,
    94, 96, 103, 117, 118, 121, 133, 146, 150, 153, 163, 166, 188, 189, 193, 194, 200, 203, 207, 242, 262, 265, 272,
    313, 10107, 11602, 13297, 13388, 16763, 16766, 31387, 31388, 31389, 31390, 31391, 31412, 50876,
}  # fmt: skip


def raised(case: dict[str, Any]) -> PyMongoError:
    """Raise what the driver makes of a recorded reply."""
    from pymongo import helpers_shared

    error = json_util.loads(json.dumps(case["error"]))
    if "details" not in error:  # an election on the way: the recording kept the driver's text only
        assert error["type"] == "NotPrimaryError"
        found = re.search(r"'code': (\d+), 'codeName': '(\w+)'", error["message"])
        assert found is not None
        return NotPrimaryError("not primary", {"ok": 0.0, "code": int(found[1]), "codeName": found[2]})
    with pytest.raises(PyMongoError) as caught:
        helpers_shared._check_command_response(error["details"], None)
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_recorded_errors(case: dict[str, Any]) -> None:
    failure = explain_failure(raised(case))
    assert (failure.action, failure.code_name) == (Action(case["action"]), case["code_name"])
    assert is_passing(raised(case)) is case["repeated"]
    assert failure.advice


def test_the_lists_of_the_reference() -> None:
    assert {code for code in SAID_RETRYABLE if TABLE[code].action is not RETRY} == set()
    assert {code for code in SAID_FATAL if TABLE[code].action is not STOP} == set()
    assert set() == APPENDIX_B - set(TABLE)
    assert {TABLE[50].action, TABLE[64].action} == {READ_BACK}
    assert set() == RETRYABLE & SAID_FATAL
    assert 50 not in RETRYABLE, "asked again it would only expire again"


def test_every_rule_is_a_sentence_with_an_end() -> None:
    for rule in TABLE.values():
        assert rule.advice[0].isupper()
        assert not rule.meaning.endswith(".")
        assert rule.patience in (0.0, PATIENCE)
        assert (rule.patience > 0) <= (rule.action is not STOP)
    assert len(NAMES) == len(TABLE)


@pytest.mark.parametrize(
    ("error", "action", "repeated"),
    [
        (AutoReconnect("connection closed"), READ_BACK, True),
        (NetworkTimeout("timed out"), READ_BACK, True),
        (ConnectionFailure("broken"), READ_BACK, True),
        (ServerSelectionTimeoutError("127.0.0.1:1: [Errno 111] Connection refused"), RETRY, True),
        (ServerSelectionTimeoutError("SSL handshake failed: h:1: certificate verify failed"), STOP, False),
        (WaitQueueTimeoutError("no socket"), RETRY, True),
        (NotPrimaryError("not primary", {"code": 10107, "errmsg": "not primary"}), RETRY, True),
        (ExecutionTimeout("operation exceeded time limit", 50), READ_BACK, False),
        (CursorNotFound("cursor id 1 not found", 43), RETRY, False),
        (WTimeoutError("waiting for replication timed out", 64), READ_BACK, True),
        (WriteConcernError("stepped down", 189, {"code": 189, "errmsg": "stepped down"}), READ_BACK, True),
        (WriteConcernError("no such tag", 79, {"code": 79, "errmsg": "no such tag"}), READ_BACK, False),
        (OperationFailure("no code at all"), STOP, False),
        (OperationFailure("a code of tomorrow", 999), STOP, False),
        (InvalidOperation("cannot use MongoClient after close"), STOP, False),
        (ValueError("not the driver's"), STOP, False),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}" if isinstance(value, Exception) else "",
)
def test_errors_of_the_driver(error: Exception, action: Action, repeated: bool) -> None:
    assert explain_failure(error).action is action
    assert is_passing(error) is repeated


def bulk(*errors: tuple[int, str], unconfirmed: tuple[tuple[int, str], ...] = ()) -> BulkWriteError:
    """Return the result of a bulk write with errors."""
    written = [{"index": n, "code": code, "errmsg": text} for n, (code, text) in enumerate(errors)]
    concerns = [{"code": code, "errmsg": text} for code, text in unconfirmed]
    return BulkWriteError({"writeErrors": written, "writeConcernErrors": concerns, "nInserted": 0})


@pytest.mark.parametrize(
    ("error", "action", "name"),
    [
        (bulk((11600, "shutdown"), (11000, "E11000")), STOP, "DuplicateKey"),
        (bulk((11600, "shutdown"), (189, "stepped down")), RETRY, "InterruptedAtShutdown"),
        (bulk(unconfirmed=((64, "waiting for replication timed out"),)), READ_BACK, "WriteConcernFailed"),
        (bulk(unconfirmed=((91, "shutting down"),)), READ_BACK, "ShutdownInProgress"),
        (bulk((189, "stepped down"), unconfirmed=((64, "timed out"),)), READ_BACK, "WriteConcernFailed"),
    ],
)
def test_the_gravest_of_several_errors_counts(error: BulkWriteError, action: Action, name: str) -> None:
    failure = explain_failure(error)
    assert (failure.action, failure.code_name) == (action, name)


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("failed to run command { x: 1 } when attempting to add shard a :: caused by :: HostUnreachable: x", True),
        ("x :: caused by :: y :: caused by :: NetworkInterfaceExceededTimeLimit: Couldn't get a connection", True),
        ("couldn't find valid index for shard key", False),
        ("x :: caused by :: Unauthorized: not authorized on admin", False),
        ("x :: caused by :: collection dropped", False),
    ],
)  # fmt: skip
def test_what_mongos_wraps(text: str, repeated: bool) -> None:
    assert is_passing(OperationFailure(text, 96)) is repeated


def test_a_wrapped_cause_does_not_outweigh_a_code_that_says_something() -> None:
    assert not is_passing(OperationFailure("not enabled :: caused by :: HostUnreachable: x", 20))


def test_the_servers_label_counts_where_the_code_says_nothing() -> None:
    labels = {"errorLabels": ["RetryableWriteError"], "errmsg": "wrapped"}
    assert is_passing(OperationFailure("wrapped", 999, labels | {"code": 999}))
    assert not is_passing(OperationFailure("wrapped", 13, labels | {"code": 13}))


def test_a_lost_cursor_is_for_those_who_can_go_on() -> None:
    assert {43, 136, 175, 237} == CURSOR_LOST - RETRYABLE
    assert is_passing(CursorNotFound("gone", 43, {"code": 43, "errmsg": "gone"}), CURSOR_LOST)


def test_the_advised_error_keeps_what_it_is() -> None:
    details = {"ok": 0.0, "errmsg": "timed out waiting for shop.orders", "code": 46, "codeName": "LockBusy"}
    error = OperationFailure("timed out waiting for shop.orders", 46, details)
    same = advised(error)
    assert same is error
    assert (error.code, error.details) == (46, details)
    assert str(error).startswith("timed out waiting for shop.orders (LockBusy 46): another operation is at work")
    assert str(error).endswith("then run the same command again: it continues where it stopped")
    assert "full error" not in str(error)
    text = str(error)
    assert str(advised(error)) == text, "said once"
    assert str(advised(ValueError("ours"))) == "ours"


def test_the_named_set_stays_in_the_text() -> None:
    told = 'Could not find host matching read preference { mode: "primary" } for set shard2ReplSet'
    assert "for set shard2ReplSet (FailedToSatisfyReadPreference 133)" in str(advised(OperationFailure(told, 133)))


def test_a_member_that_does_not_know_the_user_is_told_from_a_wrong_connection_string() -> None:
    """A shard's users are its own (§2.5), so mongos can accept what a member refuses."""
    advice = explain_failure(OperationFailure("Authentication failed.", 18)).advice
    assert "authSource" in advice
    assert "a member of a shard has refused, create the user there" in advice
    assert "docs/how-to.md (Rights)" in advice


def test_an_operation_ended_by_an_operator_is_not_repeated_behind_his_back() -> None:
    failure = explain_failure(OperationFailure("operation was interrupted", 11601))
    assert (failure.code_name, failure.action, failure.patience) == ("Interrupted", READ_BACK, 0.0)
    assert "killOp" in failure.meaning


def test_a_stale_database_version_passes_and_a_capped_collection_that_ran_over_asks_for_a_new_cursor() -> None:
    assert is_passing(OperationFailure("stale", 249))
    assert not is_passing(OperationFailure("position lost", 136))
    assert is_passing(OperationFailure("position lost", 136), CURSOR_LOST)
