"""The checks of versions, clocks and options, on what a real cluster answered and on what may go wrong."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import OperationFailure

from credscale.mongo.preflight import certificates, servers, versions
from credscale.mongo.preflight.members_asked import Clock
from tests.mongo.preflight.looks import Nodes, look_at, said, severities

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("version", "rehearsal", "severity"),
    [
        ("4.4.6", False, "stop"),
        ("4.4.6", True, "warn"),
        ("4.4.29", False, "ok"),
        ("5.0.28", False, "ok"),
        ("4.4.22", False, "warn"),
        ("6.0.4", False, "stop"),
        ("7.0.14", False, "ok"),
    ],
)
def test_bugs_of_a_version(version: str, rehearsal: bool, severity: str) -> None:
    found = severities(versions.judge_bugs([version], (), rehearsal=rehearsal))
    assert severity in found
    if severity == "ok":
        assert set(found) <= {"ok", "note"}


def test_a_bug_of_other_processors_is_not_told() -> None:
    def told(processors: set[str]) -> bool:
        rows = versions.judge_bugs(["4.4.18"], processors, rehearsal=False)
        return any("WT-10461" in row.finding for row in rows)

    assert told({"aarch64"})
    assert told(set())
    assert not told({"x86_64"})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": "7.0.14", "b": "7.0.14"}, ["ok"]),
        ({"a": "7.0.14", "b": "7.0.12"}, ["note"]),
        ({"a": "7.0.14", "b": "6.0.16"}, ["stop"]),
        ({"a": "4.2.24", "b": "4.2.24"}, ["stop"]),
        ({"a": "4.4.29", "b": "4.2.24"}, ["stop", "stop"]),
    ],
)
def test_releases(found: dict[str, str], expected: list[str]) -> None:
    assert severities(versions.judge_versions(found)) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": {"version": "5.0"}, "b": {"version": "5.0"}}, ["ok"]),
        ({"a": {"version": "5.0"}, "b": {"version": "4.4"}}, ["stop"]),
        ({"a": {"version": "4.2"}}, ["stop"]),
        ({"a": {"version": "4.4", "targetVersion": "5.0"}}, ["stop"]),
        ({"a": {"version": "5.0", "previousVersion": "5.0", "targetVersion": "4.4"}}, ["stop"]),
        ({}, ["unknown"]),
    ],
)
def test_compatibility_versions(found: dict[str, dict[str, str]], expected: list[str]) -> None:
    assert severities(versions.judge_compatibility(found)) == expected


def clock(ahead: float, took: float = 0.0) -> Clock:
    return Clock(100.0, 100.0 + took, 100.0 + took / 2 + ahead)


@pytest.mark.parametrize(
    ("clocks", "severity", "said_of"),
    [
        ({"a": clock(0.01), "b": clock(-0.01)}, "ok", "2 clocks"),
        ({"a": clock(2.0), "b": clock(0.0)}, "warn", "a is at least 2.0 s ahead of b"),
        ({"a": clock(0.0), "b": clock(-6.0)}, "stop", "a is at least 6.0 s ahead of b"),
        ({"a": clock(2.0), "b": clock(2.1)}, "warn", "this machine's clock differs by at least 2.1 s"),
        ({"a": clock(-7.0), "b": clock(-7.0)}, "stop", "this machine's clock"),
        ({"a": clock(3.0, took=20.0), "b": clock(0.0)}, "ok", "2 clocks"),  # the network explains it
    ],
)
def test_clocks(clocks: dict[str, Clock], severity: str, said_of: str) -> None:
    (row,) = servers.judge_clocks(clocks)
    assert row.severity == severity
    assert said_of in row.finding


def test_no_clock_is_not_a_good_clock() -> None:
    assert severities(servers.judge_clocks({})) == ["unknown"]


KEY_FILE: dict[str, Any] = {"security": {"keyFile": "/k", "authorization": "enabled"}}
NO_AUTH: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("parsed", "expected", "encrypted"),
    [
        ({"a": KEY_FILE, "b": {"security": {"keyFile": "/other"}}}, ["ok"], []),
        ({"a": KEY_FILE, "b": NO_AUTH}, ["stop"], []),
        ({"a": NO_AUTH, "b": NO_AUTH}, ["ok", "note"], []),
        ({"a": KEY_FILE, "b": {"security": {"clusterAuthMode": "sendKeyFile"}}}, ["warn"], []),
        ({"a": {**KEY_FILE, "net": {"tls": {"mode": "requireTLS"}}}, "b": KEY_FILE}, ["stop"], ["a"]),
        ({"a": {**KEY_FILE, "net": {"ssl": {"mode": "requireSSL"}}}}, ["ok"], ["a"]),
        ({"a": {**KEY_FILE, "net": {"tls": {"mode": "allowTLS"}}}, "b": KEY_FILE}, ["warn"], ["a"]),
        ({"a": {"security": {"keyFile": "/k", "transitionToAuth": True}}}, ["warn"], []),
    ],
)
def test_how_servers_know_each_other(
    parsed: dict[str, dict[str, Any]], expected: list[str], encrypted: list[str]
) -> None:
    rows, found = certificates.judge_authentication(parsed)
    assert severities(rows) == expected
    assert found == encrypted


@pytest.mark.parametrize(("days", "severity"), [(-1, "stop"), (0.5, "stop"), (10, "warn"), (90, "ok")])
def test_end_of_a_certificate(days: float, severity: str) -> None:
    (row,) = certificates.judge_certificates({"a:1": NOW + timedelta(days=days)}, {}, NOW)
    assert row.severity == severity


def test_a_certificate_that_cannot_be_read_is_unknown() -> None:
    assert severities(certificates.judge_certificates({}, {"a:1": "TimeoutError"}, NOW)) == ["unknown"]


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    """Yield a port that shows a certificate, good for 40 days."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "db")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=40))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "both.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()
            with accepted, context.wrap_socket(accepted, server_side=True):
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


