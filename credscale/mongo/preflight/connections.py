"""Who is connected to routers and shards: drivers, applications, and those that go past mongos."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.phrases import listed
from credscale.mongo.cluster.facts import version_numbers
from credscale.mongo.preflight.check import Seen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.preflight.look import Look

MOST_GROUPS = 10_000
READ_MILLISECONDS = 10_000
PING_SECONDS = 60
# Servers among themselves name themselves so, mongos towards its shards too.
INTERNAL = ("NetworkInterfaceTL", "MongoDB Internal Client")
# Tools that are meant to be connected to a member itself: ours, shells, backups, monitoring.
TOOLS = (
    "credscale", "mongosh", "mongodb shell", "mongodump", "mongorestore", "mongotop", "mongostat", "pbm", "pmm",
    "mongodb_exporter", "mongodb automation agent", "mongodb monitoring module", "mongodb backup module", "datadog",
    "telegraf", "zabbix", "mongodb compass", "studio 3t", "robo 3t", "nosqlbooster", "mongoexport", "mongoimport",
    "mongodb cli", "percona", "grafana", "prometheus", "nagios", "check_mongodb", "newrelic", "dynatrace",
)  # fmt: skip
MOST_ROUTERS = 32  # asked; each that is unreachable takes its time
# The first driver that supports every feature of a server release (manual, "Compatibility" of each driver).
OLDEST_DRIVERS: dict[str, dict[tuple[int, int], tuple[int, ...]]] = {
    "PyMongo": {(4, 4): (3, 11), (5, 0): (3, 12), (6, 0): (4, 2), (7, 0): (4, 4), (8, 0): (4, 9)},
    "nodejs": {(7, 0): (5, 7), (8, 0): (6, 9)},
    "mongo-java-driver": {(4, 4): (4, 1), (5, 0): (4, 3), (6, 0): (4, 7), (7, 0): (4, 10), (8, 0): (5, 2)},
    "mongo-go-driver": {(4, 4): (1, 4), (5, 0): (1, 6), (6, 0): (1, 10), (7, 0): (1, 12), (8, 0): (1, 12)},
    "mongo-csharp-driver": {(4, 4): (2, 11), (5, 0): (2, 13), (6, 0): (2, 16), (7, 0): (2, 20), (8, 0): (2, 29)},
}


@dataclass(frozen=True)
class Clients:
    """Connections of one kind at one server.

    Args:
        address: of the server.
        is_router: whether it is a mongos.
        driver: such as PyMongo; empty where the client does not say.
        version: the driver's.
        application: as the connection string names it; empty where it does not.
        by_router: whether a mongos asks for this client.
        on_namespace: whether an operation on the collection is under way there.
        connections: how many.
    """

    address: str
    is_router: bool
    driver: str
    version: str
    application: str
    by_router: bool
    on_namespace: bool
    connections: int

    @property
    def is_internal(self) -> bool:
        """Whether it is another server of the cluster."""
        return self.driver.startswith(INTERNAL)

    @property
    def is_tool(self) -> bool:
        """Whether it is a shell, a backup, a monitor, or credscale itself."""
        return self.application.lower().startswith(TOOLS)

    @property
    def text(self) -> str:
        """Who it is, in words."""
        driver = f"{self.driver or 'an unnamed driver'} {self.version}".strip()
        return f"{self.application} ({driver})" if self.application else driver


def read(look: Look) -> dict[str, list[Clients] | Seen]:
    """Read who is connected, by address of each member of a shard and of ``MOST_ROUTERS`` routers that ping.

    Idle connections are counted in; grouped on the server, so that ten thousand of them make a short reply. A row says
    why a server was not looked at.
    """
    routers = _routers(look)[:MOST_ROUTERS]
    shards = [each.address for each in look.members if each.role == "shard" and not each.problem]
    found = look.ask_each(routers, lambda client: _groups(client, look.namespace, is_router=True))
    found |= look.ask_each(shards, lambda client: _groups(client, look.namespace, is_router=False))
    silent: dict[str, list[Clients] | Seen] = {each.address: each.silence for each in look.members if each.problem}
    return silent | {
        address: groups if isinstance(groups, Seen) else parse(address, groups, is_router=address in routers)
        for address, groups in found.items()
    }


def _routers(look: Look) -> list[str]:
    return list(dict.fromkeys([look.ctx.clients.mongo_router(), *pinging(look.router_signs)]))


def unasked(look: Look) -> int:
    """Return how many routers live that ``read`` does not ask."""
    return max(0, len(_routers(look)) - MOST_ROUTERS)


def pinging(signs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the addresses of the routers whose last sign of life is within a minute of the newest (§3.1)."""
    alive = [sign for sign in signs if "ping" in sign]
    newest = max((sign["ping"] for sign in alive), default=None)
    return [str(sign["_id"]) for sign in alive if (newest - sign["ping"]).total_seconds() < PING_SECONDS]


