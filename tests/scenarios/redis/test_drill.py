"""Drills on real servers: what is broken comes back, and what clients saw meanwhile is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from credscale.core.machines import LocalMachine
from credscale.core.step import Status
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.slots import key_slot
from credscale.redis_cluster.drill import partition, processes
from credscale.redis_cluster.drill.steps import restore_nodes
from credscale.testing import require, wait_for
from runbooks.redis_drill import redis_drill
from tests.scenarios.redis.conftest import PRIMARIES, REPLICAS, RedisNodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.redis_cluster.drill.processes import Listener

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="drills find processes by /proc"),
]
ROOT = Path(__file__).parents[3]
NODE_TIMEOUT = 1.5
SLACK = 10.0  # for a machine under load
DEADLINE = 90.0


class DrillNodes(RedisNodes):
    """Nodes of which each calls the others from its own address, in an environment that allows drills."""

    def spawn(self, address: str) -> None:
        """Start the server of an address; what it sends must be told from what the others send."""
        self.options["bind-source-addr"] = address.rpartition(":")[0]
        super().spawn(address)

    def environment(self, **redis: Any) -> Path:
        """Write an environment file that is named as staging."""
        return self.named("staging-redis", **redis)

    def named(self, name: str, **redis: Any) -> Path:
        """Write an environment file of another name."""
        values = yaml.safe_load(super().environment(**redis).read_text()) | {"name": name}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def listener(self, address: str) -> Listener | None:
        """Return the process of a node, be it frozen or started by a drill."""
        host, _, port = address.rpartition(":")
        found = processes.survey(LocalMachine(), [int(port)]).of(int(port), [host])
        return found[0] if found else None

    def keeper_of_the_lease(self) -> str:
        """Return the primary on which the lease and its memory lie; the last that took the slot over."""
        found, slot = self.look(), key_slot("{credscale}")
        owners = [node for node in found.topology if any(low <= slot <= high for low, high in node.slots)]
        return found.name(max(owners, key=lambda node: node.epoch).id)

    def healthy(self) -> bool:
        """Tell whether all six serve."""
        return not gate(self.look(), nodes=6, replicas=1)

    def drill(self, **params: Any) -> Any:
        """Run a drill in this process and return the result of its breaking step."""
        ctx = self.context()
        redis_drill(ctx, **params)
        return next(result for result in ctx.results if result.step == "break_primary")

    @contextmanager
    def command(self, name: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
        """Start the command line; it is gone afterwards."""
        environ = os.environ | {"CREDSCALE_ARTIFACTS": str(self.folder / "artifacts"), "PYTHONPATH": str(ROOT)}
        target = ["--env", str(self.named(name)), "--in-process", "--json"]
        with subprocess.Popen(
            [sys.executable, "-m", "invoke", "redis-drill", *target, *flags], cwd=ROOT, env=environ, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def run(self, name: str, *flags: str) -> tuple[int, dict[str, Any]]:
        """Run the command line to its end; return exit code and its last line as an object."""
        with self.command(name, *flags) as process:
            out, _ = process.communicate(timeout=DEADLINE)
        assert out.strip().endswith("}"), out
        return process.returncode, json.loads(out.splitlines()[-1])

    def end(self) -> None:
        """End the processes that a drill has started as well."""
        for address in self.addresses:
            partition.remove(LocalMachine(), partition.table_of(address))
            listener = self.listener(address)
            if listener is not None:
                os.kill(listener.pid, signal.SIGKILL)
        super().end()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillNodes]:
    """Yield a cluster that every drill must leave healthy."""
    options = {"cluster-node-timeout": str(int(NODE_TIMEOUT * 1000))}
    folder = tmp_path_factory.mktemp("drill")
    found = DrillNodes(folder, password="correct-horse-battery", options=options, hosts=6)
    try:
        found.form(found.start(PRIMARIES * (1 + REPLICAS)))
        yield found
    finally:
        found.end()


def answers(output: dict[str, Any]) -> dict[str, str]:
    """Return what was seen, by question."""
    assert [row["ok"] for row in output["verdict"] if row["ok"] == "no"] == []
    return {row["question"]: row["seen"] for row in output["verdict"]}


def check_failover(nodes: DrillNodes, victim: str, output: dict[str, Any]) -> None:
    """See what every drill with a failover has to show."""
    seen = answers(output)
    assert output["new_primary"] not in ("", victim)
    assert seen[f"{victim} afterwards"] == f"replica of {output['new_primary']}"
    assert (output["lost_acknowledged_writes"], output["unread_writes"]) == (0, 0)
    assert output["acknowledged_writes"] > 0
    assert NODE_TIMEOUT * 1000 <= output["role_flip_ms"] <= (NODE_TIMEOUT + SLACK) * 1000
    assert NODE_TIMEOUT * 1000 <= output["longest_gap_ms"] <= (NODE_TIMEOUT + SLACK) * 1000
    assert nodes.healthy()
    assert victim in nodes.by_role("replica")


def test_killed_primary_is_started_again(nodes: DrillNodes) -> None:
    victim = nodes.by_role("primary")[0]
    before = nodes.client(victim).info("server")
    result = nodes.drill(primary=victim)
    check_failover(nodes, victim, result.output)
    after = nodes.client(victim).info("server")
    assert before["run_id"] != after["run_id"]
    assert before["config_file"] == after["config_file"]
    assert [change.split(" ")[0] for change in result.changes] == ["write", "kill", "start"]
    events = [mark["event"] for mark in result.output["timeline"]]
    assert events == ["asked", "killed", "flipped", "put back"]
    assert "image/png" in result._repr_mimebundle_()


def test_frozen_primary_becomes_a_replica(nodes: DrillNodes) -> None:
    victim = nodes.by_role("primary")[1]
    run = nodes.client(victim).info("server")["run_id"]
    check_failover(nodes, victim, nodes.drill(fault="freeze", primary=victim).output)
    assert nodes.client(victim).info("server")["run_id"] == run


def test_brief_freeze_and_killed_replica_change_no_role(nodes: DrillNodes) -> None:
    primaries = nodes.by_role("primary")
    brief = nodes.drill(fault="freeze-briefly", primary=primaries[0], hold=0.5).output
    assert answers(brief)["failover"] == "nobody took over"
    assert brief["role_flip_ms"] is None
    assert 450 <= brief["longest_gap_ms"] <= SLACK * 1000
    replica = nodes.drill(fault="kill-replica", primary=primaries[1], hold=2.0).output
    assert answers(replica)["failover"] == "nobody took over"
    assert replica["broken"] in nodes.by_role("replica")
    assert sorted(nodes.by_role("primary")) == sorted(primaries)
    assert nodes.healthy()


def can_filter() -> None:
    """Skip where packets cannot be filtered: no nft, or not the right to."""
    require("nft")
    done = LocalMachine().run(["sh", "-c", "PATH=$PATH:/usr/sbin nft list tables"])
    if done.code:
        pytest.skip(f"packets cannot be filtered here: {done.complaint}")


def test_primary_that_is_cut_off(nodes: DrillNodes) -> None:
    can_filter()
    victim = nodes.by_role("primary")[2]
    output = nodes.drill(fault="partition", primary=victim).output
    check_failover(nodes, victim, output)
    assert partition.table_of(victim) not in (partition.tables(LocalMachine()) or ())


def test_production_is_left_alone(nodes: DrillNodes) -> None:
    runs = {address: nodes.client(address).info("server")["run_id"] for address in nodes.addresses}
    code, answer = nodes.run("prod", "--fault", "freeze")
    assert code == 3
    assert (answer["status"], answer["changes"]) == ("refused", 0)
    assert "policy: {allow_drills: true}" in answer["error"]
    assert {address: nodes.client(address).info("server")["run_id"] for address in nodes.addresses} == runs


def break_and_signal(nodes: DrillNodes, victim: str, fault: str, number: signal.Signals) -> tuple[int, str]:
    """Start a drill on the command line and signal it as soon as the node is broken; return how it ended."""

    def broken() -> bool:
        if process.poll() is not None:
            pytest.fail(f"the drill ended before it was signalled: {process.communicate()[0]}")
        listener = nodes.listener(victim)
        return listener is None or listener.state == processes.STOPPED

    with nodes.command("staging-redis", "--fault", fault, "--primary", victim, "--hold", "60") as process:
        wait_for(broken, DEADLINE)
        process.send_signal(number)
        out, _ = process.communicate(timeout=DEADLINE)
    return process.returncode, out


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_runner_is_killed_and_the_next_drill_puts_back(nodes: DrillNodes, fault: str) -> None:
    victim = nodes.keeper_of_the_lease()
    assert break_and_signal(nodes, victim, fault, signal.SIGKILL)[0] == -signal.SIGKILL
    wait_for(lambda: nodes.keeper_of_the_lease() != victim, 20)
    code, answer = nodes.run("staging-redis", "--fault", "freeze-briefly")
    assert (code, answer["status"]) == (0, "ok"), answer
    assert nodes.healthy()
    assert victim in nodes.by_role("replica")
    assert restore_nodes(nodes.context()).status is Status.OK


def test_interrupted_drill_puts_back_at_once(nodes: DrillNodes) -> None:
    """Also while the lease cannot be reached, because it lies on the shard that is broken."""
    victim = nodes.keeper_of_the_lease()
    code, said = break_and_signal(nodes, victim, "kill", signal.SIGINT)
    assert (code, "interrupted" in said) == (1, True), said
    assert nodes.listener(victim) is not None
    wait_for(nodes.healthy, 30, every=0.2)
