"""``--on HOST``: a run on another machine that needs no terminal, tells no secret, and brings its evidence back."""

from __future__ import annotations

import filecmp
import getpass
import hashlib
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from credscale.core.journal import read_journal
from credscale.testing import require, wait_for
from tests.scenarios.remote.on_site import LINES, VARIABLE, Job, Site, processes
from tests.scenarios.remote.terminals import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]
WITH_SECRET = {"step-by-step": {"secret": f"env:{VARIABLE}"}}
MENU = "[d]etach, [s]top"
EVIL = "--yes -n $(touch evil) `touch evil`; 'y' \"z\" \\ * %s {{x}} \n\t ü€😀 env:HOME"


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Site]:
    """Yield a site whose host has but a Python."""
    require("ssh")
    made = Site(tmp_path / "site", bare=True)
    try:
        yield made
    finally:
        made.close()


def test_the_second_run_prepares_nothing(bare: Site) -> None:
    jobs = Job(bare, "first", kernel=True), Job(bare, "second")
    jobs[0].open()
    first = jobs[0].start()
    assert first.end(300.0) == 0, first.shown
    for work in ("making a virtual environment", "packages from the wheels that were sent", "building this version"):
        assert work in first.shown
    second = jobs[1].start()
    jobs[1].reaches("one")
    worker = psutil.Process(jobs[1].worker())
    assert os.getsid(worker.pid) == worker.pid
    assert not {parent.pid for parent in worker.parents()} & {bare.sshd.process.pid, second.process.pid}
    jobs[1].open()
    assert second.end() == 0, second.shown
    assert not [word for word in ("making", "installing", "building", "sending") if word in second.shown]
    for job, told in zip(jobs, (first, second), strict=True):
        (folder,), (there,) = job.runs(), job.there()
        assert told.answer() == {
            "run": folder.name, "status": "ok", "artifacts": str(folder.relative_to(bare.checkout)), "changes": 3,
        }  # fmt: skip
        job.verified(folder)
        names = sorted(path.name for path in folder.iterdir())
        assert names == sorted(path.name for path in there.iterdir())
        assert filecmp.cmpfiles(folder, there, names, shallow=False)[0] == names
        started = next(iter(read_journal(folder / "journal.jsonl")))
        assert started["requested_by"] == f"{getpass.getuser()}@{socket.gethostname()}"
        assert job.firsts() == LINES
    assert not list((bare.checkout / ".credscale/remote/runs").iterdir())


def holders(secret: str, apart_from: int) -> list[str]:
    """Return the processes that show a secret in arguments or environment, apart from one and what it started."""
    own = {apart_from, *(child.pid for child in psutil.Process(apart_from).children(recursive=True))}
    found = []
    for pid in psutil.pids():
        for name in ("cmdline", "environ"):
            try:
                told = secret.encode() in Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue  # gone, or the kernel's own
            if told and (pid not in own or name == "cmdline"):
                found.append(f"{name} of {pid}")
    return found


@pytest.mark.parametrize(("kernel", "leak"), [(True, "raise"), (False, "say")])
def test_a_secret_reaches_the_run_and_nothing_else(site: Site, kernel: bool, leak: str) -> None:
    job = Job(site, f"secret-{leak}", kernel=kernel, runbooks=WITH_SECRET)
    job.open("one", "two" if leak == "say" else "one")
    command = job.start(f"--leak={leak}")
    job.reaches("three" if leak == "say" else "two")
    assert not holders(site.secret, command.process.pid)
    assert holders(site.secret, site.sshd.process.pid) == [f"environ of {command.process.pid}"]
    assert not site.told_anywhere(site.secret)
    job.open()
    assert command.end() == (1 if leak == "raise" else 0), command.shown
    assert ["secret", hashlib.sha256(site.secret.encode()).hexdigest()] in job.lines
    assert "the secret ********" in command.shown
    assert site.secret not in command.answered
    assert not site.told_anywhere(site.secret)
    job.verified(job.runs()[0])


def test_a_host_that_has_the_secret_uses_its_own(site: Site) -> None:
    job = Job(site, "own", runbooks=WITH_SECRET)
    job.open()
    with site.having(**{VARIABLE: "what-the-host-has-itself"}):
        command = job.start("--leak=say")
        assert command.end() == 0, command.shown
    assert ["secret", hashlib.sha256(b"what-the-host-has-itself").hexdigest()] in job.lines
    assert not site.told_anywhere("what-the-host-has-itself", site.secret)


def test_ctrl_c_asks_and_stops_before_the_next_step(site: Site, job: Job) -> None:
    command = job.start("--yes", typed=True)
    job.reaches("one")
    command.type("\x03")
    command.sees(MENU)
    command.type("s\n")
    command.sees("it stops before its next step")
    job.open("one")
    assert command.end() == 1
    assert "step-by-step interrupted: stopped before write_two, as asked" in command.shown
    assert job.firsts() == ["one"]
    job.verified(job.runs()[0])
    job.open()
    again = job.start()
    assert again.end() == 0, again.shown
    assert job.firsts() == LINES


