"""Small static figures for notebooks and reports."""

from __future__ import annotations

import base64
import io
from typing import Any

# Okabe and Ito's colours, which people with colour-blindness tell apart; the dash pattern tells them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ("-", "--", ":", "-.")
MEGABYTE = 1 << 20


def distribution(output: dict[str, Any]) -> dict[str, Any]:
    """Return two panels over time, chunks and megabytes by shard, as ``image/png``.

    Args:
        output: the output of ``monitor_distribution``; without a series there is no figure.
    """
    series = output.get("series") or []
    if not series:
        return {}
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _panel(left, series, "chunks", 1, "chunks")
    _panel(right, series, "bytes", MEGABYTE, "data (MB)")
    left.legend(fontsize="small", frameon=False)
    return _png(figure)


def status(output: dict[str, Any]) -> dict[str, Any]:
    """Return a bar of chunks for each shard, as ``image/png``.

    Args:
        output: the output of ``cluster_status``; without shards there is no figure.
    """
    rows = [row for row in output.get("rows") or [] if row.get("chunks") is not None]
    if not rows:
        return {}
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 0.8 + 0.3 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars = axes.barh([row["shard"] for row in rows], [row["chunks"] for row in rows], color=COLOURS[0], height=0.6)
    axes.bar_label(bars, labels=[f"{row['chunks']:,}" for row in rows], padding=3, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("chunks")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return _png(figure)


def _png(figure: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    # Without the date in the metadata the same data give the same bytes.
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return {"image/png": base64.b64encode(buffer.getvalue()).decode("ascii")}


def _panel(axes: Any, series: list[dict[str, Any]], name: str, unit: int, label: str) -> None:
    times = [point["t"] for point in series]
    shards = sorted({shard for point in series for shard in point[name]})
    for number, shard in enumerate(shards):
        values = [point[name].get(shard, 0) / unit for point in series]
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
        axes.plot(times, values, label=shard, marker="o" if len(times) < 3 else "", markersize=4, **style)
    axes.set_xlabel("seconds")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
