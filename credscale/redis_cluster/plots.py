"""Small static figures for notebooks and reports."""

from __future__ import annotations

import base64
import io
from typing import Any

from credscale.redis_cluster.cluster.slots import SLOTS, parse_ranges

# Okabe and Ito's colours, which people with colour-blindness tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MEGABYTE = 1 << 20
MOST_BARS = 60


def slot_map(output: dict[str, Any]) -> dict[str, Any]:
    """Return the slots of each primary on a line from 0 to 16383, as ``image/png``.

    Args:
        output: the output of ``redis_status``; without primaries that own slots there is no figure.
    """
    rows = [row for row in output.get("rows") or [] if row.get("role") == "primary" and row.get("ranges")][:MOST_BARS]
    if not rows:
        return {}
    figure, axes = canvas(0.9 + 0.28 * len(rows))
    for number, row in enumerate(rows):
        spans = [(first, last - first + 1) for first, last in parse_ranges(row["ranges"])]
        axes.broken_barh(spans, (number - 0.3, 0.6), color=COLOURS[number % len(COLOURS)])
    axes.set_yticks(range(len(rows)), [f"{row['node']} ({row['slots']:,})" for row in rows])
    axes.set_xlim(0, SLOTS)
    axes.set_xlabel("hash slot")
    axes.invert_yaxis()
    return png(figure, axes)


def memory_bars(output: dict[str, Any]) -> dict[str, Any]:
    """Return the used memory of each node against its maxmemory, as ``image/png``.

    Args:
        output: the output of ``redis_memory``; without nodes there is no figure.
    """
    rows = [row for row in output.get("rows") or [] if row.get("used") is not None][:MOST_BARS]
    if not rows:
        return {}
    figure, axes = canvas(0.9 + 0.28 * len(rows))
    places = range(len(rows))
    limits = [(row.get("max_bytes") or 0) / MEGABYTE for row in rows]
    used = [row["used"] / MEGABYTE for row in rows]
    axes.barh(places, limits, color="#DDDDDD", height=0.7, label="maxmemory")
    bars = axes.barh(places, used, color=COLOURS[0], height=0.4, label="used")
    axes.bar_label(bars, labels=[f"{row['full']}" for row in rows], padding=3, fontsize="small")
    axes.set_yticks(places, [f"{row['node']} {row['role']}" for row in rows])
    axes.set_xlabel("memory (MB)")
    axes.margins(x=0.12)
    axes.legend(fontsize="small", frameon=False)
    axes.invert_yaxis()
    return png(figure, axes)


def canvas(height: float) -> tuple[Any, Any]:
    """Return a new figure and its axes.

    Args:
        height: in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def png(figure: Any, axes: Any) -> dict[str, Any]:
    """Return a figure as ``image/png``."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    # Without the date in the metadata the same data give the same bytes.
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return {"image/png": base64.b64encode(buffer.getvalue()).decode("ascii")}
