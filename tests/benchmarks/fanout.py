"""Measure one disk check on many hosts against fabric's ThreadingGroup, pyinfra and ansible.

    python -m tests.benchmarks.fanout [--hosts 1,10,50] [--rounds 5] [--tools FOLDER]

The hosts are real sshds on addresses of the loopback; client and servers share this machine's processors. Every tool
runs ``df -P -k /`` on all of them, and its output is counted. Cold is a new process; warm is the same process with
everything imported, once with new connections and once with those of the round before. All but ThreadingGroup, which
has no limit, work on 20 hosts at a time. Ansible may share connections within a round, but not over it. The others are
installed into environments of their own, in FOLDER when that is given, which a second measure can use again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from credscale.core.clients import Clients
from credscale.core.environment import load
from credscale.core.machines.fanout import fan_out
from credscale.core.secrets import Secrets
from tests.scenarios.sshd import Sshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from credscale.core.machines import Machine

CHECK = ["df", "-P", "-k", "/"]
SERVERS, PARALLEL, PATIENCE = 3, 20, 300.0
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - so that each of 127.0.x.y is a host
MANY_AT_A_TIME = ("MaxStartups 500", "MaxSessions 500")
REPOSITORY = Path(__file__).parents[2]
PACKAGES = {"fabric": "fabric>=3.2,<4", "pyinfra": "pyinfra>=3", "ansible": "ansible-core>=2.16"}
OURS = """
import sys
from credscale.core.clients import Clients
from credscale.core.environment import load
from credscale.core.machines.fanout import fan_out
from credscale.core.secrets import Secrets
environment, secrets = load(sys.argv[1]), Secrets()
clients = Clients(environment, secrets)
machines = [clients.machine(name) for name in environment.hosts]
for answer in fan_out(machines, lambda machine: machine.must_run(["df", "-P", "-k", "/"]).text):
    print(answer.value)
clients.close()
"""
FABRIC = """
import json, sys
from fabric import Config, Connection, ThreadingGroup
hosts = json.load(open(sys.argv[1]))
config = Config(overrides={"load_ssh_configs": False})
group = ThreadingGroup.from_connections([
    Connection(h["address"], user=h["user"], port=h["port"], config=config,
               connect_kwargs={"key_filename": h["key"], "look_for_keys": False, "allow_agent": False})
    for h in hosts])
for result in group.run("df -P -k /", hide=True, in_stream=False).values():
    print(result.stdout)