def _groups(client: Client, namespace: str, *, is_router: bool) -> list[dict[str, Any]]:
    options = {"allUsers": True, "idleConnections": True} | ({"localOps": True} if is_router else {})
    group = {
        "driver": "$clientMetadata.driver", "application": "$clientMetadata.application.name",
        "router": "$clientMetadata.mongos.host", "ours": {"$eq": ["$ns", namespace]},
    }  # fmt: skip
    pipeline: list[dict[str, Any]] = [
        {"$currentOp": options},
        {"$match": {"clientMetadata": {"$exists": True}}},
        {"$group": {"_id": group, "connections": {"$sum": 1}}},
        {"$limit": MOST_GROUPS},
    ]
    # The driver has waited for the server and tried twice already; one more time would only double that.
    return list(client["admin"].aggregate(pipeline, maxTimeMS=READ_MILLISECONDS))


def parse(address: str, groups: Iterable[Mapping[str, Any]], *, is_router: bool) -> list[Clients]:
    """Understand the groups of connections; what is no group, as a simulation answers, is left out."""
    found = []
    for group in groups:
        who = group.get("_id")
        if isinstance(who, dict):
            driver = who.get("driver") or {}
            found.append(
                Clients(
                    address=address,
                    is_router=is_router,
                    driver=str(driver.get("name", "")),
                    version=str(driver.get("version", "")),
                    application=str(who.get("application") or ""),
                    by_router=bool(who.get("router")),
                    on_namespace=bool(who.get("ours")),
                    connections=int(group.get("connections", 0)),
                )
            )
    return found


def judge(
    found: Mapping[str, Sequence[Clients] | Seen], server: tuple[int, ...], *, routers_left: int = 0
) -> list[Seen]:
    """Judge who is connected (reference §5 row 47, §8.2.19); what can't be known is a warning.

    Args:
        found: as ``read`` gives it.
        server: the version of the servers.
        routers_left: how many routers live that were not asked.
    """
    seen = [each for clients in found.values() if not isinstance(clients, Seen) for each in clients]
    blind = [address for address, clients in found.items() if isinstance(clients, Seen) or not clients]
    rows = [*_direct(seen), *_old(seen, server)]
    if blind:
        text = f"{len(blind)} of {len(found)} servers do not show who is connected: {listed(blind)}"
        rows.append(Seen("warn", text, "give the user inprog on every server, and look at the pools of the rest"))
    if not rows:
        kinds = sorted({each.text for each in seen if not each.is_internal})
        rows.append(
            Seen("ok", f"{len(kinds)} kinds of clients on {len(found)} servers, all by mongos: {listed(kinds)}")
        )
    if routers_left:
        text = f"{MOST_ROUTERS} routers were asked who is connected, {routers_left} more were not"
        rows.append(Seen("note", text, "look at serverStatus.connections and the drivers' versions there"))
    return rows


def _direct(seen: Iterable[Clients]) -> list[Seen]:
    """Find the applications that are connected to a shard itself: after the sharding they see a part of the data."""
    by_client: dict[str, list[Clients]] = {}
    for each in seen:
        if not (each.is_router or each.is_internal or each.by_router):
            by_client.setdefault(each.text, []).append(each)
    rows = []
    for text, places in sorted(by_client.items()):
        where = listed(sorted({place.address for place in places}))
        finding = f"{text} is connected straight to {where} ({sum(place.connections for place in places)} connections)"
        if places[0].is_tool:
            if places[0].application.lower() != "credscale":
                rows.append(Seen("note", f"{finding}; by its name it is a tool"))
            continue
        finding += ", at work on the collection" * _at_work(places)
        if not places[0].driver and not _at_work(places):
            # Probes and monitors may name nothing; applications come with a driver, which names itself.
            remedy = "see what it is; an application has to go by mongos"
            rows.append(Seen("warn", f"{finding}; it names no driver, so it may be a probe", remedy))
            continue
        remedy = (
            "point its connection string at mongos; if it only monitors, leave the check out: "
            "--skip 'drivers=REASON' (shard-migrate: --skip-checks)"
        )
        rows.append(Seen("stop", finding, remedy))
    return rows


def _at_work(places: Iterable[Clients]) -> bool:
    return any(place.on_namespace for place in places)


def _old(seen: Iterable[Clients], server: tuple[int, ...]) -> list[Seen]:
    rows = {}
    for each in seen:
        oldest = None if each.is_tool else oldest_driver(each.driver, server)
        # What is built on a driver names both: "mongo-java-driver|mongo-scala-driver", "4.1|2.9"; the first counts.
        numbers = re.search(r"\d+(\.\d+)+", each.version.split("|")[0])
        if oldest is not None and numbers is not None and version_numbers(numbers[0]) < oldest:
            wanted = ".".join(str(part) for part in oldest)
            release = ".".join(str(part) for part in server[:2])
            rows[each.text] = Seen(
                "warn",
                f"{each.text} is older than what MongoDB {release} is fully supported by",
                f"upgrade the driver to {wanted} or later",
            )
    return [rows[text] for text in sorted(rows)]


def oldest_driver(name: str, server: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the oldest driver that supports all of a server; None for a driver or server without an entry."""
    table = next((table for known, table in OLDEST_DRIVERS.items() if name.startswith(known)), {})
    release = server[:2] if len(server) > 1 else (0, 0)
    return max((oldest for release_of, oldest in table.items() if release_of <= release), default=None)
