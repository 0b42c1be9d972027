"""The figure of a failover or a drill: what each write took, with the moments of the event."""

from __future__ import annotations

from typing import Any

from credscale.redis_cluster.plots import COLOURS, canvas, png

MOST_LABELS = 12
CLOSE = 0.03  # of the time shown
CLIENTS = {"direct": "direct connection", "cluster": "cluster client"}


def timeline(output: dict[str, Any]) -> dict[str, Any]:
    """Return the slowest writes over time with the marks and the longest gap, as ``image/png``.

    Args:
        output: of a step that measured; without writes there is no figure.
    """
    series = [each for each in output.get("latencies") or [] if each["t_ms"]]
    if not series:
        return {}
    figure, axes = canvas(3.4)
    for number, (client, label) in enumerate(CLIENTS.items()):
        points = [
            point for each in series if each["client"] == client
            for point in zip(each["t_ms"], each["slowest_ms"], strict=True)
        ]  # fmt: skip
        axes.scatter(
            [moment / 1000 for moment, _ in points], [taken for _, taken in points],
            s=5, color=COLOURS[number], label=f"{label}: slowest write", linewidths=0,
        )  # fmt: skip
    _longest_gap(axes, output.get("rows") or [])
    _marks(axes, output.get("timeline") or [])
    axes.set_yscale("log")
    axes.set_xlabel("seconds since the probe clients began")
    axes.set_ylabel("milliseconds until acknowledged")
    axes.legend(fontsize="x-small", frameon=False, loc="upper right")
    return png(figure, axes)


def _longest_gap(axes: Any, rows: list[dict[str, Any]]) -> None:
    ended = [row for row in rows if row.get("first_ack_after_gap_ms") is not None]
    if not ended:
        return
    worst = max(ended, key=lambda row: row["longest_gap_ms"])
    end, length = worst["first_ack_after_gap_ms"] / 1000, worst["longest_gap_ms"] / 1000
    label = f"longest gap {worst['longest_gap_ms']:.0f} ms ({worst['shard']}, {worst['client']})"
    axes.axvspan(end - length, end, color=COLOURS[4], alpha=0.4, label=label, linewidth=0)


def _marks(axes: Any, marks: list[dict[str, Any]]) -> None:
    """Draw a line for each mark, and one label for those of a place that are too close to be read apart."""
    first, last = (marks[0]["t_ms"], marks[-1]["t_ms"]) if marks else (0.0, 0.0)
    labels: list[tuple[float, str, str]] = []
    for mark in marks:
        axes.axvline(mark["t_ms"] / 1000, color="#999999", linewidth=0.7, linestyle=":")
        if labels and labels[-1][2] == mark["where"] and mark["t_ms"] - labels[-1][0] < CLOSE * (last - first):
            moment, events, where = labels.pop()
            labels.append((moment, f"{events}, {mark['event']}", where))
        else:
            labels.append((mark["t_ms"], mark["event"], mark["where"]))
    for moment, events, where in labels[:MOST_LABELS]:
        axes.annotate(
            f"{events} {where}", (moment / 1000, 0.02), xycoords=("data", "axes fraction"),
            rotation=90, fontsize=6, ha="right", va="bottom",
        )  # fmt: skip
