"""mongodump on another machine of the inventory: the documents stay there, their hashes come here.

The connection string goes over the program's standard input, so that it is on no disk and in no process list there.
``SHA256SUMS`` is written last beside the dump: a folder without one was never finished.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.clients import LONG_SECONDS
from credscale.core.errors import CredscaleError, EnvironmentInvalid, PreconditionFailed, VerificationFailed
from credscale.mongo.backup.engine import Tool, parse_version, require_fit
from credscale.mongo.backup.leftovers import is_backup_name
from credscale.mongo.backup.mongodump import Access, arguments, config_text, disk_full, tail
from credscale.mongo.backup.reading import Job, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.client_session import ClientSession

    from credscale.core.context import Context
    from credscale.core.machines import Machine
    from credscale.mongo.backup.manifest import Manifest

KIND = "mongodump"
SUMS = "SHA256SUMS"
_PLACE = re.compile(r"(?P<host>[^:/\s]+):(?P<root>/\S*[^/\s])")
_COUNT = re.compile(r"done dumping .*\((\d+) documents?\)")
# sshd may give a program a socket as its standard input, which /dev/stdin can't open; behind cat it is a pipe
_PIPED = 'cat | "$@"'
_FREE = 'df -Pk -- "$1"'
_LIST = (
    'cd -- "$1" && find . -type f ! -name SHA256SUMS -exec sync {} + && '
    "find . -type f ! -name SHA256SUMS -exec sha256sum -- {} + && "
    "find . -type f ! -name SHA256SUMS -exec wc -c {} \\;"
)
_UNFINISHED = '[ -d "$1" ] || exit 0; cd -- "$1"; for d in */; do [ -e "$d/SHA256SUMS" ] || printf "%s\\n" "$d"; done'
_SUM = re.compile(r"([0-9a-f]{64}) [ *](\./.+)")
_SIZE = re.compile(r"\s*(\d+) (\./.+)")


@dataclass(frozen=True)
class Place:
    """A folder on a machine of the inventory; as a parameter ``host:/folder``."""

    host: str
    root: str

    @property
    def text(self) -> str:
        """The place as the parameter writes it."""
        return f"{self.host}:{self.root}"


def parse_place(text: str) -> Place:
    """Understand ``host:/folder``.

    Raises:
        EnvironmentInvalid: it is not written so.
    """
    found = _PLACE.fullmatch(text)
    if found is None:
        raise EnvironmentInvalid(
            f"backup_host must be a host of the section hosts and an absolute folder there, such as "
            f"backup1:/srv/backups; not {text!r}"
        )
    return Place(found["host"], found["root"])


def find_remote(machine: Machine) -> Tool:
    """Return the machine's mongodump.

    Raises:
        PreconditionFailed: it is not there, or too old.
    """
    path = machine.find_program("mongodump")
    tool = None if path is None else Tool(path, parse_version(machine.run([path, "--version"]).text))
    return require_fit(tool, f"on the PATH of {machine.name}")


def read_remote(
    job: Job,
    session: ClientSession,
    *,
    machine: Machine,
    tool: Tool,
    access: Access,
    place: Place,
    parent: str,
    size: int,
) -> Reading:
    """Let mongodump write a dump on another machine, and keep the hashes of the live documents here.

    Args:
        job: what to read; its folder's name is the dump's there too.
        session: a causally consistent session, to see at least what it has seen.
        machine: the other machine.
        tool: its mongodump.
        access: how that reaches the cluster.
        place: as the operator named it.
        parent: the folder there for this collection's backups.
        size: the collection's bytes.

    Raises:
        PreconditionFailed: too little room there.
        CredscaleError: mongodump failed; its unfinished dump is removed.
    """
    from credscale.mongo.backup.baseline import write_hashes
    from credscale.mongo.backup.manifest import now

    folder, namespace = f"{parent}/{job.folder.name}", job.collection.full_name
    machine.make_folder(parent, mode=0o700)
    _require_room(machine, parent, size)
    machine.make_folder(folder, mode=0o700)
    began = now()
    try:
        found, output = _dump_there(machine, tool, access, namespace, folder)
        survey = write_hashes(job, session)
        sums = "".join(f"{each['sha256']}  ./{name}\n" for name, each in found.items())
        machine.write(f"{folder}/{SUMS}", sums.encode(), mode=0o600)
    except BaseException:
        with suppress(CredscaleError):  # a machine out of reach: the next run finds the folder and removes it
            remove_there(machine, folder)
        raise
    external = _known(place, folder, found, _documents(output), survey.digest.documents)
    # What was written after mongodump's first read may be in the hashes only, so the dump counts as of its beginning.
    external |= {"time": began}
    remark = "mongodump on the other machine and the pass for the hashes here read one after the other"
    return Reading(KIND, f"{tool.text} on {machine.name}", survey, remark=remark, external=external)


def _dump_there(
    machine: Machine, tool: Tool, access: Access, namespace: str, folder: str
) -> tuple[dict[str, dict[str, Any]], str]:
    """Run mongodump; return the files it made and what it said."""
    command = arguments(tool.path, "/dev/stdin", namespace, folder)
    done = machine.run(["sh", "-c", _PIPED, "sh", *command], stdin=config_text(access), timeout=LONG_SECONDS)
    output = (done.stderr + done.stdout).decode(errors="replace")
    if done.code:
        raise _failure(machine, folder, done.code, output, access)
    found = listing(machine, folder)
    if not any(name.endswith(".bson") for name in found):
        raise CredscaleError(f"mongodump on {machine.name} ended well, but left no .bson file in {folder}. Look there")
    return found, output


def _known(
    place: Place, folder: str, found: Mapping[str, Mapping[str, Any]], dumped: int | None, live: int
) -> dict[str, Any]:
    unread = "whether the dump there holds the same documents as the hashes here: it was not read document by document"
    open_ends = [unread]
    if dumped is not None and dumped != live:
        open_ends.append(
            f"why mongodump counted {dumped} documents and the pass for the hashes {live}: writers, or not"
        )
    known = {"files": {name: dict(each) for name, each in found.items()}, "documents": dumped}
    return {"kind": KIND, "id": place.text, "folder": folder, "known": known, "not_checked": open_ends}


def listing(machine: Machine, folder: str) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of each file of a dump on a machine, after they are on its disk."""
    return parse_listing(machine.must_run(["sh", "-c", _LIST, "sh", folder], timeout=LONG_SECONDS).text)