@pytest.mark.scenario
def test_certificate_of_a_port_and_a_port_that_is_closed(tls_port: int) -> None:
    ends, problems = certificates.read_certificates([f"127.0.0.1:{tls_port}", "127.0.0.1:1"], "mongodb://x/")
    assert 39 <= (ends[f"127.0.0.1:{tls_port}"] - datetime.now(UTC)).days <= 40
    assert "ConnectionRefusedError" in problems["127.0.0.1:1"]


@pytest.mark.parametrize(
    ("role", "wanted", "severity"),
    [
        ("shardsvr", "shardsvr", "ok"),
        (None, "shardsvr", "stop"),
        ("shardsvr", "configsvr", "stop"),
    ],
)
def test_roles_of_members(role: str | None, wanted: str, severity: str) -> None:
    options = {"sharding": {"clusterRole": role}} if role else {}
    assert severities(servers.judge_roles({"a:1": options}, {"a:1": wanted})) == [severity]


@pytest.mark.parametrize(
    ("parsed", "engine", "config", "said_of"),
    [
        ({"replication": {"enableMajorityReadConcern": False}}, {}, {}, "no read concern majority"),
        ({}, {"supportsCommittedReads": False}, {}, "no read concern majority"),
        ({"storage": {"journal": {"enabled": False}}}, {}, {}, "keeps no journal"),
        ({}, {"persistent": False}, {}, "in memory only"),
        ({}, {}, {"writeConcernMajorityJournalDefault": False}, "does not wait for the journal"),
    ],
)
def test_what_majority_and_journal_lack(
    parsed: dict[str, Any], engine: dict[str, Any], config: dict[str, Any], said_of: str
) -> None:
    (row,) = servers.judge_durability({"a:1": parsed}, {"a:1": engine}, {"a:1": config})
    assert row.severity == "warn"
    assert said_of in row.finding


