"""A run is watched again: one that was sent from here, or one that a host of the environment knows."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import ConnectFailed, EnvironmentInvalid, UnknownTarget
from credscale.frontends.remote import attaching, following
from credscale.frontends.remote.attaching import attach
from credscale.frontends.remote.records import Sent, away, remember
from tests.frontends.remote.fake_host import RUN, FakeHost, ended, put_in_place, quiet_terminal, shown

if TYPE_CHECKING:
    from credscale.frontends.run import Outcome
    from tests.frontends.remote.fake_host import FakeClients

OLDER = "20261123T210000Z-aaaaaa"
LAST = ended(evidence=False, changes=3)
INVENTORY = "name: {0}\nhosts: {{bastion: {{address: 10.0.{1}.1}}, spare: {{address: 10.0.{1}.2}}}}\n"


def host(name: str, *runs: dict[str, Any]) -> FakeHost:
    """Return a host with runs, all of which have ended."""
    return FakeHost(name, runs=[{"runs": list(runs)}], follow=[shown({"said": f"seen on {name}\n"}, LAST)])


def listed(run: str, environment: str = "prod") -> dict[str, Any]:
    """Return a run as the agent lists it."""
    flags = {"env": "theirs", "on": "their-name", "dry_run": False, "yes": True, "params": {"namespace": "a.b"}}
    return {"run": run, "status": "running", "runbook": "shard-migrate", "environment": environment, "flags": flags}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two environments with hosts of the same names, and never pause."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(following, "PAUSES", (0.0,))
    for number, name in enumerate(("prod", "staging")):
        Path(f"{name}.yaml").write_text(INVENTORY.format(name, number))
    Path("empty.yaml").write_text("name: empty\n")


def sent(run: str, environment: str = "prod", on: str = "bastion") -> Sent:
    made = Sent(run, "shard-migrate", environment, f"{environment}.yaml", on, {"yes": True})
    remember(made)
    return made


class Attached:
    """``report.attach`` on these hosts, with what it shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hosts: FakeHost) -> None:
        self.clients: FakeClients = put_in_place(monkeypatch, attaching, *hosts)
        self.front, self._out = quiet_terminal()

    def __call__(self, run: str, env: str = "", on: str = "") -> tuple[Sent, Outcome]:
        return attach(run, env, on, self.front)

    @property
    def out(self) -> str:
        return self._out.getvalue()


@pytest.mark.parametrize(
    ("wanted", "found"), [(RUN, RUN), ("last", RUN), ("20261123T21", OLDER), ("aaa", OLDER), ("abc", RUN)]
)
def test_a_run_that_was_sent_from_here(monkeypatch: pytest.MonkeyPatch, wanted: str, found: str) -> None:
    runs = {run: sent(run) for run in (OLDER, RUN)}
    bastion = host("bastion")
    attached = Attached(monkeypatch, bastion)
    which, outcome = attached(wanted)
    assert which == runs[found]
    assert (outcome.code, outcome.status, outcome.changes) == (0, "ok", 3)
    assert [(asked.verb, asked.arguments) for asked in bastion.asked] == [("follow", (found, "0"))]
    assert bastion.section is not None
    assert bastion.section.address == "10.0.0.1"
    assert attached.out == f"shard-migrate on prod, run {found} on bastion\nseen on bastion\n"
    assert (attached.clients.opened, attached.clients.closed) == (1, 1)
    assert [each.run for each in away()] == [run for run in (RUN, OLDER) if run != found]


def test_the_header_comes_before_anything_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sent(RUN)
    bastion = host("bastion")
    bastion.answers["follow"] = [shown(KeyboardInterrupt())]
    attached = Attached(monkeypatch, bastion)
    _, outcome = attached("last")
    assert attached.out.startswith(f"shard-migrate on prod, run {RUN} on bastion\nDetached; ")
    assert outcome.status == "detached"
    assert [each.run for each in away()] == [RUN]


