"""An existing replica set, and a standalone, become the first shard with all their data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pymongo import MongoClient

from credscale.core.errors import RunFailed
from credscale.testing import wait_for
from runbooks.mongo_deploy import mongo_deploy
from tests.scenarios.mongo_deploy.conftest import KEY, PASSWORD, ROOT, answers
from tests.scenarios.mongo_deploy.test_build import deploy, shards_of

if TYPE_CHECKING:
    from tests.scenarios.mongo_deploy.conftest import Site

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(400)]
NAME = "shard1ReplSet"


def start_own(site: Site, address: str, *, replica_set: str, number: int) -> Path:
    """Start a mongod as its owner would, with a file of his own; return that file."""
    folder = site.folder / f"own{number}"
    (folder / "data").mkdir(parents=True)
    (folder / "key").write_text(KEY)
    (folder / "key").chmod(0o400)
    text = (
        "# our mongod\n"
        f"net:\n  port: {address.rpartition(':')[2]}   # explicit\n  bindIp: 127.0.0.1\n"
        f"storage:\n  dbPath: {folder}/data\n"
        f"systemLog:\n  destination: file\n  path: {folder}/log\n"
        f"processManagement:\n  fork: true\n  pidFilePath: {folder}/pid\n"
        f"security:\n  authorization: enabled\n  keyFile: {folder}/key\n"
    )
    text += f"replication:\n  replSetName: {replica_set}\n" if replica_set else ""
    (folder / "mongod.conf").write_text(text)
    subprocess.run([site.binaries / "mongod", "--config", str(folder / "mongod.conf")], check=True, timeout=30)
    return folder / "mongod.conf"


def fill(site: Site, addresses: list[str], *, initiate: bool) -> None:
    """Initiate the owner's set, make his administrator, give it a database."""
    client: MongoClient[dict[str, Any]]
    with MongoClient(addresses[0], directConnection=True, serverSelectionTimeoutMS=5000) as client:
        if initiate:
            members = [{"_id": n, "host": address} for n, address in enumerate(addresses)]
            client.admin.command("replSetInitiate", {"_id": NAME, "members": members})
            wait_for(lambda: client.admin.command("hello")["isWritablePrimary"])
        client.admin.command("createUser", "admin", pwd=PASSWORD, roles=["root"])
    login: dict[str, Any] = {"username": "admin", "password": PASSWORD, "directConnection": True}
    with MongoClient(addresses[0], serverSelectionTimeoutMS=5000, **login) as client:
        client.admin.command("createUser", "shop", pwd="another-password", roles=["readWrite"])
        client["credibility_prod"].command("insert", "analyses", documents=[{"_id": 1}])


def test_a_replica_set_is_restarted_one_member_at_a_time(site: Site) -> None:
    site.describe(config=3, shards=(3, 1))
    addresses = [site.address(NAME, n) for n in range(3)]
    files = [start_own(site, address, replica_set=NAME, number=n) for n, address in enumerate(addresses)]
    fill(site, addresses, initiate=True)
    pids = site.pids()
    ctx = site.context(dry_run=True)
    mongo_deploy(ctx, convert=NAME)
    ctx.clients.close()
    assert site.pids() == pids, "a plan restarts nothing"
    finished = deploy(site, convert=NAME)
    converted = finished.results[0]
    assert sorted(ctx.results[0].changes) == sorted(converted.changes)
    assert converted.changes == [
        f"restart {sorted(addresses[1:])[0]} of {NAME} with the role shardsvr",
        f"restart {sorted(addresses[1:])[1]} of {NAME} with the role shardsvr",
        f"let the primary {addresses[0]} of {NAME} step down",
        f"restart {addresses[0]} of {NAME} with the role shardsvr",
    ]
    assert "admin.shop" in converted.output["users"]
    for path in files:
        options = yaml.safe_load(path.read_text())
        assert options["sharding"] == {"clusterRole": "shardsvr"}
        assert path.read_text().startswith("# our mongod\n"), "comments stay"
        assert "sharding" not in path.with_name("mongod.conf.before-credscale").read_text()
    assert shards_of(site) == [NAME, "shard2ReplSet"], "the set with data comes first"
    assert not list((site.folder / "mongo").glob(f"{addresses[0].rpartition(':')[2]}/*")), "its files are its owner's"
    assert deploy(site, convert=NAME).changes == 0
    assert deploy(site).changes == 0


def test_killed_after_every_change_of_a_conversion(site: Site) -> None:
    path = site.describe(config=3, shards=(3,))
    addresses = [site.address(NAME, n) for n in range(3)]
    for number, address in enumerate(addresses):
        start_own(site, address, replica_set=NAME, number=number)
    fill(site, addresses, initiate=True)
    script = Path(__file__).with_name("interrupted_deploy.py")
    for _ in range(4):
        subprocess.run(
            [sys.executable, str(script), "after", str(path), NAME], cwd=ROOT, timeout=60, check=False,
            capture_output=True,
        )  # fmt: skip
        assert all(answers(address) for address in addresses)
    finished = deploy(site, convert=NAME)
    assert finished.results[0].changes == []
    assert shards_of(site) == [NAME]


def test_a_standalone_becomes_a_shard_of_three(site: Site) -> None:
    site.describe(config=3, shards=(3,))
    address = site.address(NAME)
    start_own(site, address, replica_set="", number=0)
    fill(site, [address], initiate=False)
    with pytest.raises(RunFailed, match=f"give --convert {NAME}"):
        deploy(site)
    with pytest.raises(RunFailed, match="nobody can read or write.*allow-downtime"):
        deploy(site, convert=NAME)
    finished = deploy(site, convert=NAME, allow_downtime=True)
    joined = next(result for result in finished.results if result.step == "join_members")
    assert [change.split()[1] for change in joined.changes] == [site.address(NAME, 1), site.address(NAME, 2)]
    login: dict[str, Any] = {"username": "admin", "password": PASSWORD, "directConnection": True}
    with MongoClient[dict[str, Any]](address, serverSelectionTimeoutMS=5000, **login) as client:
        members = client.admin.command("replSetGetConfig")["config"]["members"]
        assert [(each["votes"], each["priority"], each["tags"]) for each in members] == [(1, 1, {})] * 3
        assert "credibility_prod" in client.list_database_names()
    assert shards_of(site) == [NAME]
    assert deploy(site).changes == 0


def test_a_set_with_another_key_is_refused(site: Site) -> None:
    site.describe(config=3, shards=(1,))
    address = site.address(NAME)
    path = start_own(site, address, replica_set=NAME, number=0)
    fill(site, [address], initiate=True)
    key = path.with_name("key")
    key.chmod(0o600)
    key.write_text("YW5vdGhlcg==")
    with pytest.raises(RunFailed, match="does not use the key"):
        deploy(site, convert=NAME, allow_downtime=True)


def test_a_set_that_cannot_spare_a_voter_needs_consent(site: Site) -> None:
    site.describe(config=3, shards=(2,))
    addresses = [site.address(NAME, n) for n in range(2)]
    for number, address in enumerate(addresses):
        start_own(site, address, replica_set=NAME, number=number)
    fill(site, addresses, initiate=True)
    pids = site.pids()
    with pytest.raises(RunFailed, match="no voter to spare"):
        deploy(site, convert=NAME)
    assert site.pids() == pids
