"""Secret values that came from another machine: for this process and those it starts, and nobody else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from credscale.core import handed
from credscale.core.errors import EnvironmentInvalid
from credscale.core.secrets import Secrets

REFERENCE = "env:CREDSCALE_ONLY_ELSEWHERE"
ASK = f"""
from credscale.core.secrets import Secrets
print(Secrets().resolve({REFERENCE!r}))
"""


def test_stands_in_for_what_this_machine_lacks() -> None:
    with handed.held({REFERENCE: "from the terminal"}):
        secrets = Secrets()
        assert secrets.resolve(REFERENCE) == "from the terminal"
        assert secrets.mask("it is from the terminal") == "it is ********"
    with pytest.raises(EnvironmentInvalid, match="is not set"):
        Secrets().resolve(REFERENCE)


def test_a_process_that_was_started_here_can_ask() -> None:
    with handed.held({REFERENCE: "from the terminal"}):
        path = Path(os.environ[handed.SOCKET])
        assert path.parent.stat().st_mode & 0o777 == 0o700
        asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=30, check=False)
        assert (asked.stdout.strip(), asked.returncode) == ("from the terminal", 0), asked.stderr
        environment = {**os.environ, handed.SOCKET: ""}
        del environment[handed.SOCKET]
        alone = subprocess.run(
            [sys.executable, "-c", ASK], capture_output=True, text=True, timeout=30, check=False, env=environment
        )
        assert alone.returncode == 1
    assert not path.exists()
    assert handed.SOCKET not in os.environ


def test_only_children_are_answered() -> None:
    """This process is no child of its own, so to the server it is a stranger of the same user."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert not handed._is_ours(ours)


def test_nothing_to_hand_opens_nothing() -> None:
    with handed.held({}):
        assert handed.SOCKET not in os.environ
