"""A stand-in for mongod and mongos: the administrative commands of a deployment, with the replies of the real ones.

python fake_mongo.py mongod|mongos --version | --config FILE

What a replica set agrees on lies in one file for all its members, below $FAKE_MONGO_HOME; whether a member belongs to
it lies in its own dbPath. It checks what real servers check: modes of key files, equal keys, who may do what before the
first user exists, which configurations can be initiated, which sets can become shards.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import signal
import socketserver
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from bson import ObjectId

from credscale.lab.simulated import wire

HOME = Path(os.environ["FAKE_MONGO_HOME"])
VERSION = os.environ.get("FAKE_MONGO_VERSION", "7.0.14")
WIRE = {"4.4": 9, "5.0": 13, "6.0": 17, "7.0": 21, "8.0": 25}
SYNC_SECONDS = 0.3
OPEN = {"hello", "isMaster", "ismaster", "ping", "saslStart", "saslContinue", "endSessions"}
EXCEPTION = {"createUser", "grantRolesToUser", "replSetInitiate", "replSetReconfig", "replSetGetStatus", "addShard"}
ITERATIONS = 4096


class Refusal(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


@contextmanager
def shared(name: str) -> Any:
    """Hold a JSON file of the whole home and write it back."""
    path = HOME / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(path.read_text()) if path.exists() else {}
        yield state
        path.with_suffix(".new").write_text(json.dumps(state, default=str))
        path.with_suffix(".new").replace(path)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Node:
    def __init__(self, program: str, config: str) -> None:
        self.program, self.config = program, config
        self.options = yaml.safe_load(Path(config).read_text())
        self.port = self.options["net"]["port"]
        self.role = self.options.get("sharding", {}).get("clusterRole")
        self.set_option = self.options.get("replication", {}).get("replSetName")
        self.key = self._key()
        if program == "mongod":
            self.data = Path(self.options["storage"]["dbPath"])
            if not self.data.is_dir():
                raise SystemExit(f"Data directory {self.data} not found")
        self.logins: dict[int, Any] = {}

    def _key(self) -> str:
        path = self.options.get("security", {}).get("keyFile")
        if path is None:
            return ""
        if Path(path).stat().st_mode & 0o077:
            raise SystemExit(f"permissions on {path} are too open")
        return "".join(Path(path).read_text().split())

    # ---- what is kept

    def local(self) -> dict[str, Any]:
        path = self.data / "local.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def store(self) -> str:
        """Name the shared state of this node: its replica set's, the cluster's, or its own."""
        if self.program == "mongos":
            return self._config_store()
        return str(self.local().get("set", f"alone-{self.port}"))

    def _config_store(self) -> str:
        name, _, hosts = self.options["sharding"]["configDB"].partition("/")
        for host in hosts.split(","):
            with shared(f"ports/{host.rpartition(':')[2]}") as port:
                if port.get("data") and (Path(port["data"]) / "local.json").exists():
                    local = json.loads((Path(port["data"]) / "local.json").read_text())
                    if local["name"] == name:
                        return str(local["set"])
        return ""

    def register(self) -> None:
        with shared(f"ports/{self.port}") as port:
            port.update(
                pid=os.getpid(), key=self.key, role=self.role, set=self.set_option, program=self.program,
                data=str(getattr(self, "data", "")),
            )  # fmt: skip

    # ---- replica sets

    def primary_of(self, state: dict[str, Any]) -> str:
        """Return who is primary, electing somebody where a majority is there."""
        members = state["config"]["members"]
        up = [m["host"] for m in members if m.get("votes", 1) and self._is_up(m["host"])]
        if state.get("primary") not in up:
            voters = [m for m in members if m.get("votes", 1)]
            able = [host for host in up if not next(m for m in members if m["host"] == host).get("arbiterOnly")]
            state["primary"] = able[0] if able and len(up) > len(voters) // 2 else ""
        return str(state["primary"])

    def _is_up(self, host: str) -> bool:
        path = HOME / f"ports/{host.rpartition(':')[2]}.json"
        return path.exists() and alive(json.loads(path.read_text())["pid"])

    def me(self, state: dict[str, Any]) -> dict[str, Any]:
        return next(m for m in state["config"]["members"] if m["host"].rpartition(":")[2] == str(self.port))

    def state_of(self, member: dict[str, Any], state: dict[str, Any]) -> str:
        if not self._is_up(member["host"]):
            return "(not reachable/healthy)"
        if member.get("arbiterOnly"):
            return "ARBITER"
        if time.time() - member["since"] < SYNC_SECONDS:
            return "STARTUP2"
        return "PRIMARY" if member["host"] == self.primary_of(state) else "SECONDARY"

    # ---- commands

    def handle(self, command: dict[str, Any], peer: Any) -> dict[str, Any]:
        name = next(iter(command))
        try:
            self._authorize(name, peer)
            answer = getattr(self, f"do_{name}", None)
            if answer is None:
                raise Refusal(59, f"no such command: '{name}'")
            return {**answer(command, peer), "ok": 1.0}
        except Refusal as refusal:
            return {"ok": 0.0, "errmsg": refusal.text, "code": refusal.code}

    def _authorize(self, name: str, peer: Any) -> None:
        if not self.key or name in OPEN or getattr(peer, "user", None):
            return
        with shared(self.store()) as state:
            nobody = not state.get("users")
        if nobody and name in EXCEPTION and peer.address.startswith("127."):
            return
        raise Refusal(13, f"command {name} requires authentication")

    def do_hello(self, _command: Any, _peer: Any) -> dict[str, Any]:
        told: dict[str, Any] = {
            "maxBsonObjectSize": 16777216, "maxMessageSizeBytes": 48000000, "maxWriteBatchSize": 100000,
            "localTime": datetime.now(UTC), "minWireVersion": 0, "maxWireVersion": WIRE[VERSION[:3]], "readOnly": False,
            "saslSupportedMechs": ["SCRAM-SHA-256"], "logicalSessionTimeoutMinutes": 30,
        }  # fmt: skip
        if self.program == "mongos":
            return {"isWritablePrimary": True, "msg": "isdbgrid", **told}
        if not self.set_option:
            return {"isWritablePrimary": True, **told}
        told |= {"configsvr": 2} if self.role == "configsvr" else {}
        if not self.local():
            return {"isWritablePrimary": False, "secondary": False, "isreplicaset": True, **told}
        with shared(self.store()) as state:
            mine = self.state_of(self.me(state), state)
            members = state["config"]["members"]
            told |= {"setName": state["config"]["_id"], "hosts": [m["host"] for m in members if m.get("priority", 1)]}
            told |= {"me": self.me(state)["host"], "isWritablePrimary": mine == "PRIMARY"}
            told |= {"secondary": mine == "SECONDARY"}
            primary = self.primary_of(state)
            return told | ({"primary": primary} if primary else {})

    do_isMaster = do_ismaster = do_hello  # noqa: N815 - named as the commands are

    def do_ping(self, _command: Any, _peer: Any) -> dict[str, Any]:
        return {}

    do_endSessions = do_ping  # noqa: N815

    def do_getCmdLineOpts(self, _command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        program = str(Path(os.environ["FAKE_MONGO_BIN"]) / self.program)
        return {"argv": [program, "--config", self.config], "parsed": self.options | {"config": self.config}}

    def do_serverStatus(self, _command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        return {"pid": os.getpid(), "process": self.program, "version": VERSION}

    def do_getParameter(self, _command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        return {"featureCompatibilityVersion": {"version": VERSION[:3]}}

    def do_replSetGetConfig(self, _command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        self._need_set()
        with shared(self.store()) as state:
            members = [{k: v for k, v in m.items() if k != "since"} for m in state["config"]["members"]]
            return {"config": state["config"] | {"members": members}}

    def _need_set(self) -> None:
        if not self.set_option:
            raise Refusal(76, "not running with --replSet")
        if not self.local():
            raise Refusal(94, "no replset config has been received")

    def do_replSetGetStatus(self, _command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        self._need_set()
        with shared(self.store()) as state:
            now = datetime.now(UTC)
            members = []
            for each in state["config"]["members"]:
                text = self.state_of(each, state)
                synced = text in ("PRIMARY", "SECONDARY")
                when = now if synced else datetime.fromtimestamp(0, UTC) + timedelta(0)
                members.append({"_id": each["_id"], "name": each["host"], "stateStr": text, "optimeDate": when})
            mine = self.state_of(self.me(state), state)
            return {"set": state["config"]["_id"], "myState": 1 if mine == "PRIMARY" else 2, "members": members}

    def do_replSetInitiate(self, command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        if not self.set_option:
            raise Refusal(76, "This node was not started with replication enabled.")
        if self.local():
            raise Refusal(23, "already initialized")
        config = command["replSetInitiate"]
        if config["_id"] != self.set_option:
            raise Refusal(93, f"set name {config['_id']}, but command line reports {self.set_option}; rejecting")
        if bool(config.get("configsvr")) != (self.role == "configsvr"):
            raise Refusal(93, "Nodes started with the --configsvr flag must have configsvr:true in their config")
        identity = str(ObjectId())
        places = [self._peer_place(member["host"]) for member in config["members"]]
        with shared(f"alone-{self.port}") as alone:
            databases = alone.get("databases", {})
            users = alone.get("users", {})
        now = time.time()
        with shared(identity) as state:
            members = [{"votes": 1, "priority": 1, "tags": {}, **each, "since": now} for each in config["members"]]
            state.update(
                config={**config, "version": 1, "members": members}, databases=databases, users=users,
                primary=config["members"][0]["host"],
            )  # fmt: skip
            if self.role == "configsvr":
                state.update(cluster=str(ObjectId()), shards=[])
        for place in places:
            self._make_member(place, config["_id"], identity)
        return {}

    def _peer_place(self, host: str) -> dict[str, Any]:
        """Check a proposed member as the quorum check does."""
        if not self._is_up(host):
            raise Refusal(74, "replSetInitiate quorum check failed because not all proposed set members responded "
                          f"affirmatively: {host} failed with Error connecting")  # fmt: skip
        place = json.loads((HOME / f"ports/{host.rpartition(':')[2]}.json").read_text())
        if place["key"] != self.key:
            raise Refusal(74, f"replSetInitiate quorum check failed: {host} failed with Authentication failed.")
        if place["set"] != self.set_option or place["role"] != self.role:
            raise Refusal(93, f"Our set name of {self.set_option} does not match {place['set']} of {host}")
        local = Path(place["data"]) / "local.json"
        if local.exists():
            raise Refusal(74, f"{host} failed with member is already in a replica set")
        alone = HOME / f"alone-{host.rpartition(':')[2]}.json"
        if (
            str(self.port) != host.rpartition(":")[2]
            and alone.exists()
            and json.loads(alone.read_text()).get("databases")
        ):
            raise Refusal(110, f"'{host}' has data already, cannot initiate set.")
        return place

    def _make_member(self, place: dict[str, Any], name: str, identity: str) -> None:
        (Path(place["data"]) / "local.json").write_text(json.dumps({"name": name, "set": identity}))

    def do_replSetReconfig(self, command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        self._need_primary()
        config = command["replSetReconfig"]
        with shared(self.store()) as state:
            old = {m["host"]: m for m in state["config"]["members"]}
            if config["version"] <= state["config"]["version"]:
                raise Refusal(103, "version must be greater")
            voters = [sum(m.get("votes", 1) for m in members) for members in (old.values(), config["members"])]
            if abs(voters[0] - voters[1]) > 1:
                raise Refusal(103, "Non force replica set reconfig can only add or remove at most 1 voting member.")
        new = [m["host"] for m in config["members"] if m["host"] not in old]
        places = [self._peer_place(host) for host in new]
        identity = self.store()
        with shared(identity) as state:
            members = [{**m, "since": old.get(m["host"], {}).get("since", time.time())} for m in config["members"]]
            state["config"] = {**config, "members": members}
        for place in places:
            self._make_member(place, config["_id"], identity)
        return {}

    def _need_primary(self) -> None:
        self._need_set()
        with shared(self.store()) as state:
            if self.state_of(self.me(state), state) != "PRIMARY":
                raise Refusal(10107, "not primary")

    def do_replSetStepDown(self, _command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        self._need_primary()
        with shared(self.store()) as state:
            mine = self.me(state)["host"]
            others = [m["host"] for m in state["config"]["members"] if m["host"] != mine and self._is_up(m["host"])]
            if not others:
                raise Refusal(262, "No electable secondaries caught up")
            state["primary"] = others[0]
        return {}

    # ---- users

    def do_createUser(self, command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        if self.program == "mongod" and self.set_option:
            self._need_primary()
        with shared(self.store()) as state:
            users = state.setdefault("users", {})
            if command["createUser"] in users:
                raise Refusal(51003, f'User "{command["createUser"]}@admin" already exists')
            salt = secrets.token_bytes(16)
            salted = hashlib.pbkdf2_hmac("sha256", command["pwd"].encode(), salt, ITERATIONS)
            client_key = hmac.digest(salted, b"Client Key", "sha256")
            users[command["createUser"]] = {
                "salt": base64.b64encode(salt).decode(), "stored": hashlib.sha256(client_key).hexdigest(),
                "server": hmac.digest(salted, b"Server Key", "sha256").hex(), "roles": command["roles"],
            }  # fmt: skip
        return {}

    def do_usersInfo(self, _command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        with shared(self.store()) as state:
            return {"users": [{"user": name, "db": "admin"} for name in state.get("users", {})]}

    def do_saslStart(self, command: Any, peer: Any) -> dict[str, Any]:  # noqa: N802
        first = bytes(command["payload"]).decode()
        bare = first.partition(",,")[2]
        fields = dict(part.split("=", 1) for part in bare.split(","))
        with shared(self.store()) as state:
            user = state.get("users", {}).get(fields["n"])
        if user is None:
            raise Refusal(18, "Authentication failed.")
        nonce = fields["r"] + secrets.token_hex(12)
        server_first = f"r={nonce},s={user['salt']},i={ITERATIONS}"
        peer.sasl = (fields["n"], user, bare, server_first)
        return {"conversationId": 1, "done": False, "payload": server_first.encode()}

    def do_saslContinue(self, command: Any, peer: Any) -> dict[str, Any]:  # noqa: N802
        final = bytes(command["payload"]).decode()
        if not final:
            return {"conversationId": 1, "done": True, "payload": b""}
        name, user, bare, server_first = peer.sasl
        without, _, proof = final.rpartition(",p=")
        message = ",".join([bare, server_first, without]).encode()
        signature = hmac.digest(bytes.fromhex(user["stored"]), message, "sha256")
        client_key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
        if hashlib.sha256(client_key).hexdigest() != user["stored"]:
            raise Refusal(18, "Authentication failed.")
        peer.user = name
        verifier = base64.b64encode(hmac.digest(bytes.fromhex(user["server"]), message, "sha256")).decode()
        return {"conversationId": 1, "done": True, "payload": f"v={verifier}".encode()}

    # ---- databases and shards

    def do_listDatabases(self, _command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        with shared(self.store()) as state:
            names = [*state.get("databases", {}), "admin", "config", "local"]
        return {"databases": [{"name": name} for name in names]}

    def do_insert(self, command: Any, _peer: Any) -> dict[str, Any]:
        with shared(self.store()) as state:
            state.setdefault("databases", {})[command["$db"]] = "here"
        return {"n": len(command.get("documents", []))}

    def do_find(self, command: Any, _peer: Any) -> dict[str, Any]:
        with shared(self.store()) as state:
            found = []
            if command["find"] == "version" and "cluster" in state:
                found = [{"_id": 1, "clusterId": state["cluster"]}]
            if command["find"] == "system.version" and "identity" in state:
                found = [state["identity"]]
        return {"cursor": {"id": 0, "ns": f"{command['$db']}.{command['find']}", "firstBatch": found}}

    def do_listShards(self, _command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        with shared(self.store()) as state:
            return {"shards": state["shards"]}

    def do_getDefaultRWConcern(self, _command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        with shared(self.store()) as state:
            own = state.get("write_concern")
        implicit = {"defaultWriteConcern": {"w": "majority", "wtimeout": 0}, "defaultWriteConcernSource": "implicit"}
        return implicit if own is None else {"defaultWriteConcern": own, "defaultWriteConcernSource": "global"}

    def do_setDefaultRWConcern(self, command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        with shared(self.store()) as state:
            state["write_concern"] = command["defaultWriteConcern"]
        return {}

    def do_addShard(self, command: Any, _peer: Any) -> dict[str, Any]:  # noqa: N802
        name, _, hosts = command["addShard"].partition("/")
        place = json.loads((HOME / f"ports/{hosts.split(',')[0].rpartition(':')[2]}.json").read_text())
        local = Path(place["data"]) / "local.json"
        if not local.exists():
            raise Refusal(96, "host did not return a set name; is the replica set still initializing?")
        told = json.loads(local.read_text())
        if told["name"] != name:
            raise Refusal(96, f"the supplied set {name} does not match the actual set name {told['name']}")
        if place["key"] != self.key:
            raise Refusal(96, "failed to run command when attempting to add shard: Authentication failed.")
        for host in hosts.split(","):
            member = json.loads((HOME / f"ports/{host.rpartition(':')[2]}.json").read_text())
            if member["role"] != "shardsvr":
                raise Refusal(50876, "Cannot run addShard on a node started without --shardsvr")
        with shared(told["set"]) as shard:
            databases = dict(shard.get("databases", {}))
        with shared(self.store()) as state:
            if any(each["_id"] == name for each in state["shards"]):
                return {"shardAdded": name}
            known = state.setdefault("databases", {})
            for each in databases:
                if each in known:
                    raise Refusal(96, f"can't add shard '{name}' because a local database '{each}' exists in another")
            known.update(dict.fromkeys(databases, name))
            state["shards"].append({"_id": name, "host": command["addShard"], "state": 1})
            cluster = state["cluster"]
        with shared(told["set"]) as shard:
            shard["identity"] = {"_id": "shardIdentity", "shardName": name, "clusterId": cluster}
        return {"shardAdded": name}


class Server(wire.Server):
    """Listen where the configuration says."""

    def __init__(self, host: str, port: int, handler: Any) -> None:
        socketserver.ThreadingTCPServer.__init__(self, (host, port), wire._Connection)
        self.handler = handler
        self.numbers = __import__("itertools").count(1)


def serve(node: Node, ready: int) -> None:
    if node.program == "mongos":
        while not node._config_store():
            time.sleep(0.1)
    servers = [Server(host, node.port, node.handle) for host in node.options["net"]["bindIp"].split(",")]
    node.register()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    if ready >= 0:
        os.write(ready, b"1")
        os.close(ready)
    threading.Event().wait()


def daemon(node: Node) -> None:
    """Leave the terminal as mongod does with fork: the parent ends once the child listens, with its exit code."""
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        os._exit(0 if os.read(read, 1) else 1)
    os.setsid()
    if os.fork():
        os._exit(0)
    log = os.open(node.options["systemLog"]["path"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    Path(node.options["processManagement"]["pidFilePath"]).write_text(f"{os.getpid()}\n")
    serve(node, write)


if __name__ == "__main__":
    if sys.argv[2] == "--version":
        print(f"{'db' if sys.argv[1] == 'mongod' else 'mongos'} version v{VERSION}")
        sys.exit(0)
    started = Node(sys.argv[1], sys.argv[sys.argv.index("--config") + 1])
    if started.options.get("processManagement", {}).get("fork"):
        daemon(started)
    else:
        serve(started, -1)
