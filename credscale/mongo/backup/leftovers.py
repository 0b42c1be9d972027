"""Unfinished dumps of killed runs: copies of customers' data that nobody will ever use, and room that is needed.

A folder counts only by its form: a name such as ours, no manifest, and nothing in it but what a dump makes.
"""

from __future__ import annotations

import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from credscale.mongo.backup.dump_files import DUMP, PARTIAL
from credscale.mongo.backup.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK_BYTES = 512  # st_blocks counts these whatever the file system's own blocks are
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
_FILE = re.compile(r"(.+\.bson|.+\.hashes|.+\.metadata\.json|prelude\.json)(\.gz)?(\.partial)?")


@dataclass(frozen=True)
class Leftover:
    """An unfinished backup's folder, and the bytes that its removal frees."""

    folder: Path
    bytes: int


def new_folder(root: Path) -> Path:
    """Return the name of a new backup's folder: when it was begun, and what tells two of one second apart."""
    return root / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def is_backup_name(name: str) -> bool:
    """Tell whether a folder's name is one that ``new_folder`` gives."""
    return _NAME.fullmatch(name) is not None


def leftovers(root: Path) -> list[Leftover]:
    """Return the unfinished backups of a collection, oldest first.

    Whoever asks to remove them holds the cluster's lease: otherwise a dump under way looks the same.

    Args:
        root: the folder that holds the collection's backups.
    """
    if not root.is_dir():
        return []
    return [Leftover(folder, _freed(folder)) for folder in sorted(root.iterdir()) if _is_unfinished(folder)]


def remove(folder: Path) -> None:
    """Remove one unfinished backup; one that is finished by now, or was never ours, stays."""
    if _is_unfinished(folder):
        shutil.rmtree(folder)


def _is_unfinished(folder: Path) -> bool:
    ours = is_backup_name(folder.name) and folder.is_dir() and not folder.is_symlink()
    return ours and not (folder / MANIFEST).exists() and all(_is_a_dumps(path) for path in _parts(folder))


def _parts(folder: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    for path in folder.rglob("*"):
        yield path, path.relative_to(folder).parts


def _is_a_dumps(found: tuple[Path, tuple[str, ...]]) -> bool:
    """Tell whether a dump makes such a path: its folder, the database's in it, and the files in these."""
    path, parts = found
    if path.is_symlink():
        return False
    if parts == (f"{MANIFEST}.partial",):
        return path.is_file()
    if parts[0] not in (DUMP, PARTIAL):
        return False
    if path.is_dir():
        return len(parts) <= 2
    return 1 < len(parts) <= 3 and path.is_file() and _FILE.fullmatch(parts[-1]) is not None


def _freed(folder: Path) -> int:
    return sum(path.stat().st_blocks * BLOCK_BYTES for path in folder.rglob("*") if path.is_file())
