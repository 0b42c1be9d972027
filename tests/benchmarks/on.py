"""Measure what ``--on HOST`` adds to a run here: the first time on a host, with a new version, and from then on.

    python -m tests.benchmarks.on [--rounds 3]

The host is an sshd on this machine with a home of its own; each side has its own simulated lab of 2,000 documents. The
timed runs find nothing to change: ``shard-migrate`` through its notebook, and ``cluster-status``, which only reads.
Beside them: the same command over the system's ``ssh``, in a checkout that somebody prepared there by hand.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.scenarios.sshd import Sshd

ROOT = Path(__file__).parents[2]
ENVIRONMENT = """
name: measured
lab: {directory: .credscale/lab, documents: 2000}
mongo: {uri: "file:.credscale/lab/mongo-uri"}
runbooks:
  shard-migrate: {chunk_size_mb: 2, window: "", read_sample: 100}
"""
SHARD = ("shard-migrate", "--yes")
STATUS = ("cluster-status",)


class Site:
    """A checkout of its own, and a host to send its runs to."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.home = folder / "checkout", folder / "home"
        self.home.mkdir()
        self.checkout.mkdir()
        for name in ("credscale", "runbooks", "notebooks"):
            shutil.copytree(ROOT / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("tasks.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.checkout / name)
        self.sshd = Sshd(folder / "sshd", settings=[f"SetEnv HOME={self.home}"])
        self.sshd.accept()
        hosts = ", ".join(f"{name}: {value}" for name, value in self.sshd.host.items())
        (self.checkout / "measured.yaml").write_text(f"{ENVIRONMENT}hosts:\n  bastion: {{{hosts}}}\n")

    def words(self, *arguments: str) -> list[str]:
        """Return a command line."""
        return [sys.executable, "-m", "invoke", *arguments, "--env", "measured.yaml"]

    def run(self, *arguments: str) -> float:
        """Run a command of the checkout; returns its seconds."""
        return self._timed(self.words(*arguments))

    def over_ssh(self, *arguments: str) -> float:
        """Run the same in the checkout over ssh; returns its seconds."""
        text = f"cd {shlex.quote(str(self.checkout))} && PYTHONPATH=. {shlex.join(self.words(*arguments))}"
        host = self.sshd.host
        options = [f"-oUserKnownHostsFile={self.sshd.known_hosts}", "-oIdentitiesOnly=yes", f"-i{host['key']}"]
        return self._timed(["ssh", *options, f"-p{host['port']}", f"{host['user']}@{host['address']}", text])

    def _timed(self, words: list[str]) -> float:
        begin = time.perf_counter()
        done = subprocess.run(
            words, cwd=self.checkout, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True, timeout=900,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return time.perf_counter() - begin

    def close(self) -> None:
        """End what runs."""
        for folder in (self.checkout, self.home / ".credscale" / "work"):
            if (folder / ".credscale").is_dir():
                down = [sys.executable, "-m", "invoke", "lab.down", "--env", str(self.checkout / "measured.yaml")]
                shutil.copy(ROOT / "tasks.py", folder / "tasks.py")
                subprocess.run(down, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False, timeout=120)
        self.sshd.end()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    console = Console()
    with tempfile.TemporaryDirectory(prefix="credscale-on-") as folder:
        site = Site(Path(folder))
        try:
            site.run(*SHARD)  # fills and shards the lab here
            first = site.run(*STATUS, "--on", "bastion")
            site.run(*SHARD, "--on", "bastion")  # and the one there
            pyproject = site.checkout / "pyproject.toml"
            pyproject.write_text(pyproject.read_text() + "\n")
            version = site.run(*STATUS, "--on", "bastion")
            table = Table("seconds, medians", "here", "--on", "more", "ssh by hand")
            for name, words in (("cluster-status", STATUS), ("shard-migrate, nothing to do", SHARD)):
                here, there, by_hand = [], [], []
                for _ in range(rounds):
                    here.append(site.run(*words))
                    there.append(site.run(*words, "--on", "bastion"))
                    by_hand.append(site.over_ssh(*words))
                medians = [statistics.median(each) for each in (here, there, by_hand)]
                table.add_row(
                    name,
                    f"{medians[0]:.1f}",
                    f"{medians[1]:.1f}",
                    f"{medians[1] - medians[0]:+.1f}",
                    f"{medians[2]:.1f}",
                )
            console.print(table)
            console.print(
                f"cluster-status --on, first time on the host: {first:.1f} s; with a new version: {version:.1f} s"
            )
        finally:
            site.close()


if __name__ == "__main__":
    main()
