"""One figure: how candidates divide documents over shards, and how many queries they send to every shard."""

from __future__ import annotations

import base64
import io
from typing import Any

from credscale.mongo.chunks.plots import COLOURS

MOST_KEYS, MOST_SHARDS = 8, 8
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++", "oo")


def candidates(output: dict[str, Any]) -> dict[str, Any]:
    """Return two panels as ``image/png``: shares of documents by shard, and shares of queries that go to all.

    Args:
        output: the output of ``advise_shard_key``; without candidates there is no figure.
    """
    found = (output.get("candidates") or [])[:MOST_KEYS]
    if not found:
        return {}
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = any(each["broadcast"] is not None for each in found)
    figure = Figure(figsize=(7.6, 1.3 + 0.5 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3 if known else 2, sharey=True)
    _shares(panels[0], found, "existing", "existing documents (%)")
    _shares(panels[1], found, "newest", "new documents (%)")
    if known:
        _broadcast(panels[2], found)
    panels[0].set_yticks(range(len(found)), [each["key"].replace(",", ",\n") for each in found], fontsize="small")
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), fontsize="small", frameon=False)
    buffer = io.BytesIO()
    # Without the date in the metadata the same data give the same bytes.
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return {"image/png": base64.b64encode(buffer.getvalue()).decode("ascii")}


def _shares(axes: Any, found: list[dict[str, Any]], name: str, label: str) -> None:
    """Draw a bar for each key, parted by shard."""
    shards = max(len(each["existing"]) for each in found)
    lefts = [0.0] * len(found)
    for shard in range(shards):
        widths = [_share(each[name], shard) for each in found]
        last = shard >= MOST_SHARDS
        axes.barh(
            range(len(found)), widths, left=lefts, height=0.6, edgecolor="white",
            color=COLOURS[shard % len(COLOURS)], hatch=HATCHES[shard % len(HATCHES)],
            label="" if last else f"shard {shard + 1}",
        )  # fmt: skip
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for row, each in enumerate(found):
        if not each[name]:
            axes.text(2, row, "not known", va="center", fontsize="small")
    _finish(axes, label)


def _share(counts: list[int] | None, shard: int) -> float:
    total = sum(counts) if counts else 0
    return 100 * counts[shard] / total if counts and total and shard < len(counts) else 0.0


def _broadcast(axes: Any, found: list[dict[str, Any]]) -> None:
    """Draw the share of queries that go to every shard."""
    shares = [100 * (each["broadcast"] or 0.0) for each in found]
    axes.barh(range(len(found)), shares, height=0.6, color="#555555")
    for row, share in enumerate(shares):
        axes.text(min(share + 2, 74), row, f"{share:.0f} %", va="center", fontsize="small",
                  color="white" if share > 72 else "black")  # fmt: skip
    _finish(axes, "queries to every shard (%)")


def _finish(axes: Any, label: str) -> None:
    axes.set_xlim(0, 100)
    axes.set_xticks((0, 25, 50, 75, 100), ("0", "", "50", "", "100"))
    axes.set_xlabel(label, fontsize="small")
    axes.tick_params(axis="x", labelsize="small")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
