"""Clients of simulated nodes, with what goes wrong at them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError

from credscale.core.errors import WaitTimeout
from credscale.redis_cluster.cluster.slots import ranges_of
from credscale.redis_cluster.cluster.views import Look
from credscale.redis_cluster.deploy.forming import form
from credscale.redis_cluster.deploy.plan import ADD_SLOTS, MEET, REPLICATE, SET_EPOCH, Move, Wanted
from tests.redis_cluster.deploy.simulated import Servers
from tests.redis_cluster.fakes import nodes_text

if TYPE_CHECKING:
    from collections.abc import Callable

Words = tuple[Any, ...]
HOSTS = ["10.0.0.1", "10.0.0.2", "10.0.0.3"] * 2


class Client:
    """The client of one simulated node, as far as moves need it."""

    def __init__(self, nodes: Nodes, address: str) -> None:
        self.nodes, self.address = nodes, address
        self.queue: list[Words] = []

    def pipeline(self, *, transaction: bool) -> Client:
        assert not transaction
        return self

    def execute_command(self, *words: Any) -> None:
        self.queue.append(words)

    def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        if self.address in self.nodes.dead:
            raise RedisConnectionError("Error 111 connecting to it. Connection refused.")
        self.nodes.sent += [(self.address, *words) for words in self.queue]
        return [self.nodes.refusals.get(words[:2]) or self._answer(words) for words in self.queue]

    def _answer(self, words: Words) -> Any:
        servers, me = self.nodes.servers, self.nodes.servers.all[self.address]
        match words[:2]:
            case ("CLUSTER", "NODES"):
                return nodes_text(next(node.view for node in servers.look().nodes if node.address == self.address))
            case ("CLUSTER", "SET-CONFIG-EPOCH"):
                servers.make(Move(SET_EPOCH, self.address, epoch=words[2]))
            case ("CLUSTER", "ADDSLOTSRANGE"):
                servers.make(Move(ADD_SLOTS, self.address, slots=ranges_of(zip(words[2::2], words[3::2], strict=True))))
            case ("CLUSTER", "ADDSLOTS"):
                servers.make(Move(ADD_SLOTS, self.address, slots=ranges_of((slot, slot) for slot in words[2:])))
            case ("CLUSTER", "MEET"):
                servers.make(Move(MEET, self.address, peers=(f"{words[2]}:{words[3]}",)))
            case ("CLUSTER", "REPLICATE"):
                primary = next(each.address for each in servers.all.values() if each.id == words[2])
                servers.make(Move(REPLICATE, self.address, primary=primary))
            case ("CLUSTER", "LINKS"):
                shown = me.others if len(self.nodes.commands("PUBLISH")) > self.nodes.missed else set()
                peers = [servers.all[each].id for each in shown]
                return [["direction", way, "node", peer] for peer in peers for way in ("to", "from")]
            case _:
                assert words == ("PUBLISH", "credscale:knock", "")
                assert me.others
        return "OK"


class Nodes:
    """Simulated nodes with what goes wrong at them."""

    def __init__(self, version: str = "7.0.15") -> None:
        self.servers, self.version = Servers(HOSTS), version
        self.sent: list[Words] = []
        self.dead: set[str] = set()
        self.missed = 0  # messages that do not reach the others
        self.refusals: dict[Words, Exception] = {}
        self.notes: list[str] = []
        self.texts: list[str] = []
        self.last = Look(())

    def connect(self, address: str, _timeout: float) -> Any:
        return Client(self, address)

    def look(self) -> Look:
        """Return what they say: the first hears of roles by meeting again, and links show with a message."""
        words = [each[1:3] for each in self.sent]
        roles = ("CLUSTER", "REPLICATE") not in words[-5:]
        found = []
        for node in self.servers.look().nodes:
            told = dataclasses.replace(node, info={**node.info, "redis_version": self.version})
            if not self.commands("PUBLISH"):
                told = dataclasses.replace(told, links=())
            if not roles and not found:
                view = [
                    dataclasses.replace(each, flags=("master",), primary_id="") if each.is_replica else each
                    for each in told.view
                ]
                told = dataclasses.replace(told, view=tuple(view))
            gone = dataclasses.replace(node, view=(), error="nothing listens at its port")
            found.append(gone if node.address in self.dead else told)
        return Look(tuple(found))

    def apply(self, what: str, func: Callable[..., Any], /, *args: Any) -> Any:
        self.texts.append(what)
        return func(*args)

    def form(self) -> int:
        """Make the cluster; return how many moves that took."""

        def wait(what: str, probe: Callable[[], tuple[bool, str]], timeout: float) -> None:
            self.servers.gossip()
            reached, seen = probe()
            if not reached:
                raise WaitTimeout(f"{what}: {seen} ({timeout})")

        wanted = Wanted(self.servers.addresses, 1)
        made, self.last = form(wanted, self.connect, self.look, self.apply, wait, self.notes.append, timeout=1)
        return made

    def commands(self, *words: Any) -> list[Words]:
        return [each for each in self.sent if each[1 : 1 + len(words)] == words]
