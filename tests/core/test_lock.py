"""One run of an environment on this machine: a second one is told who runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from credscale.core.errors import Refused
from credscale.core.lock import lock_file

if TYPE_CHECKING:
    from pathlib import Path


def test_the_file_lock_names_its_holder(tmp_path: Path) -> None:
    held = lock_file(tmp_path / "locks/prod.lock")
    with pytest.raises(Refused, match=f"pid {os.getpid()}"):
        lock_file(tmp_path / "locks/prod.lock")
    held.release()
    lock_file(tmp_path / "locks/prod.lock").release()
