"""From hosts to a cluster: from nothing, from anything half-built, and never over what is somebody else's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from credscale.core.errors import RunFailed
from credscale.mongo.deploy.steps import initiate_replica_sets, start_members, write_config_files
from credscale.testing import wait_for
from runbooks.mongo_deploy import mongo_deploy
from tests.scenarios.mongo_deploy.conftest import KEY, PASSWORD, ROOT, answers

if TYPE_CHECKING:
    from credscale.core.context import Context
    from tests.scenarios.mongo_deploy.conftest import Site

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(400)]


def deploy(site: Site, **params: Any) -> Context:
    """Run the runbook once; return its context, closed."""
    ctx = site.context()
    try:
        mongo_deploy(ctx, timeout=30.0, **params)
    finally:
        ctx.clients.close()
    return ctx


def shards_of(site: Site) -> list[str]:
    """Return the shards in the order in which they were added."""
    uri = (site.folder / "uri").read_text()
    with MongoClient[dict[str, Any]](uri, directConnection=True, serverSelectionTimeoutMS=5000) as client:
        return [shard["_id"] for shard in client.admin.command("listShards")["shards"]]


def kill_at(site: Site, address: str) -> None:
    """Kill the process at an address and wait for its end."""
    os.kill(site.pids()[int(address.rpartition(":")[2])], signal.SIGKILL)
    wait_for(lambda: not answers(address))


def test_from_nothing_and_again(site: Site) -> None:
    """3 config servers, two shards of three, two routers; the second run finds nothing to do."""
    site.describe(routers=2)
    plan = site.context(dry_run=True)
    mongo_deploy(plan)
    plan.clients.close()
    assert not (site.folder / "mongo").exists(), "a plan changes nothing"
    first = deploy(site)
    assert first.changes == plan.changes == 11 + 9 + 3 + 2 + 3 + 2
    assert shards_of(site) == ["shard1ReplSet", "shard2ReplSet"]
    pids = site.pids()
    again = deploy(site)
    assert again.changes == 0
    assert site.pids() == pids
    told = json.dumps([result.to_json() for result in (*plan.results, *first.results)])
    assert KEY not in told
    assert PASSWORD not in told


def test_files_that_hold_secrets_are_closed(site: Site) -> None:
    site.describe(config=3, shards=(1,))
    ctx = site.context()
    write_config_files(ctx)
    ctx.clients.close()
    keys = list((site.folder / "mongo").glob("*/key"))
    assert len(keys) == 5
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o400}
    assert not [path for path in (site.folder / "mongo").glob("*/*") if path.name.count(".") > 1], "no temporary files"
    for path in (site.folder / "mongo").glob("*/mongo?.conf"):
        assert KEY not in path.read_text()


def test_killed_after_every_change_in_turn(site: Site) -> None:
    """Each attempt dies one change further on; together they make every change exactly once."""
    path = site.describe(config=3, shards=(2, 1))
    script = Path(__file__).with_name("interrupted_deploy.py")
    done: Counter[str] = Counter()
    for _ in range(40):
        run = subprocess.run(
            [sys.executable, str(script), "after", str(path)],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert run.returncode in (0, -signal.SIGKILL), run.stdout + run.stderr
        done.update(run.stdout.splitlines())
        if run.returncode == 0:
            break
    assert set(done.values()) == {1}, done
    assert sum(done.values()) == 7 + 6 + 3 + 1 + 3 + 2
    assert deploy(site).changes == 0
    assert shards_of(site) == ["shard1ReplSet", "shard2ReplSet"]


def test_a_half_built_cluster_is_completed(site: Site) -> None:
    """Members up and initiated; one was killed since, and its data must be the same afterwards."""
    site.describe(config=3, shards=(3,))
    ctx = site.context()
    write_config_files(ctx)
    start_members(ctx, timeout=30.0)
    initiate_replica_sets(ctx, timeout=30.0)
    ctx.clients.close()
    member = site.address("shard1ReplSet", 1)
    identity = (site.folder / "mongo" / member.rpartition(":")[2] / "data/local.json").read_text()
    kill_at(site, member)
    finished = deploy(site)
    texts = [change for result in finished.results for change in result.changes]
    assert [text for text in texts if "write" in text or "initiate" in text] == []
    assert f"start shard1ReplSet member {member} on this machine" in texts
    assert (site.folder / "mongo" / member.rpartition(":")[2] / "data/local.json").read_text() == identity


def test_the_shard_with_data_is_added_first(site: Site) -> None:
    site.describe(config=3, shards=(1, 1))
    ctx = site.context()
    write_config_files(ctx)
    start_members(ctx, timeout=30.0)
    initiate_replica_sets(ctx, timeout=30.0)
    ctx.clients.close()
    local = json.loads(
        next((site.folder / "mongo").glob(f"{_port(site, 'shard2ReplSet')}/data/local.json")).read_text()
    )
    kept = site.home / f"{local['set']}.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"databases": {"credibility_prod": "here"}}))
    finished = deploy(site)
    assert shards_of(site) == ["shard2ReplSet", "shard1ReplSet"]
    added = next(result for result in finished.results if result.step == "add_shards")
    assert added.changes[0] == "add shard2ReplSet as a shard, which holds credibility_prod"


def _port(site: Site, replica_set: str) -> str:
    return site.address(replica_set).rpartition(":")[2]


def test_the_same_database_on_two_shards_is_refused_before_either_is_added(site: Site) -> None:
    site.describe(config=3, shards=(1, 1))
    deploy_until(site, "create_admin_user")
    for name in ("shard1ReplSet", "shard2ReplSet"):
        local = json.loads((site.folder / "mongo" / _port(site, name) / "data/local.json").read_text())
        kept = site.home / f"{local['set']}.json"
        kept.write_text(json.dumps(json.loads(kept.read_text()) | {"databases": {"same": "here"}}))
    with pytest.raises(RunFailed, match="the database same is on shard1ReplSet and on shard2ReplSet"):
        deploy(site)
    assert shards_of(site) == []


def deploy_until(site: Site, last: str) -> None:
    """Run the steps of a deployment up to one of them."""
    from credscale.mongo.deploy import steps

    ctx = site.context()
    names = ["write_config_files", "start_members", "initiate_replica_sets", "start_routers", "create_admin_user"]
    for name in names[: names.index(last) + 1]:
        getattr(steps, name)(ctx)
    ctx.clients.close()


def test_a_member_of_another_replica_set_is_refused_and_left_alone(site: Site) -> None:
    site.describe(config=3, shards=(1, 1))
    deploy_until(site, "initiate_replica_sets")
    pids = site.pids()
    foreign = site.address("shard1ReplSet")
    site.inventory["mongo"]["shards"] = [{"replica_set": "otherReplSet", "members": [foreign]}]
    site.write()
    with pytest.raises(
        RunFailed, match="belongs to the replica set 'shard1ReplSet', expected 'otherReplSet'"
    ) as caught:
        deploy(site)
    assert "Nothing was changed" in str(caught.value)
    assert site.pids() == pids


def test_a_shard_of_another_cluster_is_refused(site: Site) -> None:
    site.describe(config=3, shards=(1,))
    deploy_until(site, "create_admin_user")
    local = json.loads((site.folder / "mongo" / _port(site, "shard1ReplSet") / "data/local.json").read_text())
    kept = site.home / f"{local['set']}.json"
    identity = {"_id": "shardIdentity", "shardName": "x", "clusterId": "theirs"}
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"identity": identity}))
    with pytest.raises(RunFailed, match="was a shard of another cluster"):
        deploy(site)
    assert shards_of(site) == []


def test_users_that_are_not_ours_end_the_exception(site: Site) -> None:
    site.describe(config=3, shards=(1,))
    deploy(site)
    site.inventory["mongo"]["deploy"]["admin"]["user"] = "somebody"
    site.write()
    with pytest.raises(RunFailed, match="mongo.deploy.admin"):
        deploy(site)


def test_a_changed_configuration_is_written_and_its_process_left_running(site: Site) -> None:
    site.describe(config=3, shards=(1,))
    deploy(site)
    pids = site.pids()
    site.inventory["mongo"]["deploy"]["cache_gb"] = 0.5
    site.write()
    changed = deploy(site)
    result = next(each for each in changed.results if each.step == "write_config_files")
    assert len(result.changes) == 4  # routers have no cache
    assert "takes effect when it is restarted" in result.changes[0]
    assert {"+      cacheSizeGB: 0.5"} & {row["change"] for row in result.output["rows"]}
    assert site.pids() == pids


def test_a_lab_without_authorization_has_to_say_so(site: Site) -> None:
    site.describe(config=1, shards=(1, 1), security="none", admin=None)
    del site.inventory["mongo"]["deploy"]["admin"]
    site.write()
    (site.folder / "uri").write_text(f"mongodb://{site.inventory['mongo']['routers'][0]}/")
    assert deploy(site).changes == 4 + 3 + 3 + 1 + 2
    assert shards_of(site) == ["shard1ReplSet", "shard2ReplSet"]


def test_a_program_that_does_not_start_shows_the_end_of_its_log(site: Site) -> None:
    site.describe(config=3, shards=(1,))
    ctx = site.context()
    write_config_files(ctx)
    ctx.clients.close()
    member = site.folder / "mongo" / _port(site, "shard1ReplSet")
    (member / "data").rmdir()
    with pytest.raises(RunFailed, match="did not start on this machine: .*exit code 1"):
        deploy(site)