def parse_listing(text: str) -> dict[str, dict[str, Any]]:
    """Understand the lines of sha256sum and ``wc -c``."""
    found: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        if matched := _SUM.fullmatch(line):
            found[matched[2].removeprefix("./")] = {"sha256": matched[1]}
        elif (matched := _SIZE.fullmatch(line)) and matched[2].removeprefix("./") in found:
            found[matched[2].removeprefix("./")]["bytes"] = int(matched[1])
    return dict(sorted(found.items()))


def verify_there(ctx: Context, manifest: Manifest) -> None:
    """Read every file of a dump on another machine again and compare it with the manifest; nothing for other backups.

    Raises:
        VerificationFailed: names the files that differ.
    """
    if manifest.external is None or manifest.external["kind"] != KIND:
        return
    place, folder = parse_place(str(manifest.external["id"])), str(manifest.external["folder"])
    machine, expected = ctx.clients.machine(place.host), manifest.external["known"]["files"]
    seen = listing(machine, folder) if machine.exists(folder) else {}
    differing = sorted(name for name in expected.keys() | seen.keys() if expected.get(name) != seen.get(name))
    if differing:
        raise VerificationFailed(
            f"on {place.host} these files in {folder} are not what was written: {', '.join(differing)}. The backup "
            "can't be trusted; take a new one.",
            {"files": differing},
        )


def unfinished_there(machine: Machine, parent: str) -> list[str]:
    """Return the folders that killed runs left on a machine, oldest first.

    Whoever asks to remove them holds the cluster's lease: otherwise a dump under way looks the same.
    """
    listed = machine.must_run(["sh", "-c", _UNFINISHED, "sh", parent]).text.splitlines()
    names = sorted(line.rstrip("/") for line in listed)
    return [f"{parent}/{name}" for name in names if is_backup_name(name)]


def remove_there(machine: Machine, folder: str) -> None:
    """Remove an unfinished dump on a machine."""
    machine.must_run(["rm", "-rf", "--", folder])


def _require_room(machine: Machine, folder: str, size: int) -> None:
    wanted, free = size + size // 10, parse_free(machine.must_run(["sh", "-c", _FREE, "sh", folder]).text)
    if free < wanted:
        raise PreconditionFailed(
            f"The backup in {folder} on {machine.name} needs {wanted} bytes ({size} of data and a tenth more), but "
            f"only {free} are free. Nothing was written. Free space there or name another folder"
        )


def parse_free(text: str) -> int:
    """Return the free bytes that ``df -Pk`` shows, in its fourth column."""
    return int(text.splitlines()[-1].split()[3]) * 1024


def _documents(output: str) -> int | None:
    """Return how many documents mongodump says it wrote; None where it does not."""
    found = _COUNT.search(output)
    return int(found[1]) if found else None


def _failure(machine: Machine, folder: str, code: int, output: str, access: Access) -> CredscaleError:
    if disk_full(output) is not None:
        return PreconditionFailed(
            f"The disk of {machine.name}:{folder} is full. The unfinished files were removed. Finished backups are "
            "never removed: free space there, or name another folder, then run again"
        )
    return CredscaleError(f"mongodump on {machine.name} ended with exit code {code}: {tail(output, access)}")
