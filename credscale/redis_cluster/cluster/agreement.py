"""Whether the nodes see the same cluster, and where one of them does not. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.redis_cluster.cluster.nodes import by_id
from credscale.redis_cluster.cluster.slots import ranges_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import Look


@dataclass(frozen=True)
class Difference:
    """What one node sees otherwise than most do."""

    address: str
    what: str


def signature(view: Iterable[Node]) -> frozenset[tuple[str, str, str, str]]:
    """Return what all views must have in common: id, role, primary and slots of each node (§1.4).

    A node in handshake has an id of its own making, which the others never see; it is left out and judged by its flag.
    """
    return frozenset(
        (node.id, node.role, node.primary_id, ranges_text(node.slots)) for node in view if "handshake" not in node.flags
    )


def differences(found: Look) -> tuple[Difference, ...]:
    """Return how the views differ from the one that most nodes share, node by node."""
    common = signature(found.topology)
    agreed = by_id(found.topology)
    rows: list[Difference] = []
    for viewer in found.answering:
        mine, own = signature(viewer.view), by_id(viewer.view)
        ids = sorted({entry[0] for entry in mine ^ common})
        rows += [Difference(viewer.address, _how(found, each, own.get(each), agreed.get(each))) for each in ids]
    return tuple(rows)


def _how(found: Look, node_id: str, mine: Node | None, most: Node | None) -> str:
    name = found.name(node_id)
    if mine is None or "handshake" in mine.flags:
        return f"does not know {name}"
    if most is None:
        return f"knows {mine.address or node_id[:8]}, which most others do not"
    if (mine.role, mine.primary_id) != (most.role, most.primary_id):
        return f"sees {name} as {_role(found, mine)}, most as {_role(found, most)}"
    seen, expected = (ranges_text(node.slots) or "no slots" for node in (mine, most))
    return f"sees {name} with {seen}, most with {expected}"


def _role(found: Look, node: Node) -> str:
    return f"replica of {found.name(node.primary_id)}" if node.is_replica and node.primary_id else node.role
