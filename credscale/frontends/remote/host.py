"""A host that runs are sent to: its Python, the agent there, and what the agent can do."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, PreconditionFailed, UnknownTarget
from credscale.frontends.remote import agent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from credscale.core.machines import Machine
    from credscale.core.sections import Host

OLDEST = (3, 11)
SILENCE_SECONDS = 10.0  # five of the agent's signs of life
CALL_SECONDS = 60.0
SEND_SECONDS = 1800.0
USUAL = ("python3.14", "python3.13", "python3.12", "python3.11", "python3")
_NO_PYTHON = 46
_FIND = (
    'printf "%s\\n" "$HOME"; for each in "$@"; do command -v -- "$each" >/dev/null 2>&1 || continue; '
    f'"$each" -c "import sys; sys.exit(sys.version_info < {OLDEST})" 2>/dev/null && '
    '{ command -v -- "$each"; exit 0; }; seen="$seen $each is $("$each" -V 2>&1);"; done; '
    f'printf "%s" "$seen" >&2; exit {_NO_PYTHON}'
)
_RUNS = 'case $1 in "~"*) set -- "$HOME${1#?}";; esac; [ -d "$1/runs" ]'
_OURS = '[ ! -e "$1" ] || [ -O "$1" ]'


class RemoteHost:
    """A host with the agent on it.

    Args:
        machine: the way to it.
        host: its section in the inventory.
    """

    def __init__(self, machine: Machine, host: Host) -> None:
        self.machine, self._host = machine, host
        self._command: list[str] = []
        self._folder = host.folder

    @property
    def name(self) -> str:
        """How the inventory calls it."""
        return self.machine.name

    def has_runs(self) -> bool:
        """Tell whether a run was ever sent there, without leaving anything on a host that has none."""
        return self.machine.run(["sh", "-c", _RUNS, "sh", self._folder]).code == 0

    def call(
        self, verb: str, *arguments: str, stdin: bytes | BinaryIO = b"", timeout: float = CALL_SECONDS
    ) -> dict[str, Any]:
        """Let the agent do something and return the last line of its answer.

        Args:
            verb: a function of ``agent``.
            arguments: its own, after the folder.
            stdin: what it reads; the way for secrets.
            timeout: seconds.

        Raises:
            UnknownTarget: it is about a run that is not there.
            PreconditionFailed: it failed; carries what it said.
            ConnectFailed: the host cannot be reached.
        """
        lines = self._run(verb, *arguments, stdin=stdin, timeout=timeout).splitlines()
        answer: dict[str, Any] = self._parsed(lines[-1] if lines else b"")
        return answer

    def fetch(self, run: str) -> bytes:
        """Return the run's evidence as a tar archive."""
        return self._run("fetch", run, timeout=SEND_SECONDS)

    def stream(self, verb: str, *arguments: str) -> Iterator[Any]:
        """Yield the lines of an agent's answer, parsed, as they come; silence counts as a broken connection.

        Raises:
            PreconditionFailed: the agent failed, or something ended it; carries what it said.
            ConnectFailed: as for ``call``.
        """
        buffer, begun = b"", False
        for data in self.machine.stream(self._words(verb, *arguments), silence=SILENCE_SECONDS):
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                if begun:
                    yield self._parsed(line)
                begun = begun or line == agent.MARK.encode()  # what a shell printed at login came before

    def _parsed(self, line: bytes) -> Any:
        try:
            return json.loads(line)
        except ValueError:
            raise PreconditionFailed(f"{self.name}: its answer cannot be read: {line[:200]!r}") from None

    def _run(self, verb: str, *arguments: str, stdin: bytes | BinaryIO = b"", timeout: float) -> bytes:
        done = self.machine.run(self._words(verb, *arguments), stdin=stdin, timeout=timeout)
        told = done.stderr.decode("utf-8", "replace").strip()
        if done.code == agent.GONE:
            raise UnknownTarget(f"{self.name}: {told}")
        if done.code:
            words = told[-2000:] or f"something ended it (exit code {done.code})"
            raise PreconditionFailed(f"{self.name}: {verb} failed: {words}")
        return done.stdout.partition(f"{agent.MARK}\n".encode())[2]

    def _words(self, verb: str, *arguments: str) -> list[str]:
        if not self._command:
            self._command = self._find()
        return [*self._command, verb, self._folder, *arguments]

    def _find(self) -> list[str]:
        """Find a Python there and put the agent beside it; return the command that calls it."""
        own = f"python{'.'.join(platform.python_version_tuple()[:2])}"
        wanted = [self._host.python] if self._host.python else [own, *USUAL]
        found = self.machine.run(["sh", "-c", _FIND, "sh", *wanted])
        lines = found.text.splitlines()
        if found.code == _NO_PYTHON:
            told = found.stderr.decode("utf-8", "replace").strip(" ;") or f"no {' or '.join(wanted)} on PATH"
            raise PreconditionFailed(
                f"{self.name} has no Python {OLDEST[0]}.{OLDEST[1]} or newer: {told}. Nothing was changed. Install one "
                f"there and name it in the inventory: hosts.{self.name}.python"
            )
        if found.code or len(lines) < 2:
            raise PreconditionFailed(f"{self.name}: its Python cannot be found: {found.complaint}. Nothing was changed")
        home, python = lines[-2:]
        if self._folder == "~" or self._folder.startswith("~/"):
            self._folder = home.rstrip("/") + self._folder[1:]
        if self.machine.run(["sh", "-c", _OURS, "sh", self._folder]).code:
            raise PreconditionFailed(
                f"{self.name}: {self._folder} belongs to another user, who could put there what would run as this one. "
                f"Nothing was changed. Name another folder in the inventory: hosts.{self.name}.folder"
            )
        source = Path(agent.__file__).read_bytes()
        path = f"{self._folder}/agent-{hashlib.sha256(source).hexdigest()[:16]}.py"
        if self.machine.read(path) != source:
            self.machine.make_folder(self._folder, mode=0o700)
            self.machine.write(path, source, mode=0o600)
        return [python, path]


def is_lost(error: Exception) -> bool:
    """Tell whether a connection broke or went silent, so that trying again may help; a wrong key stays wrong."""
    return isinstance(error, ConnectFailed) and error.why not in ("auth", "host key")
