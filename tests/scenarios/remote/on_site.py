"""A checkout of its own and a host behind a real sshd: what the scenarios of ``--on`` share."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import yaml

from credscale.frontends.catalogue import ROOT
from credscale.testing import wait_for
from tests.scenarios.remote.terminals import DEADLINE, Command
from tests.scenarios.sshd import Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VARIABLE = "CREDSCALE_TEST_SECRET"
REHEARSED = Path(__file__).with_name("rehearsed")
LINES = ["one", "two", "three"]
# The host's Python. A virtual environment has the packages of this machine at once, because installing them takes long
# and is tried by a test of its own; a verb of the agent begins when there is no file hold-VERB.
_PYTHON = """#!/bin/bash
here={folder} verb="$2"
[ "$1 $2" = "-m venv" ] && verb=venv
[ -e "$here/hold-$verb" ] && touch "$here/at-$verb"
while [ -e "$here/hold-$verb" ]; do sleep 0.05; done
[ "$verb" = venv ] && mkdir "$3" && exec ln -s {packages}/* "$3"
exec -a "$0" {python} "$@"
"""


def make_checkout(folder: Path) -> Path:
    """Copy the checkout that the tests run in, with a runbook whose steps wait for gates."""
    for name in ("credscale", "runbooks", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "environments"))
    for name in ("tasks.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for path in REHEARSED.glob("*.py"):
        shutil.copy(path, folder / "runbooks" / path.name)
    return folder


def processes(text: str) -> list[int]:
    """Return the processes, of whomever, whose command line names a text; never this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if text.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def kill(pids: Sequence[int]) -> None:
    """Kill processes as a power cut would."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Site:
    """One host, the checkouts of its operators, and what goes on between them.

    Args:
        folder: of everything; made here.
        bare: whether the host has but a Python, so that its first run has to install everything.
    """

    def __init__(self, folder: Path, *, bare: bool = False) -> None:
        self.folder, self.home, self.checkout = folder, folder / "hosthome", folder / "checkout"
        self.home.mkdir(parents=True)
        make_checkout(self.checkout)
        self.python = self._quick_python() if not bare else None
        self.sshd = Sshd(folder / "sshd", settings=[self.variables()])
        self.sshd.accept()
        self.secret = f"correct-horse-{token_hex(8)}"  # nobody else's, because all processes are searched for it
        self.commands: list[Command] = []
        self._count = 0
        build = self.command("notebooks.build")
        assert build.end() == 0, build.shown

    def _quick_python(self) -> str:
        path = self.home / "python"
        values = {"folder": self.home, "packages": sys.prefix, "python": Path(sys.executable).resolve()}
        path.write_text(_PYTHON.format(**{name: shlex.quote(str(value)) for name, value in values.items()}))
        path.chmod(0o755)
        return str(path)

    @contextmanager
    def holding(self, verb: str) -> Iterator[None]:
        """Wait until the host begins something, and hold it back while the block runs; ``hold`` was called before."""
        wait_for((self.home / f"at-{verb}").exists, DEADLINE)
        yield
        (self.home / f"hold-{verb}").unlink()

    def hold(self, *verbs: str) -> None:
        """Hold back what the host shall begin next: verbs of the agent, or ``venv``."""
        for verb in verbs:
            (self.home / f"at-{verb}").unlink(missing_ok=True)
            (self.home / f"hold-{verb}").touch()

    def other_checkout(self) -> Path:
        """Return the checkout of another operator at another machine."""
        other = self.checkout.with_name("other")
        return other if other.exists() else make_checkout(other)

    def variables(self, **more: str) -> str:
        """Return the line of sshd's configuration with the host's environment: its registry has nothing."""
        there = {"HOME": str(self.home), "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_NO_INDEX": "1"} | more
        return "SetEnv " + " ".join(f'"{name}={value}"' for name, value in there.items())

    @property
    def base(self) -> Path:
        """The host's folder of credscale."""
        return self.home / ".credscale"

    def environment(self, checkout: Path, **more: str) -> dict[str, str]:
        """Return the environment variables of a terminal: an operator's own home, but this user's packages."""
        home, real = checkout.with_name(f"{checkout.name}-home"), Path(pwd.getpwuid(os.getuid()).pw_dir)
        home.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CREDSCALE_")}
        return kept | {
            "HOME": str(home), "CREDSCALE_KEY_DIR": str(home / "keys"), "PYTHONPATH": str(checkout),
            "PIP_CACHE_DIR": str(real / ".cache/pip"), "PIP_CONFIG_FILE": str(real / ".config/pip/pip.conf"),
            VARIABLE: self.secret,
        } | more  # fmt: skip

    def describe(self, name: str = "site", *, host: dict[str, Any] | None = None, **sections: Any) -> Path:
        """Write an environment file.

        Args:
            name: of the environment; one at a time works on it.
            host: what differs in the host's entry.
            sections: what differs in the others.
        """
        entry = self.sshd.host | {"python": self.python} | (host or {})
        bastion = {key: value for key, value in entry.items() if value is not None}
        inventory: dict[str, Any] = {"name": name, "policy": {"confirm": "yes"}, "hosts": {"bastion": bastion}}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(inventory | sections), encoding="utf-8")
        return path

    def command(self, *words: str, checkout: Path | None = None, typed: bool = False, **variables: str) -> Command:
        """Give a command in a checkout."""
        self._count += 1
        cwd = checkout if checkout is not None else self.checkout
        made = Command(
            words, cwd=cwd, environment=self.environment(cwd, **variables), typed=typed,
            log=self.folder / f"terminal-{self._count}",
        )  # fmt: skip
        self.commands.append(made)
        return made

    @contextmanager
    def having(self, **variables: str) -> Iterator[None]:
        """Let the host have further environment variables while the block runs."""
        usual = self.sshd.settings
        self.restart([self.variables(**variables)])
        try:
            yield
        finally:
            self.restart(usual)

    def restart(self, settings: Sequence[str]) -> None:
        """Start its sshd anew, with these settings."""
        self.sshd.kill_sessions()
        self.sshd.end()
        self.sshd.settings = tuple(settings)
        self.sshd.start()

    def told_anywhere(self, *texts: str) -> list[str]:
        """Return the files that hold one of the texts, on the host, in the checkouts, on the terminals."""
        everywhere = [str(path) for path in self.folder.iterdir() if path != self.sshd.folder]
        done = subprocess.run(
            ["grep", "-rlFf", "-", *everywhere], input="\n".join(texts), capture_output=True, text=True, check=False,
            timeout=DEADLINE,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.splitlines()

    def tidy(self) -> None:
        """End all commands, and the runs on the host."""
        for command in self.commands:
            command.close()
        self.commands.clear()
        for path in (*self.home.glob("hold-*"), *self.home.glob("at-*")):
            path.unlink()
        kill([pid for pid in processes(str(self.folder)) if pid != self.sshd.process.pid])

    def close(self) -> None:
        """End everything that was started here."""
        self.tidy()
        self.sshd.end()


class Job:
    """One run of the runbook whose steps wait: its gates, its file, its commands.

    Args:
        site: where.
        name: its own, and its environment's.
        host: what differs in the host's entry.
        kernel: whether it runs as a notebook; without, it is quicker.
        sections: what differs in the environment file.
    """

    def __init__(
        self, site: Site, name: str, *, host: dict[str, Any] | None = None, kernel: bool = False, **sections: Any
    ) -> None:
        self.site, self.name, self.kernel = site, name, kernel
        self.folder = site.folder / f"job-{name}"
        self.folder.mkdir()
        self.inventory = site.describe(name, host=host, **sections)

    def words(self, **params: str) -> list[str]:
        """Return the words of the runbook's command, without any frills."""
        given = {"folder": str(self.folder)} | params
        words = ["step-by-step", "--env", str(self.inventory), "--on", "bastion"]
        return words + ([] if self.kernel else ["--in-process"]) + [f"--{key}={value}" for key, value in given.items()]

    def start(self, *flags: str, typed: bool = False, checkout: Path | None = None, **params: str) -> Command:
        """Start it, confirmed unless it is typed."""
        more = flags if typed else ("--yes", "--json", *flags)
        return self.site.command(*self.words(**params), *more, typed=typed, checkout=checkout)

    def attach(self, run: str, *words: str, typed: bool = False, checkout: Path | None = None) -> Command:
        """Watch a run again."""
        return self.site.command("report.attach", run, *words, typed=typed, checkout=checkout)

    def open(self, *gates: str) -> None:
        """Let steps end: those of these lines, or all."""
        for gate in gates or LINES:
            (self.folder / f"gate-{gate}").touch()

    def close(self, *gates: str) -> None:
        """Let steps wait again, those of all lines if none is named."""
        for gate in gates or LINES:
            (self.folder / f"gate-{gate}").unlink(missing_ok=True)

    @property
    def lines(self) -> list[list[str]]:
        """What the run has written."""
        path = self.folder / "lines"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def firsts(self) -> list[str]:
        """Return the first words of the lines."""
        return [line[0] for line in self.lines]

    def reaches(self, line: str) -> None:
        """Wait until the run has written a line."""
        wait_for(lambda: line in self.firsts(), DEADLINE)

    def runs(self, checkout: Path | None = None) -> list[Path]:
        """Return the folders of evidence at an operator's, the oldest first."""
        cwd = checkout if checkout is not None else self.site.checkout
        return sorted((cwd / "artifacts" / self.name / "step-by-step").glob("*"))

    def there(self) -> list[Path]:
        """Return the folders of evidence on the host, the oldest first."""
        return sorted((self.site.base / "work/artifacts" / self.name / "step-by-step").glob("*"))

    def sent(self) -> list[Path]:
        """Return the folders of the runs on the host, the oldest first."""
        orders = (json.loads(path.read_text()) | {"folder": path.parent} for path in self._orders())
        return [order["folder"] for order in orders if order["environment"] == self.name]

    def _orders(self) -> Iterator[Path]:
        yield from sorted((self.site.base / "runs").glob("*/order.json"))

    def worker(self) -> int:
        """Return the process id of the newest run on the host, once there is one."""

        def started() -> int:
            runs = self.sent()
            path = runs[-1] / "process.json" if runs else Path("none")
            return int(json.loads(path.read_text())["pid"]) if path.exists() and path.read_text() else 0

        return wait_for(started, DEADLINE)

    def verified(self, folder: Path, checkout: Path | None = None) -> None:
        """Check that evidence is intact, as anybody would."""
        command = self.site.command("report.verify", str(folder), checkout=checkout)
        assert command.end() == 0, command.shown
