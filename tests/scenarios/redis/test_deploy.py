"""From hosts to a cluster that serves: from nothing, from what is left of one, never over what is somebody else's."""

from __future__ import annotations

import json
import stat
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError

from credscale.core.context import Context
from credscale.core.errors import RunFailed, StepFailed
from credscale.core.sections import RedisUser
from credscale.core.step import Status
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.views import look_at
from credscale.redis_cluster.deploy.steps import deployment_risks, start_nodes, write_node_files
from credscale.testing import require, wait_for
from tests.scenarios.mongo_deploy.test_ssh import ADDRESS, Sshd
from tests.scenarios.redis.certificates import certificates
from tests.scenarios.redis.conftest import server_program
from tests.scenarios.redis.deployment import APP_PASSWORD, PASSWORD, Deployment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from redis import Redis


pytestmark = [pytest.mark.scenario, pytest.mark.timeout(200)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Yield six nodes that are not there yet."""
    made = Deployment(tmp_path, monkeypatch)
    try:
        yield made
    finally:
        made.end()


def healthy(site: Deployment) -> bool:
    """Tell whether every node serves, with one replica for each primary."""

    def connect(address: str, _timeout: float) -> Redis:
        return site.client(address)

    return not gate(look_at(site.addresses, connect), nodes=6, replicas=1)


def told(ctx: Context) -> str:
    """Return everything that a run left behind."""
    return json.dumps([*ctx.journal.events, *(result.to_json() for result in ctx.results)], ensure_ascii=False)


def changes(ctx: Context) -> list[str]:
    return [change for result in ctx.results for change in result.changes]


def refusal(step: Any, ctx: Context, **params: Any) -> str:
    """Run a step that must fail without a change; return why."""
    with pytest.raises(StepFailed) as caught:
        step(ctx, **params)
    assert caught.value.result.changes == []
    return str(caught.value)


def argv_of_all() -> str:
    """Return the command line of every process of this machine."""
    return "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def test_from_nothing_again_and_after_a_loss(site: Deployment, tmp_path: Path) -> None:
    site.inventory["redis"]["user"] = "ops"
    rules = RedisUser(name="app", password="env:DEPLOY_APP").rules.replace("~*", "~app:*")
    site.deploy["users"] = [{"name": "app", "password": "env:DEPLOY_APP", "rules": rules}]
    plan = site.run(dry_run=True)
    assert not site.directory.exists(), "a plan changes nothing"
    assert [text for text in changes(plan) if text.startswith(("write", "start"))] == [
        *(f"write secrets.conf, redis.conf of node {address}" for address in site.addresses),
        *(f"start node {address}" for address in site.addresses),
    ]
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    first = site.run(folder=artifacts)
    assert healthy(site)
    assert changes(plan) == changes(first), "what is planned before a node runs is what is done"

    # an application connects as it is told to
    variables = dict(line.split("=", 1) for line in (artifacts / "client.env").read_text().splitlines() if "=" in line)
    nodes = [ClusterNode(*address.rsplit(":", 1)) for address in variables["REDIS_CLUSTER_NODES"].split(",")]
    app = RedisCluster(startup_nodes=nodes, username=variables["REDIS_CLUSTER_USERNAME"], password=APP_PASSWORD)
    for number in range(100):
        app.set(f"app:{number}", number)
    with pytest.raises(NoPermissionError):
        app.set("other", 1)
    with pytest.raises(AuthenticationError):
        site.client(site.addresses[0], username=None, password=None).ping()

    # nothing secret is anywhere but in files of the server
    everything = told(plan) + told(first) + "".join(path.read_text() for path in artifacts.iterdir()) + argv_of_all()
    for secret in (PASSWORD, json.dumps(PASSWORD, ensure_ascii=False)[1:-1], APP_PASSWORD):
        assert secret not in everything
    for path in site.directory.glob("*/*.conf"):
        is_secret = path.name == "secrets.conf"
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if is_secret else 0o644)
        assert is_secret or "masterauth" not in path.read_text()

    # the second run finds nothing to do
    pids = site.pids()
    assert site.run().changes == 0
    assert site.pids() == pids

    # a node that is lost is started again, with what it had
    lost = site.addresses[0]
    site.kill(lost)
    after = site.run()
    assert f"start node {lost}" in changes(after)
    assert not [text for text in changes(after) if "write" in text and ".conf" in text]
    wait_for(lambda: healthy(site), 20)
    assert [app.get(f"app:{number}") for number in range(100)] == [str(number).encode() for number in range(100)]
    app.close()


def test_stopped_after_every_change_it_goes_on(site: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt ends one change further on; together they make every change exactly once."""
    real, done = Context.apply, Counter[str]()

    class Stopped(BaseException):
        """What no step can catch."""

    def apply(self: Context, what: str, func: Any, /, *args: Any, **kwargs: Any) -> None:
        real(self, what, func, *args, **kwargs)
        done.update([what])
        raise Stopped

    monkeypatch.setattr(Context, "apply", apply)
    site.inventory["redis"]["nodes"] = site.addresses[:3]
    site.deploy["replicas"] = 0
    for _ in range(6):
        with pytest.raises(Stopped):  # noqa: PT012 - whichever step has the next change
            write_node_files(site.context())
            start_nodes(site.context(), timeout=20.0)
    assert set(done.values()) == {1}
    assert write_node_files(site.context()).changes == start_nodes(site.context()).changes == []


def test_a_changed_setting_is_shown_and_nothing_is_restarted(site: Deployment) -> None:
    ctx = site.context()
    write_node_files(ctx)
    start_nodes(ctx, timeout=20.0)
    pids = site.pids()
    site.deploy["maxmemory"] = "96mb"
    written = write_node_files(site.context())
    config = str(site.place(site.addresses[0]) / "redis.conf")
    assert [row["change"] for row in written.output["rows"] if row["file"] == config] == [
        "-maxmemory 64mb", "+maxmemory 96mb"
    ]  # fmt: skip
    assert "run with the old ones until they are restarted" in written.summary
    assert start_nodes(site.context()).status is Status.OK
    assert site.pids() == pids
    risky = deployment_risks(site.context())
    assert sum(row["rule"] == "outdated" for row in risky.output["rows"]) == 6
    for address in site.addresses:
        site.client(address).config_set("maxmemory", "96mb")
    assert "outdated" not in {row["rule"] for row in deployment_risks(site.context()).output["rows"]}


def test_a_server_that_is_not_ours_is_named_and_left_alone(site: Deployment, tmp_path: Path) -> None:
    address = site.addresses[1]
    host, _, port = address.rpartition(":")
    command = [server_program(), "--port", port, "--bind", host, "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as foreign:
        try:
            wait_for(lambda: psutil.Process(foreign.pid).net_connections("tcp"))
            client = site.client(address, password=None)
            wait_for(client.ping)
            client.set("precious", "data")
            why = refusal(write_node_files, site.context())
            assert f"{address}: another server has this port and refuses our login" in why
            site.inventory["redis"]["password"] = None
            why = refusal(write_node_files, site.context())
            assert f"{address}: redis " in why
            assert f"process {foreign.pid}, has this port with no configuration file" in why
            assert not site.directory.exists()
            assert client.get("precious") == "data"
        finally:
            foreign.kill()


def test_a_wrong_password_is_told_before_anything_changes(site: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = site.context()
    write_node_files(ctx)
    start_nodes(ctx, timeout=20.0)
    before = (site.place(site.addresses[0]) / "secrets.conf").read_bytes()
    monkeypatch.setenv("DEPLOY_REDIS", "another-password")
    ctx = site.context()
    why = refusal(write_node_files, ctx)
    assert f"{site.addresses[0]} refuses our login" in why
    assert "redis.password" in why
    assert "Nothing was changed" in why
    assert "another-password" not in why + told(ctx)
    assert (site.place(site.addresses[0]) / "secrets.conf").read_bytes() == before


def test_a_node_that_cannot_start_shows_its_log(site: Deployment) -> None:
    write_node_files(site.context())
    broken = site.addresses[0]
    (site.place(broken) / "data" / "nodes.conf").write_text("this is no nodes.conf\n")
    with pytest.raises(StepFailed, match="does not answer 1 s after its start") as caught:
        start_nodes(site.context(), timeout=1.0)
    assert "Unrecoverable error: corrupted cluster config file" in str(caught.value)
    (site.place(site.addresses[1]) / "redis.conf").unlink()
    why = refusal(start_nodes, site.context(), timeout=1.0)
    assert f"first their files have to be written: {site.addresses[1]}" in why


def test_an_emptied_primary_waits_for_the_promotion_of_its_replica(site: Deployment) -> None:
    site.deploy.update(appendonly=False, timeout_ms=60_000)  # longer than a slow machine needs to try
    site.run()
    app = RedisCluster(startup_nodes=[ClusterNode(*site.addresses[0].rsplit(":", 1))], password=PASSWORD)
    for number in range(100):
        app.set(f"key:{number}", number)
    assert all(each.wait(1, 5000) for each in map(app.get_redis_connection, app.get_primaries()))
    lost, second, third = (each for each in site.addresses if site.client(each).info("replication")["role"] == "master")
    (heir,), (other_heir,), (harmless,) = (
        [each for each in site.addresses if replicates(site, each, primary)] for primary in (lost, second, third)
    )
    site.kill(lost)
    site.kill(harmless)
    with pytest.raises(RunFailed, match=f"{lost} would come back without its data") as caught:
        site.run()
    assert f"{harmless} were started. Wait until a replica is promoted" in str(caught.value)

    # without a majority nobody is promoted by itself
    site.kill(second)
    with pytest.raises(RunFailed, match="No node was started. No majority of the primaries runs") as caught:
        site.run()
    for each in (heir, other_heir):
        assert f"invoke redis.force-failover --env deployment --replica {each} --mode takeover" in str(caught.value)
        site.client(each).execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
        wait_for(lambda heir=each: site.client(heir).info("replication")["role"] == "master", 20)
    site.run()
    wait_for(lambda: healthy(site), 20)
    assert [app.get(f"key:{number}") for number in range(100)] == [str(number).encode() for number in range(100)]
    app.close()


def replicates(site: Deployment, address: str, primary: str) -> bool:
    told = site.client(address).info("replication")
    return f"{told.get('master_host')}:{told.get('master_port')}" == primary


def test_with_tls_every_connection_is_encrypted(site: Deployment, tmp_path: Path) -> None:
    """Clients and nodes show each other certificates; the bus and the replication do the same."""
    refused = subprocess.run(
        [server_program(), "-"], input=b"tls-port 0\nno-such-setting x\n", capture_output=True, timeout=20, check=False
    )
    if b"at line 1" in refused.stderr:
        pytest.skip("needs a redis-server that was built with TLS")
    ca, certificate, key = certificates(tmp_path, {*(each.rpartition(":")[0] for each in site.addresses), "127.0.0.1"})
    site.inventory["redis"]["tls"] = {"ca": ca, "certificate": certificate, "key": key}
    site.deploy["tls"] = {"ca": ca, "certificate": certificate, "key": key, "clients_need_certificate": True}
    site.run()
    options = {"ssl": True, "ssl_ca_certs": ca, "ssl_certfile": certificate, "ssl_keyfile": key}
    client = site.client(site.addresses[0], **options)
    assert client.config_get("port") == {"port": "0"}
    assert client.config_get("tls-cluster") | client.config_get("tls-replication") == {
        "tls-cluster": "yes", "tls-replication": "yes"
    }  # fmt: skip
    with pytest.raises(RedisConnectionError):
        site.client(site.addresses[0]).ping()
    with pytest.raises(RedisConnectionError):
        site.client(site.addresses[0], ssl=True, ssl_ca_certs=ca).ping()
    assert site.run().changes == 0


def test_over_ssh_and_after_the_connection_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("ssh")
    sshd = Sshd(tmp_path / "sshd")
    site = Deployment(tmp_path, monkeypatch, hosts=(ADDRESS,))
    try:
        sshd.accept()
        site.inventory["hosts"] = {"remote": sshd.host}
        first = site.run()
        assert f"start node {site.addresses[0]}" in changes(first)
        assert {row["where"] for row in first.results[0].output["rows"]} >= {"remote"}
        sshd.end()
        sshd.start()
        assert healthy(site), "the servers are daemons of their machine"
        again = site.run()
        assert again.changes == 0
        assert PASSWORD not in told(first) + told(again)
    finally:
        site.end()
        sshd.end()