@pytest.mark.parametrize(
    ("address", "codes", "severity"),
    [
        ("cluster0-shard-00-00.ab1cd.mongodb.net:27016", [], "stop"),
        ("docdb.cluster-x.eu-west-1.docdb.amazonaws.com:27017", [], "stop"),
        ("db1.example.com:27017", [8000], "stop"),
        ("mongodb.net.example.com:27017", [13], "ok"),
    ],
)
def test_managed_services(address: str, codes: list[int], severity: str) -> None:
    assert servers.judge_service([address], codes).severity == severity


def test_startup_warnings_are_grouped_by_their_words() -> None:
    line = (
        '{"t":{"$date":"2026-11-23T11:14:24+00:00"},"s":"W","c":"CONTROL","id":22120,"msg":"** Access control is off"}'
    )
    old = "2026-11-23T11:14:24.885+0000 I CONTROL  [initandlisten] ** WARNING: soft rlimits too low."
    rows = servers.judge_warnings({"a:1": [line, old], "b:1": [line], "c:1": []})
    assert [row.finding for row in rows] == [
        "a:1, b:1: Access control is off",
        "a:1: WARNING: soft rlimits too low.",
    ]
    assert severities(servers.judge_warnings({"a:1": []})) == ["ok"]
    assert severities(servers.judge_warnings({})) == ["unknown"]


def test_the_recorded_cluster_passes() -> None:
    look = look_at(Nodes())
    assert said(versions.known_bugs, look)[0] == ("ok", "no bug is known of 4.4.29 that loses data of this operation")
    assert said(versions.uniform_versions, look) == [("ok", "9 servers run 4.4.29")]
    assert said(versions.compatibility, look) == [("ok", "7 members are at 4.4")]
    assert said(servers.clock_skew, look)[0][0] == "ok"
    assert said(servers.internal_auth, look)[0] == ("ok", "8 servers: none, TLS disabled")
    assert said(servers.cluster_role, look) == [("ok", "7 members run in their role")]
    assert said(servers.majority_and_journal, look) == [("ok", "7 members support majority and keep a journal")]
    assert said(servers.managed_service, look) == [("ok", "none of 8 names is of a managed service")]
    assert said(servers.startup_warnings, look) == [("ok", "7 members warned of nothing when they started")]


def test_a_member_that_is_silent_is_named_and_never_counted_as_good() -> None:
    nodes = Nodes()
    nodes.kill("127.0.0.1:27020")
    look = look_at(nodes)
    for check in (versions.uniform_versions, versions.compatibility, servers.clock_skew, servers.cluster_role):
        rows = said(check, look)
        assert rows[-1][0] == "unknown"
        assert "127.0.0.1:27020 was not looked at: ServerSelectionTimeoutError" in rows[-1][1]


def test_a_user_who_may_not_look_learns_so() -> None:
    nodes = Nodes()
    nodes.answer(
        "getCmdLineOpts", OperationFailure("not authorized", 13), *[each for each in nodes.nodes if "17" not in each]
    )
    rows = said(servers.cluster_role, look_at(nodes))
    assert [row[0] for row in rows] == ["unknown", "unknown"]
    assert "may not look (code 13)" in rows[1][1]


def test_bugs_of_members_are_told_although_the_other_routers_may_not_be_seen() -> None:
    nodes = Nodes()
    nodes.answer("buildInfo", {"version": "4.4.6"}, "127.0.0.1:27020")
    nodes.router.documents["config.mongos"] = OperationFailure("not authorized", 13)
    rows = said(versions.known_bugs, look_at(nodes))
    assert "stop" in {row[0] for row in rows}
    assert rows[-1] == ("unknown", "the other routers: the user may not look (code 13)")


def test_a_shard_without_this_user_is_unknown_and_asked_only_once() -> None:
    nodes = Nodes()
    node = nodes.nodes["127.0.0.1:27020"]
    node.replies = dict.fromkeys(node.replies, OperationFailure("Authentication failed.", 18))
    look = look_at(nodes)
    rows = said(versions.compatibility, look)
    assert "does not let this user log in" in rows[-1][1]
    assert len(node.asked) == 1