group.close()
"""


class Hosts:
    """Inventories of the same hosts, in each tool's language."""

    def __init__(self, folder: Path, servers: list[Sshd], count: int) -> None:
        self.count, self.folder = count, folder / str(count)
        self.folder.mkdir()
        self.entries = []
        known = self.folder / "known_hosts"
        lines = []
        for number in range(count):
            server = servers[number % len(servers)]
            address = f"127.0.{1 + number // 200}.{1 + number % 200}"
            lines.append(f"[{address}]:{server.port} {server.public}\n")
            self.entries.append(server.host | {"address": address, "known_hosts": str(known)})
        known.write_text("".join(lines))
        hosts = {f"h{number}": entry for number, entry in enumerate(self.entries)}
        self.environment = self._write("bench.yaml", yaml.safe_dump({"name": "bench", "hosts": hosts}))
        self.plain = self._write("hosts.json", json.dumps(self.entries))
        self.pyinfra = self._write("inventory.py", f"hosts = {[self._pyinfra(entry) for entry in self.entries]!r}\n")
        self.ansible = self._write(
            "inventory.ini",
            "".join(
                f"{name} ansible_host={entry['address']} ansible_port={entry['port']} ansible_user={entry['user']} "
                f"ansible_ssh_private_key_file={entry['key']} ansible_python_interpreter=/usr/bin/python3 "
                f"ansible_ssh_common_args='-o UserKnownHostsFile={known}'\n"
                for name, entry in hosts.items()
            ),
        )

    @staticmethod
    def _pyinfra(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return entry["address"], {
            "ssh_port": entry["port"], "ssh_user": entry["user"], "ssh_key": entry["key"],
            "ssh_known_hosts_file": entry["known_hosts"],
        }  # fmt: skip

    def _write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


def install(folder: Path, tool: str, console: Console) -> Path | None:
    """Return the folder of a tool's programs; None, with the reason printed, where it cannot be installed."""
    place = folder / tool
    if not (place / "ready").exists():
        venv.create(place, with_pip=True)
        command = [str(place / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", PACKAGES[tool]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode:
            console.print(f"{tool} is left out, pip says: {done.stderr.strip().splitlines()[-1]}", markup=False)
            return None
        (place / "ready").touch()
    return place / "bin"


def commands(hosts: Hosts, tools: dict[str, Path]) -> Iterator[tuple[str, Callable[[Path], list[str]]]]:
    """Yield for each tool the command of a cold run; it may use an empty folder."""
    yield "credscale, its call", lambda _: [sys.executable, "-c", OURS, hosts.environment]
    yield (
        "credscale, hosts.verify-disk",
        lambda _: [sys.executable, "-m", "invoke", "hosts.verify-disk", "--env", hosts.environment],
    )
    if "fabric" in tools:
        yield "fabric, ThreadingGroup", lambda _: [str(tools["fabric"] / "python"), "-c", FABRIC, hosts.plain]
    if "pyinfra" in tools:
        words = ["--parallel", str(PARALLEL), "-y", hosts.pyinfra, "exec", "--", *CHECK]
        yield "pyinfra, exec", lambda _: [str(tools["pyinfra"] / "pyinfra"), *words]
    if "ansible" in tools:
        for module in ("raw", "command"):
            words = ["all", "-i", hosts.ansible, "-f", str(PARALLEL), "-m", module, "-a", " ".join(CHECK)]
            yield f"ansible, {module}", lambda _, words=words: [str(tools["ansible"] / "ansible"), *words]  # type: ignore[misc]


def cold(command: Callable[[Path], list[str]], count: int) -> float:
    """Return the seconds of a new process that checks all hosts."""
    with tempfile.TemporaryDirectory(prefix="fanout-") as folder:
        environment = os.environ | {
            "ANSIBLE_SSH_CONTROL_PATH_DIR": folder, "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=2s",
            "CREDSCALE_ARTIFACTS": folder, "CREDSCALE_KEY_DIR": folder, "PYTHONPATH": str(REPOSITORY),
        }  # fmt: skip
        words = command(Path(folder))
        begin = time.perf_counter()
        done = subprocess.run(
            words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        seconds = time.perf_counter() - begin
        told = done.stdout + done.stderr
        shown = max(told.count("Mounted on"), told.count(" ok  "))
        if done.returncode or shown < count:
            raise SystemExit(f"{words[0]}: exit code {done.returncode}, {shown} of {count} hosts\n{told[-2000:]}")
        time.sleep(2.5 if "ansible" in words[0] else 0.0)  # its shared connections end
    return seconds


def check(machine: Machine) -> str:
    return machine.must_run(CHECK).text


def warm_ours(hosts: Hosts) -> Iterator[float]:
    """Yield seconds with new connections, then with the same again."""
    environment, secrets = load(hosts.environment), Secrets()
    clients = Clients(environment, secrets)
    machines = [clients.machine(name) for name in environment.hosts]
    for _ in range(2):
        begin = time.perf_counter()
        answers = fan_out(machines, check, parallel=PARALLEL)
        yield time.perf_counter() - begin
        if any(answer.why for answer in answers):
            raise SystemExit(f"ours: {next(answer.text for answer in answers if answer.why)}")
    clients.close()


def warm_fabric(hosts: Hosts) -> Iterator[float]:
    """Yield the same for a ThreadingGroup of the fabric in our own environment."""
    from fabric import Config, Connection, ThreadingGroup

    config = Config(overrides={"load_ssh_configs": False})
    connections = [
        Connection(
            entry["address"], user=entry["user"], port=entry["port"], config=config,
            connect_kwargs={"key_filename": entry["key"], "look_for_keys": False, "allow_agent": False},
        )
        for entry in hosts.entries
    ]  # fmt: skip
    group = ThreadingGroup.from_connections(connections)
    for _ in range(2):
        begin = time.perf_counter()
        results = group.run(" ".join(CHECK), hide=True, in_stream=False)
        yield time.perf_counter() - begin
        if len(results.succeeded) != hosts.count:
            raise SystemExit(f"fabric: {results.failed}")
    group.close()


def table_of(hosts: Hosts, times: dict[str, list[float]]) -> Table:
    """Return the medians, each beside what it is in multiples of ours."""
    table = Table(title=f"\n{hosts.count} hosts, seconds, medians", title_justify="left", box=None)
    for column in ("tool", "median", "least", "most", "times ours"):
        table.add_column(column, justify="left" if column == "tool" else "right")
    for name, seconds in times.items():
        kind = name.partition(":")[0]
        ours = next(value for key, value in times.items() if key.startswith(f"{kind}: credscale"))
        ratio = statistics.median(seconds) / statistics.median(ours)
        figures = (statistics.median(seconds), min(seconds), max(seconds), ratio)
        table.add_row(name, *(f"{figure:.2f}" for figure in figures))
    return table


def measure(hosts: Hosts, tools: dict[str, Path], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round; the tools take turns, so that what else the machine does meets all."""
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, command in commands(hosts, tools):
            times.setdefault(f"cold: {name}", []).append(cold(command, hosts.count))
        for tool, warm in (("credscale", warm_ours), ("fabric, ThreadingGroup", warm_fabric)):
            for kind, seconds in zip(("warm, new connections", "warm, kept connections"), warm(hosts), strict=True):
                times.setdefault(f"{kind}: {tool}", []).append(seconds)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default="1,10,50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tools", type=Path)
    options = parser.parse_args()
    console = Console(highlight=False)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fanout-")))
        found = {tool: install(options.tools or folder / "tools", tool, console) for tool in PACKAGES}
        tools = {tool: place for tool, place in found.items() if place is not None}
        servers = []
        for number in range(SERVERS):
            server = Sshd(folder / f"sshd{number}", address=EVERY_ADDRESS, settings=MANY_AT_A_TIME)
            stack.callback(server.end)
            stack.callback(server.kill_sessions)
            servers.append(server)
        for count in map(int, options.hosts.split(",")):
            hosts = Hosts(folder, servers, count)
            console.print(table_of(hosts, measure(hosts, tools, options.rounds)))


if __name__ == "__main__":
    main()
