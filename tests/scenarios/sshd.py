"""A real sshd of this user on a port of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.lab.processes import free_ports
from credscale.testing import REQUIRE, require, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

ADDRESS = "127.0.0.2"  # the loopback too, but not a name that can only mean this machine


def require_beside(program: str) -> str:
    """Return the path of a program that belongs to tests with sshd; where sshd must be there, so must this one."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is not None:
        return found
    if {"ssh", "all"} & {name.strip() for name in os.environ.get(REQUIRE, "").split(",")}:
        pytest.fail(f"{program} is missing, and {REQUIRE} says that ssh must be there", pytrace=False)
    pytest.skip(f"needs {program}")


def make_key(path: Path, passphrase: str = "") -> Path:
    """Make a key pair, the public one beside it."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True, timeout=30)
    return path


class Sshd:
    """An sshd whose host key nobody has accepted yet.

    Args:
        folder: where its keys, configuration and log go; made here.
        address: to listen on.
        settings: further lines of its configuration, before the others, so that they win.
    """

    def __init__(self, folder: Path, *, address: str = ADDRESS, settings: Sequence[str] = ()) -> None:
        self.folder, self.address, self.settings = folder, address, tuple(settings)
        self.port = free_port(address)
        self.program = require("ssh")
        folder.mkdir()
        self.key = make_key(folder / "user")
        self.known_hosts = folder / "known_hosts"
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        make_key(folder / "host")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        lines = [
            *self.settings, f"Port {self.port}", f"ListenAddress {self.address}", f"HostKey {self.folder}/host",
            "UsePAM no", f"AuthorizedKeysFile {self.folder}/authorized", "StrictModes no", "PasswordAuthentication no",
            f"PidFile {self.folder}/pid", "Subsystem sftp internal-sftp", "PermitRootLogin prohibit-password",
            f"SetEnv HOME={self.folder}",  # the user's own .bashrc may take its time
        ]  # fmt: skip
        (self.folder / "config").write_text("\n".join(lines) + "\n")
        command = [self.program, "-D", "-e", "-f", str(self.folder / "config")]
        with (self.folder / "log").open("ab") as log:
            before = log.tell()
            self.process = subprocess.Popen(command, stderr=log)
        wait_for(lambda: self.process.poll() is not None or b"Server listening on" in self._log()[before:])
        assert self.process.poll() is None, f"sshd ended: {self._log()[before:].decode(errors='replace')}"

    def _log(self) -> bytes:
        return (self.folder / "log").read_bytes()

    def end(self) -> None:
        """End it; sessions that are open go on."""
        self.process.terminate()
        self.process.wait(timeout=10)

    def sessions(self) -> list[int]:
        """Return the processes that serve its connections."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [int(each) for each in children.split()]

    def kill_sessions(self) -> None:
        """Kill what serves its connections, as a crash would."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):  # one that went through another ended with it
                os.kill(pid, signal.SIGKILL)

    def new_host_key(self) -> None:
        """Give it another host key, as a machine has that was set up anew."""
        self.end()
        (self.folder / "host").unlink()
        make_key(self.folder / "host")
        self.start()

    @property
    def name(self) -> str:
        """How a known_hosts file calls it."""
        return f"[{self.address}]:{self.port}"

    @property
    def public(self) -> str:
        """Its public host key: type and key."""
        return " ".join((self.folder / "host.pub").read_text().split()[:2])

    def accept(self) -> None:
        """Accept the host key as an administrator would who compared it."""
        self.known_hosts.write_text(f"{self.name} {self.public}\n")

    def fingerprint(self) -> str:
        """Return the fingerprint of its host key, as OpenSSH prints it."""
        told = subprocess.run(
            ["ssh-keygen", "-lf", str(self.folder / "host.pub")], capture_output=True, text=True, check=True, timeout=30
        )
        return told.stdout.split()[1]

    @property
    def host(self) -> dict[str, Any]:
        """The entry of an environment file's section hosts."""
        return {
            "address": self.address, "port": self.port, "user": getpass.getuser(), "key": str(self.key),
            "known_hosts": str(self.known_hosts),
        }  # fmt: skip


def free_port(address: str) -> int:
    """Return a port on which nobody listens, neither on this address nor on that of the lab."""
    for port in free_ports(20):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            return port
    raise AssertionError(f"no port of {address} is free")
