"""Faults that tests order from the simulated mongos by writing a JSON file."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Faults:
    """The faults file, read anew on every use; what is spent of a one-shot fault is remembered here.

    `{"lose": k}` loses k documents in the next move, `{"leave_orphans": n}` leaves n documents behind on the donor,
    `{"jumbo": n}` marks n chunks jumbo: each is done once, and again only after the file asked for another number,
    or for one round of the balancer for none. `{"abort": "reason"}` aborts every migration, `{"pause": true}` holds a
    migration before its commit, and `{"slow_move_seconds": x}` stretches each move, as long as the file says so.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._spent: dict[str, tuple[int, int]] = {}

    def setting(self, name: str) -> Any:
        """Return what the file says now, or None."""
        if self._path is None:
            return None
        try:
            return json.loads(self._path.read_text(encoding="utf-8")).get(name)
        except (FileNotFoundError, ValueError):
            # Absent, or caught while a test was writing it.
            return None

    def notice(self) -> None:
        """Look whether spent faults are still ordered; one that is not can be ordered anew."""
        for name in list(self._spent):
            self.take(name, 0)

    def take(self, name: str, most: int) -> int:
        """Spend up to `most` of a one-shot fault and return how much was spent."""
        with self._lock:
            asked = int(self.setting(name) or 0)
            ordered, spent = self._spent.get(name, (0, 0))
            if ordered != asked:
                spent = 0
            taken = max(0, min(asked - spent, most))
            self._spent[name] = (asked, spent + taken)
            return taken