@pytest.mark.parametrize("wanted", [RUN, "last", "abc"])
def test_a_run_of_another_environment_is_never_attached(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    sent(RUN, "prod")
    bastion, spare = host("bastion", listed(RUN, "prod")), host("spare")
    attached = Attached(monkeypatch, bastion, spare)
    with pytest.raises(UnknownTarget, match=f"no run '{wanted}' of staging is on bastion, spare"):
        attached(wanted, env="staging.yaml")
    assert "follow" not in bastion.verbs() + spare.verbs()
    assert [each.environment for each in away()] == ["prod"]


def test_env_and_on_choose_among_the_runs_that_were_sent_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for run, environment, on in ((OLDER, "prod", "bastion"), (RUN, "staging", "spare")):
        sent(run, environment, on)
    attached = Attached(monkeypatch, host("bastion"), host("spare"))
    assert attached("last", env="prod.yaml")[0].run == OLDER
    sent(OLDER)
    assert attached("last", on="bastion")[0].run == OLDER
    assert attached("last", env="staging.yaml", on="spare")[0].run == RUN


def test_a_run_of_a_host_is_found_shown_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    bastion, spare = host("bastion", listed(OLDER, "staging"), listed(OLDER)), host("spare", listed(RUN))
    spare.answers["follow"] = [shown({"said": "moving\n"}, KeyboardInterrupt())]
    attached = Attached(monkeypatch, bastion, spare)
    which, outcome = attached("abc", env="prod.yaml")
    flags = {"dry_run": False, "yes": True, "params": {"namespace": "a.b"}}
    assert which == Sent(RUN, "shard-migrate", "prod", "prod.yaml", "spare", flags)
    assert outcome.status == "detached"
    assert away() == [which]
    assert attached.out.startswith(f"shard-migrate on prod, run {RUN} on spare\nmoving\nDetached; ")
    assert spare.section is not None
    assert spare.section.address == "10.0.0.2"
    assert bastion.verbs() == ["runs"]
    assert attached.clients.closed == 1


def test_the_last_of_all_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    attached = Attached(monkeypatch, host("bastion", listed(RUN)), host("spare", listed(OLDER)))
    assert attached("last", env="prod.yaml")[0].run == RUN


def test_hosts_are_asked_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=10.0)

    class Waiting(FakeHost):
        def has_runs(self) -> bool:
            both.wait()  # breaks, as a failed host, where they are asked in turn
            return True

    hosts = [Waiting(name, **host(name, listed(run)).answers) for name, run in (("bastion", OLDER), ("spare", RUN))]
    assert Attached(monkeypatch, *hosts)("aaa", env="prod.yaml")[0].on == "bastion"


def test_a_host_without_runs_is_only_asked_whether_it_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    bastion, spare = host("bastion", listed(RUN)), host("spare", listed(OLDER))
    spare.was_used = False
    attached = Attached(monkeypatch, bastion, spare)
    with pytest.raises(UnknownTarget, match="no run 'aaa' of prod is on bastion, spare.$"):
        attached("aaa", env="prod.yaml")
    assert spare.asked == []
    assert bastion.verbs() == ["runs"]
    assert away() == []


def test_a_silent_host_is_named_where_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    spare = FakeHost("spare", runs=[ConnectFailed("nothing listens at 10.0.0.2:22", why="refused")])
    attached = Attached(monkeypatch, host("bastion", listed(OLDER)), spare)
    with pytest.raises(UnknownTarget, match="Not asked: spare: refused: nothing listens at 10.0.0.2:22"):
        attached(RUN, env="prod.yaml")
    assert attached("aaa", env="prod.yaml")[0].on == "bastion"  # it does not hide what the others have


def test_a_silent_host_that_was_named_is_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    spare = FakeHost("spare", runs=[ConnectFailed("nothing listens", why="refused")])
    bastion = host("bastion", listed(RUN))
    attached = Attached(monkeypatch, bastion, spare)
    with pytest.raises(ConnectFailed, match="spare: refused: nothing listens. So it cannot be asked for its runs"):
        attached(RUN, env="prod.yaml", on="spare")
    assert bastion.asked == []
    assert attached.clients.closed == 1


def test_several_are_not_guessed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    attached = Attached(monkeypatch, host("bastion", listed(OLDER)), host("spare", listed(RUN)))
    with pytest.raises(UnknownTarget, match=f"2 runs begin with '2026': {OLDER} on bastion, {RUN} on spare"):
        attached("2026", env="prod.yaml")
    for run in (OLDER, RUN):
        sent(run)
    with pytest.raises(UnknownTarget, match="2 runs begin with '2026'"):
        attached("2026")


def test_no_such_run_here_and_no_environment_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    sent(RUN)
    attached = Attached(monkeypatch, host("bastion"))
    with pytest.raises(UnknownTarget, match="no run 'feed' was sent from here .* invoke report.attach feed --env NAME"):
        attached("feed")
    with pytest.raises(UnknownTarget, match="was sent from here"):
        attached("last", on="spare")
    assert attached.clients.opened == 0


@pytest.mark.parametrize(
    ("env", "on", "known"),
    [("prod.yaml", "bastoin", ". It has: bastion, spare"), ("empty.yaml", "", " has no section hosts")],
)
def test_a_host_that_the_inventory_does_not_have(
    monkeypatch: pytest.MonkeyPatch, env: str, on: str, known: str
) -> None:
    bastion = host("bastion", listed(RUN))
    with pytest.raises(EnvironmentInvalid, match=f"{env}{known}"):
        Attached(monkeypatch, bastion)(RUN, env=env, on=on)
    assert bastion.asked == []


def test_which_run_is_the_last_nobody_knows_while_a_host_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    spare = FakeHost("spare", runs=[ConnectFailed("no answer", why="timed out")])
    bastion = host("bastion", listed(RUN))
    with pytest.raises(ConnectFailed, match="spare: timed out: no answer. So nobody knows which run is the last one"):
        Attached(monkeypatch, bastion, spare)("last", env="prod.yaml")


def test_a_host_that_left_the_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    sent(RUN, on="gone")
    with pytest.raises(EnvironmentInvalid, match=f"run {RUN} is on gone, which .*prod.yaml does not have any more"):
        Attached(monkeypatch, host("bastion"))(RUN)