def test_ctrl_c_at_a_question_puts_it_again(site: Site, job: Job) -> None:
    command = job.start(typed=True)
    command.sees("[yes/no]")
    command.type("\x03")
    command.sees(MENU)
    command.type("\n")
    command.sees("[yes/no]", 2)
    command.type("yes\n")
    job.open()
    assert command.end() == 0, command.shown
    assert job.firsts() == LINES


def test_ctrl_c_detaches_and_a_step_is_interrupted(site: Site) -> None:
    job = Job(site, "detached", kernel=True)
    command = job.start("--yes", typed=True)
    job.reaches("one")
    command.type("\x03")
    command.sees(MENU)
    command.type("d\n")
    assert command.end() == 1
    (run,) = [path.name for path in job.sent()]
    assert f"Detached; the run goes on at bastion. Watch it again: invoke report.attach {run}" in command.shown
    listed = site.command("report.list")
    assert listed.end() == 0
    assert f"step-by-step on detached is on bastion: invoke report.attach {run}" in listed.shown
    again = job.attach(run, typed=True)
    job.open("one")
    job.reaches("two")
    again.sees("write_two")
    again.type("\x03")
    again.sees(MENU)
    again.type("i\n")
    assert again.end() == 1
    assert "interrupted by the operator" in again.shown
    assert job.firsts() == ["one", "two"]
    (folder,) = job.runs()
    job.verified(folder)


def test_without_a_terminal_an_interrupt_detaches(site: Site, job: Job) -> None:
    command = job.start()
    job.reaches("one")
    command.interrupt()
    assert command.end() == 1, command.shown
    assert command.answer()["status"] == "detached"
    job.open()
    again = job.attach("last")
    assert again.end() == 0, again.shown
    assert job.firsts() == LINES
    job.verified(job.runs()[0])


def test_a_terminal_that_is_closed_leaves_the_run_alone(site: Site, job: Job) -> None:
    command = job.start("--yes", typed=True)
    job.reaches("one")
    command.hang_up()
    assert command.end() == -signal.SIGHUP
    job.open()
    again = job.attach("last")
    assert again.end() == 0, again.shown
    assert job.firsts() == LINES
    job.verified(job.runs()[0])


def test_another_machine_watches_and_answers(site: Site, job: Job) -> None:
    other = site.other_checkout()
    here = job.start(typed=True)
    here.sees("Make these 3 changes on ")
    (run,) = [path.name for path in job.sent()]
    there = job.attach(run, f"--env={job.inventory}", typed=True, checkout=other)
    there.sees("Make these 3 changes on ")
    there.type("yes\n")
    job.reaches("one")
    here.type("no\n")
    here.sees("it was answered at another terminal before")
    job.open()
    for command, checkout in ((here, site.checkout), (there, other)):
        assert command.end() == 0, command.shown
        assert "3 changes" in command.shown
        (folder,) = job.runs(checkout)
        job.verified(folder, checkout)
    again = job.attach(run, f"--env={job.inventory}", "--on=bastion", checkout=other)
    assert again.end() == 0, again.shown
    assert job.firsts() == LINES


def test_two_terminals_of_one_checkout(site: Site, job: Job) -> None:
    site.hold("fetch")
    first = job.start()
    job.reaches("one")
    second = job.attach("last")
    second.sees("append the line one")
    job.open()
    with site.holding("fetch"):
        wait_for(lambda: len(processes(f"\0fetch\0{site.base}")) == 2, DEADLINE)
    for command in (first, second):
        assert command.end() == 0, command.shown
    (folder,) = job.runs()
    job.verified(folder)


def test_two_operators_at_once(site: Site, job: Job) -> None:
    other = site.other_checkout()
    command = job.start()
    job.reaches("one")
    second = job.start(checkout=other)
    assert second.end() == 3, second.shown
    assert second.answer()["status"] == "refused"
    job.open()
    assert command.end() == 0, command.shown
    assert job.firsts() == LINES


def test_hostile_values_arrive_as_they_are(site: Site) -> None:
    job = Job(site, "hostile", kernel=True)
    job.folder /= EVIL.replace("/", "")
    job.folder.mkdir()
    job.inventory = job.inventory.rename(job.inventory.with_name(f"{EVIL}.yaml"))
    job.open()
    text = EVIL + "x" * 10_000
    command = job.start(f"--ticket={EVIL}", text=text)
    assert command.end() == 0, command.shown
    assert job.lines == [[line, text] for line in LINES]
    assert not list(site.folder.rglob("evil"))
    started = next(iter(read_journal(job.runs()[0] / "journal.jsonl")))
    assert (started["ticket"], started["params"]["text"]) == (EVIL, text)
