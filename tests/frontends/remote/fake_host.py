"""A host as the terminal's side sees it: it answers as it was told, and keeps what it was asked."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from credscale.core.errors import UnknownTarget
from credscale.core.journal import Journal
from credscale.evidence import manifest
from credscale.evidence.keys import load_or_create_key
from credscale.frontends.front import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType
    from typing import BinaryIO

    import pytest

    from credscale.core.sections import Host

RUN = "20261123T220000Z-abcdef"
PIECE = 4  # bytes; small, so that even a small archive comes in several


class Asked(NamedTuple):
    """What a host was asked."""

    verb: str
    arguments: tuple[str, ...]
    stdin: bytes


class FakeHost:
    """A host, and the machine behind it.

    Args:
        name: how the inventory calls it.
        answers: by verb what is answered in turn, the last one from then on. An exception is raised. A stream's answer
            is a list of records, of which an exception ends it.
    """

    def __init__(self, name: str = "bastion", **answers: list[Any]) -> None:
        self.name, self.answers = name, answers
        self.asked: list[Asked] = []
        self.files: dict[str, bytes] = {}
        self.was_used = True
        self.section: Host | None = None

    def has_runs(self) -> bool:
        return self.was_used

    def call(self, verb: str, *arguments: str, stdin: bytes | BinaryIO = b"", timeout: float = 60.0) -> dict[str, Any]:
        self.asked.append(Asked(verb, arguments, stdin if isinstance(stdin, bytes) else _all_of(stdin)))
        if verb == "evidence" and verb not in self.answers:
            return {"files": self.told(self.files)}
        answer: dict[str, Any] = self._next(verb)
        return answer

    @staticmethod
    def told(files: dict[str, bytes]) -> dict[str, dict[str, str]]:
        return {name: {"sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}

    def stream(self, verb: str, *arguments: str) -> Iterator[Any]:
        self.asked.append(Asked(verb, arguments, b""))
        for record in self._next(verb):
            if isinstance(record, BaseException):
                raise record
            yield record

    def fetch(self, run: str) -> bytes:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            for name, content in self.files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return data.getvalue()

    def verbs(self) -> list[str]:
        return [asked.verb for asked in self.asked]

    def _next(self, verb: str) -> Any:
        left = self.answers[verb]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _all_of(file: BinaryIO) -> bytes:
    return b"".join(iter(lambda: file.read(PIECE), b""))


class FakeClients:
    """The connections of a run; its machines are hosts.

    Args:
        hosts: all that can be reached.
    """

    def __init__(self, *hosts: FakeHost) -> None:
        self._hosts = {host.name: host for host in hosts}
        self.opened = self.closed = 0

    def machine(self, name: str) -> FakeHost:
        if name not in self._hosts:
            raise UnknownTarget(f"no host {name!r}")
        return self._hosts[name]

    def close(self) -> None:
        self.closed += 1


def put_in_place(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *hosts: FakeHost) -> FakeClients:
    """Let a module reach these hosts and no others; returns what counts its connections."""
    clients = FakeClients(*hosts)

    def opened(*_: object) -> FakeClients:
        clients.opened += 1
        return clients

    def remote(machine: FakeHost, section: Host) -> FakeHost:
        machine.section = section
        return machine

    monkeypatch.setattr(module, "Clients", opened)
    monkeypatch.setattr(module, "RemoteHost", remote)
    return clients


def shown(*records: dict[str, Any] | BaseException) -> list[Any]:
    """Return records as the agent's ``follow`` prints them."""
    return [each if isinstance(each, BaseException) else [end, each] for end, each in enumerate(records, 1)]


def ended(**changed: Any) -> dict[str, Any]:
    """Return the last record of a run that went well, but for what is given."""
    told = {"code": 0, "status": "ok", "changes": 2, "problem": "", "signer": "", "evidence": True}
    return {"ended": told | changed}


def evidence(folder: Path, monkeypatch: pytest.MonkeyPatch, *, text: str = "") -> tuple[dict[str, bytes], str]:
    """Return the sealed evidence of a run with two changes, and the fingerprint of the key that signed it."""
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl")
    journal.append("step_started", step="move", kind="action", params={})
    for number, what in enumerate(("move chunk 1", "move chunk 2")):
        journal.append("change_started", step="move", change=number, what=what)
    journal.append("change_finished", step="move", change=0, what="move chunk 1", status="done")
    journal.append("run_finished", status="ok", text=text, changes=2)
    journal.close()
    manifest.write_manifest(folder, {})
    with monkeypatch.context() as there:
        there.setenv("CREDSCALE_KEY_DIR", str(folder.with_name("host-keys")))
        key = load_or_create_key()
        manifest.sign(folder, key)
    return {path.name: path.read_bytes() for path in folder.iterdir()}, key.fingerprint


def quiet_terminal() -> tuple[Terminal, io.StringIO]:
    """Return a terminal where nobody answers, and what it shows."""
    out = io.StringIO()
    return Terminal(Console(file=out, width=200)), out
