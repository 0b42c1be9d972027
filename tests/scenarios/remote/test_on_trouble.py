"""``--on HOST`` in trouble: cut connections, a reboot, another host key, a full disk, no Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from credscale.core.journal import read_journal
from credscale.testing import wait_for
from tests.scenarios.remote.on_site import LINES, Job, kill, processes
from tests.scenarios.remote.terminals import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.scenarios.remote.on_site import Site

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]


def test_connections_that_break_while_the_host_is_prepared(site: Site) -> None:
    job = Job(site, "prepared", host={"folder": str(site.folder / "new")})
    job.open()
    stages = "receive", "venv", "launch"
    site.hold(*stages)
    command = job.start()
    for stage in stages:
        with site.holding(stage):
            site.sshd.kill_sessions()
    assert command.end() == 0, command.shown
    assert "its registry does not give the packages" not in command.shown
    assert job.firsts() == LINES
    assert len(list((site.folder / "new/runs").glob("*/order.json"))) == len(job.runs()) == 1


def test_two_terminals_prepare_a_host_at_once(site: Site) -> None:
    folder = site.folder / "both"
    jobs = [Job(site, f"both-{number}", host={"folder": str(folder)}) for number in (1, 2)]
    site.hold("install")
    commands = [job.start() for job in jobs]
    with site.holding("install"):
        wait_for(lambda: len(processes(f"\0install\0{folder}")) == 2, DEADLINE)
    for job, command in zip(jobs, commands, strict=True):
        job.open()
        assert command.end() == 0, command.shown
        assert job.firsts() == LINES


def test_a_lost_connection_is_made_again_by_itself(site: Site, job: Job) -> None:
    command = job.start()
    for number, line in enumerate(LINES, 1):
        job.reaches(line)
        site.sshd.kill_sessions()
        command.sees("the connection is lost; the run goes on at bastion", number)
        command.sees("connected to bastion again", number)
        job.open(line)
    assert command.end() == 0, command.shown
    assert job.firsts() == LINES
    assert len(job.sent()) == len(job.there()) == len(job.runs()) == 1


def test_an_answer_survives_a_lost_connection(site: Site, job: Job) -> None:
    command = job.start(typed=True)
    command.sees("Make these 3 changes on ")
    site.sshd.kill_sessions()
    command.type("yes\n")
    job.open()
    assert command.end() == 0, command.shown
    assert job.firsts() == LINES
    assert len(job.sent()) == 1


def test_connections_that_break_while_the_evidence_comes(site: Site, job: Job) -> None:
    site.hold("evidence", "fetch")
    job.open()
    command = job.start()
    for stage in ("evidence", "fetch"):
        with site.holding(stage):
            site.sshd.kill_sessions()
    assert command.end() == 0, command.shown
    assert job.firsts() == LINES
    assert len(job.sent()) == len(job.runs()) == 1
    job.verified(job.runs()[0])


def test_packets_that_are_dropped_are_noticed_by_the_silence(site: Site, job: Job) -> None:
    if shutil.which("nft") is None or os.geteuid() != 0:
        pytest.skip("needs nft and root to drop packets")
    command = job.start()
    job.reaches("one")
    table = f"credscale_test_{os.getpid()}"
    rules = (
        f"table inet {table} {{\n chain input {{\n type filter hook input priority 0;\n"
        f" tcp dport {site.sshd.port} drop;\n tcp sport {site.sshd.port} drop;\n }}\n}}\n"
    )
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, timeout=30)
    try:
        job.open("one")
        command.sees("the connection is lost")
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True, timeout=30)
    assert "trying again (timed out)" in command.shown
    command.sees("connected to bastion again")
    job.open()
    assert command.end() == 0, command.shown
    assert job.firsts() == LINES


def test_a_host_that_reboots(site: Site) -> None:
    job = Job(site, "reboot", kernel=True)
    job.open("one")
    command = job.start()
    job.reaches("two")
    worker = psutil.Process(job.worker())
    for process in [worker, *worker.children(recursive=True)]:
        process.kill()
    assert command.end() == 1
    assert "step-by-step was killed on bastion" in command.shown
    assert "append the line one" in command.shown
    (folder,) = job.runs()
    answer = command.answer()
    assert (answer["run"], answer["status"], answer["changes"]) == (folder.name, "killed", 2)
    changed = [event for event in read_journal(folder / "journal.jsonl") if event["event"] == "change_finished"]
    assert [event["step"] for event in changed] == ["write_one", "write_two"]
    job.open()
    again = job.start()
    assert again.end() == 0, again.shown
    assert job.firsts() == LINES


def test_a_host_key_that_changes(site: Site, job: Job) -> None:
    command = job.start()
    job.reaches("one")
    key, sessions = site.sshd.folder / "host", site.sshd.sessions()
    before = key.read_text(), key.with_suffix(".pub").read_text()
    site.sshd.new_host_key()
    try:
        kill(sessions)
        assert command.end() == 1
        assert "is not the one known" in command.shown
        (run,) = [path.name for path in job.sent()]
        assert f"The run may go on there. Watch it again: invoke report.attach {run}" in command.shown
        assert psutil.pid_exists(job.worker())
    finally:
        for path, text in zip((key, key.with_suffix(".pub")), before, strict=True):
            path.write_text(text)
        site.restart(site.sshd.settings)
    job.open()
    again = job.attach(run)
    assert again.end() == 0, again.shown
    assert job.firsts() == LINES


def test_a_python_that_is_too_old(site: Site) -> None:
    old = site.folder / "python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)
    job = Job(site, "old", host={"python": str(old), "folder": str(site.folder / "elsewhere")})
    command = job.start()
    assert command.end() == 1
    assert f"bastion has no Python 3.11 or newer: {old} is Python 3.9.2. Nothing was changed" in command.shown
    assert not (site.folder / "elsewhere").exists()


def test_a_host_without_python(site: Site) -> None:
    job = Job(site, "none", host={"python": None})
    programs = site.folder / "programs"
    programs.mkdir()
    for name in ("sh", "cat", "printf"):
        (programs / name).symlink_to(str(shutil.which(name)))
    with site.having(PATH=str(programs)):
        command = job.start()
        assert command.end() == 1
    assert "bastion has no Python 3.11 or newer: no python3.11 or " in command.shown


@pytest.fixture
def small_disk(site: Site) -> Iterator[Path]:
    """Yield a mounted file system of 8 MB."""
    folder = site.folder / "small"
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], check=False, timeout=30)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


def test_too_little_room_is_said_before_anything_is_sent(site: Site, small_disk: Path) -> None:
    job = Job(site, "small", host={"folder": str(small_disk / "there")})
    command = job.start()
    assert command.end() == 1
    assert "bastion has 8.0 MB left where hosts.bastion.folder is, and 953.7 MB are needed" in command.shown
    assert "Nothing was changed. Make room there" in command.shown


def test_a_disk_that_fills_up_in_the_middle(site: Site, small_disk: Path) -> None:
    there = small_disk / "there"
    there.mkdir(mode=0o700)
    for name in ("packages", "versions"):
        (there / name).symlink_to(site.base / name)
    job = Job(site, "full", host={"folder": str(there)})
    command = job.start()
    job.reaches("one")
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    job.open()
    assert command.end() == 1
    assert "No space left" in command.shown
    (small_disk / "filler").unlink()
    again = job.start()
    assert again.end() == 0, again.shown
    assert job.firsts() == LINES
