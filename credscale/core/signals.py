"""Moments in which Ctrl-C and a polite kill must wait."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

POLITE = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted(*, drop: bool = False) -> Iterator[None]:
    """Hold back interrupts while the block runs; signals reach only the main thread, so others need nothing.

    Args:
        drop: forget what came meanwhile, because the block is the end that was asked for; otherwise it is raised
            as KeyboardInterrupt after the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in POLITE}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came and not drop:
        raise KeyboardInterrupt
