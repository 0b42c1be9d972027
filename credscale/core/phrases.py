"""Parts of sentences that every room says alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def listed(items: Iterable[str], most: int = 5, between: str = ", ") -> str:
    """Return the first items as a part of a sentence, with ``and N more`` behind them.

    Args:
        items: names, or parts of sentences.
        most: how many are told.
        between: what stands between two; parts of sentences take ``"; "``.
    """
    told = list(items)
    more = f" and {len(told) - most} more" if len(told) > most else ""
    return between.join(told[:most]) + ("" if between == ", " or not more else ";") + more
