"""Cutting a node off: a table of our own in the packet filter of its machine (nftables), which is removed as a whole.

Dropped is what goes to and comes from the node's client port and bus port, and what it sends to and receives from those
of its peers: a node holds bus connections of both kinds, and while one kind lives nobody takes it for failed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.core.phrases import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.core.machines import Machine

PREFIX = "credscale_drill_"
PROGRAM = "nft"
_PLACES = "PATH=$PATH:/usr/sbin:/sbin; export PATH; "
_RUN = f'{_PLACES}exec {PROGRAM} "$@"'


@dataclass(frozen=True)
class End:
    """One end of a connection: an IP address and the two ports that a node listens at."""

    ip: str
    port: int
    bus_port: int


@dataclass(frozen=True)
class Cut:
    """What is to be cut.

    Args:
        table: our name for it.
        node: the node.
        peers: all other nodes.
        alone: whether no other node of the cluster is on its machine; otherwise only what bears its address is dropped.
    """

    table: str
    node: End
    peers: tuple[End, ...]
    alone: bool


def table_of(address: str) -> str:
    """Return the name of the table that cuts a node off."""
    return PREFIX + re.sub(r"[^a-z0-9]", "_", address.lower())


def rules(cut: Cut) -> str:
    """Return the table as nft reads it; loading it is all or nothing."""
    own = f"{{ {cut.node.port}, {cut.node.bus_port} }}"
    at_me, from_me = ("", "") if cut.alone else (f"{_ip(cut.node, 'daddr')} ", f"{_ip(cut.node, 'saddr')} ")
    inward, outward = [f"{at_me}tcp dport {own} drop"], [f"{from_me}tcp sport {own} drop"]
    for peer in cut.peers:
        ports = f"{{ {peer.port}, {peer.bus_port} }}"
        inward.append(f"{at_me}{_ip(peer, 'saddr')} tcp sport {ports} drop")
        outward.append(f"{from_me}{_ip(peer, 'daddr')} tcp dport {ports} drop")
    chains = [_chain("inward", "input", inward), _chain("outward", "output", outward)]
    return "\n".join([f"table inet {cut.table} {{", *chains, "}", ""])


def _ip(end: End, field: str) -> str:
    return f"{'ip6' if ':' in end.ip else 'ip'} {field} {end.ip}"


def _chain(name: str, hook: str, lines: Sequence[str]) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f"  chain {name} {{\n    type filter hook {hook} priority -10; policy accept;\n{body}\n  }}"


def tables(machine: Machine) -> frozenset[str] | None:
    """Return our tables on a machine; None where nft is absent or may not be used, so that there can be none."""
    done = machine.run(["sh", "-c", _RUN, "sh", "list", "tables"])
    if done.code:
        return None
    return frozenset(re.findall(rf"\b{PREFIX}\w+", done.text))


def refuse_unless_possible(machine: Machine, cut: Cut, *, address: str, source: str, neighbours: Sequence[str]) -> None:
    """Refuse to cut a node off where that cannot be done, or not without hitting others.

    Args:
        machine: of the node.
        cut: what is to be cut.
        address: of the node, for messages.
        source: its ``bind-source-addr``: from which address it calls others; empty for none.
        neighbours: addresses of the other nodes on its machine.

    Raises:
        PreconditionFailed: says why.
    """
    shared = any(peer.ip == cut.node.ip for peer in cut.peers)
    if neighbours and (shared or source != cut.node.ip):
        raise PreconditionFailed(
            f"{address} cannot be cut off alone: {listed(neighbours)} run on {machine.name} as well, and what it sends "
            "cannot be told from what they send. Nothing was changed. Give each node of a machine an IP address of its "
            f"own and bind-source-addr (7.0 and later; here {cut.node.ip}), or drill with --fault freeze"
        )
    done = machine.run(["sh", "-c", _RUN, "sh", "--check", "-f", "-"], stdin=rules(cut).encode())
    if done.code:
        raise PreconditionFailed(
            f"{machine.name} does not let us filter packets, so {address} cannot be cut off: {done.complaint}. Nothing "
            "was changed. It takes the program nft (package nftables) and root (sudo: true of the host)"
        )


def add(machine: Machine, cut: Cut) -> None:
    """Cut the node off.

    Raises:
        PreconditionFailed: nft refused; then nothing of it stands.
    """
    done = machine.run(["sh", "-c", _RUN, "sh", "-f", "-"], stdin=rules(cut).encode())
    if done.code:
        raise PreconditionFailed(f"{machine.name}: nft refused the table {cut.table}: {done.complaint}")


def remove(machine: Machine, table: str) -> None:
    """Remove a table of ours, and nothing else.

    Raises:
        VerificationFailed: it is still there.
    """
    done = machine.run(["sh", "-c", _RUN, "sh", "delete", "table", "inet", table])
    left = tables(machine)
    if table in left if left is not None else done.code:
        raise VerificationFailed(
            f"{machine.name}: the table {table} of the packet filter could not be removed: {done.complaint}. Remove it "
            f"as root: nft delete table inet {table}"
        )
