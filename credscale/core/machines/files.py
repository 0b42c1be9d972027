"""Files as they shall be on a machine: what differs, shown but for secrets, and written only where it does."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from credscale.core.machines.machine import Machine

NEW_FILE = "new file"


@dataclass(frozen=True)
class File:
    """A file as it shall be.

    Args:
        path: absolute.
        data: its contents.
        mode: its permission bits.
        secret: whether nobody may see what changes in it.
        owner: user that shall own it, by name or as ``uid:gid``; empty for whoever writes it.
    """

    path: str
    data: bytes
    mode: int
    secret: bool = False
    owner: str = ""


def change_of(file: File, present: bytes | None, mode: int | None, owner: str = "") -> list[str]:
    """Return what changes in a file, line by line, empty when nothing does; of a secret file not one line is shown.

    Args:
        file: as it shall be.
        present: what it holds now; None when it is not there.
        mode: its permission bits now.
        owner: who owns it now, in the way of ``file.owner``; without meaning where that is empty.
    """
    if present is None:
        return [NEW_FILE, *([] if file.secret else [f"+{line}" for line in file.data.decode().splitlines()])]
    changes = [] if mode == file.mode else [f"mode {mode or 0:o} -> {file.mode:o}"]
    if file.owner and owner != file.owner:
        changes.append(f"owner {owner} -> {file.owner}")
    if present == file.data:
        return changes
    if file.secret:
        return [*changes, "contents differ"]
    before, after = present.decode("utf-8", "replace").splitlines(), file.data.decode().splitlines()
    lines = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
    return changes + [line for line in lines if not line.startswith("@@")]


def changes_on(machine: Machine, files: Iterable[File]) -> dict[str, list[str]]:
    """Return what changes on a machine, as ``change_of`` has it, by path; files that are as they shall be are left out.

    Raises:
        PreconditionFailed: a file cannot be read.
        ConnectFailed: the machine cannot be reached.
    """
    found = {file.path: _change_on(machine, file) for file in files}
    return {path: lines for path, lines in found.items() if lines}


def _change_on(machine: Machine, file: File) -> list[str]:
    present = machine.read_with_mode(file.path)
    if present is None:
        return change_of(file, None, None)
    return change_of(file, *present, machine.owner(file.path, numbers=":" in file.owner) if file.owner else "")


def write_changed(machine: Machine, files: Iterable[File]) -> None:
    """Write those files that are missing or different, each atomically.

    Raises:
        PreconditionFailed: a file cannot be read or written.
        ConnectFailed: the machine cannot be reached.
    """
    wanted = tuple(files)
    changes = changes_on(machine, wanted)
    for file in wanted:
        if file.path in changes:
            machine.write(file.path, file.data, mode=file.mode, owner=file.owner)
