"""How a run elsewhere ends for the terminal that watches it: its outcome, its evidence, what is remembered of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.secrets import Secrets
from credscale.frontends.remote import following, preparing
from credscale.frontends.remote.records import Sent, away, remember
from credscale.frontends.remote.watching import watch
from tests.frontends.remote.fake_host import RUN, FakeHost, ended, evidence, quiet_terminal, shown

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.frontends.run import Outcome

SENT = Sent(RUN, "shard-migrate", "prod", "prod.yaml", "bastion", {})
AGAIN = f"invoke report.attach {RUN}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember one run, and never pause."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(following, "PAUSES", (0.0,))
    monkeypatch.setattr(preparing, "PAUSES", (0.0, 0.0))
    remember(SENT)


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, bytes], str]:
    return evidence(tmp_path / "there", monkeypatch)


def watched(host: FakeHost, secrets: Secrets | None = None) -> tuple[Outcome, str]:
    front, out = quiet_terminal()
    outcome = watch(host, SENT, secrets if secrets is not None else Secrets(), front)  # type: ignore[arg-type]
    return outcome, out.getvalue()


def remembered() -> bool:
    return away() == [SENT]


def of(outcome: Outcome) -> tuple[Any, ...]:
    return outcome.code, outcome.status, outcome.changes, outcome.run, outcome.folder


@pytest.mark.parametrize(
    ("code", "status", "problem"), [(0, "ok", ""), (1, "failed", "shard1 is full"), (3, "refused", "not confirmed")]
)
def test_a_run_that_ended(sealed: tuple[dict[str, bytes], str], code: int, status: str, problem: str) -> None:
    files, signer = sealed
    last = ended(code=code, status=status, problem=problem, signer=signer)
    host = FakeHost(follow=[shown({"said": "moved a chunk\n"}, last)])
    host.files = files
    outcome, out = watched(host)
    assert of(outcome) == (code, status, 2, RUN, SENT.folder)
    assert (outcome.problem, outcome.signer) == (problem, signer)
    assert {path.name: path.read_bytes() for path in SENT.folder.iterdir()} == files
    assert out.startswith("moved a chunk\n3 files came back from bastion")
    assert f"signed on bastion with {signer}" in out
    assert not remembered()


def test_a_run_that_ended_without_evidence() -> None:
    last = ended(code=3, status="refused", changes=1, problem="someone else works on it", evidence=False)
    host = FakeHost(follow=[shown({"said": "✗ refused\n"}, last)])
    outcome, out = watched(host)
    assert (outcome.code, outcome.status, outcome.changes, outcome.folder) == (3, "refused", 1, None)
    assert outcome.problem == "someone else works on it"
    assert out == "✗ refused\n"
    assert host.verbs() == ["follow"]
    assert not remembered()


def test_detached() -> None:
    outcome, out = watched(FakeHost(follow=[shown(KeyboardInterrupt())]))
    assert of(outcome) == (1, "detached", None, RUN, None)
    assert out == f"Detached; the run goes on at bastion. Watch it again: {AGAIN}\n"
    assert remembered()


@pytest.mark.parametrize(
    "error", [ConnectFailed("another host key", why="host key"), PreconditionFailed("follow failed: killed")]
)
def test_lost(error: Exception) -> None:
    outcome, out = watched(FakeHost(follow=[shown(error)]))
    assert of(outcome) == (1, "detached", None, RUN, None)
    assert outcome.problem == str(error)
    assert f"✗ bastion was lost: {error}\nThe run may go on there. Watch it again: {AGAIN}\n" in out
    assert remembered()


def test_gone() -> None:
    outcome, out = watched(FakeHost(follow=[shown({"gone": "there is no run"})]))
    assert of(outcome) == (1, "gone", None, RUN, None)
    assert outcome.problem.startswith("there is no run. What it has changed can only be seen at its target")
    assert out == f"✗ bastion knows nothing of this run: {outcome.problem}\n"
    assert not remembered()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PreconditionFailed("evidence failed: killed"), "evidence failed: killed"),
        (ConnectFailed("unreachable", why="unreachable"), "unreachable"),
        (KeyboardInterrupt(), "interrupted by the operator"),
    ],
)
@pytest.mark.parametrize(("code", "status"), [(0, "ok"), (1, "failed")])
def test_evidence_that_cannot_come(error: BaseException, said: str, code: int, status: str) -> None:
    host = FakeHost(follow=[shown(ended(code=code, status=status))], evidence=[error])
    outcome, out = watched(host)
    assert of(outcome) == (1, status, 2, RUN, None)
    assert outcome.problem == said
    assert f"✗ shard-migrate ended ({status}), but its evidence is not here: {said}\nTry again: {AGAIN}\n" in out
    assert remembered()
    assert not SENT.folder.exists()


def test_evidence_comes_although_the_connection_broke(sealed: tuple[dict[str, bytes], str]) -> None:
    files, signer = sealed
    told = {"files": FakeHost.told(files)}
    host = FakeHost(follow=[shown(ended(signer=signer))], evidence=[ConnectFailed("cut", why="broken"), told])
    host.files = files
    outcome, _ = watched(host)
    assert of(outcome) == (0, "ok", 2, RUN, SENT.folder)
    assert host.verbs() == ["follow", "evidence", "evidence"]
    assert not remembered()


def test_evidence_that_another_key_signed_is_not_taken(sealed: tuple[dict[str, bytes], str]) -> None:
    host = FakeHost(follow=[shown(ended(signer="SHA256:" + "A" * 43))])
    host.files = sealed[0]
    outcome, out = watched(host)
    assert of(outcome) == (1, "ok", 2, RUN, None)
    assert "none of the trusted keys" in out
    assert remembered()


def test_evidence_with_a_secret_of_ours_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDSCALE_TEST_PASSWORD", "hunter2hunter2")
    secrets = Secrets()
    secrets.resolve("env:CREDSCALE_TEST_PASSWORD")
    files, signer = evidence(tmp_path / "there", monkeypatch, text="password hunter2hunter2")
    host = FakeHost(follow=[shown(ended(signer=signer))])
    host.files = files
    outcome, out = watched(host, secrets)
    assert of(outcome) == (1, "ok", 2, RUN, None)
    assert "a secret stands in journal.jsonl" in out
    assert "hunter2hunter2" not in out + outcome.problem
    assert remembered()


@pytest.mark.parametrize(
    ("words", "why"),
    [("Traceback\nMemoryError: 3 GB", "MemoryError: 3 GB"), ("", "its process is gone without a word, as after a reb")],
)
def test_a_run_that_died(sealed: tuple[dict[str, bytes], str], words: str, why: str) -> None:
    journal = b"".join(sealed[0]["journal.jsonl"].splitlines(keepends=True)[:-1])
    host = FakeHost(follow=[shown({"died": words})])
    host.files = {"journal.jsonl": journal}
    outcome, out = watched(host)
    assert of(outcome) == (1, "killed", 2, RUN, SENT.folder)
    assert f"✗ shard-migrate was killed on bastion: {why}" in out
    assert "Running it again goes on from there\nChanged so far:\n" in out
    assert "  ✎ move chunk 2 (its end was not seen)\n" in out
    assert "  ✎ move chunk 1\n" in out
    assert "they are not signed, because the run did not come to its end" in out
    assert (SENT.folder / "journal.jsonl").read_bytes() == journal
    assert not remembered()


def test_a_run_that_died_before_it_wrote_anything() -> None:
    outcome, out = watched(FakeHost(follow=[shown({"died": "no space"})]))
    assert of(outcome) == (1, "killed", None, RUN, None)
    assert "bastion has no evidence of it" in out
    assert not remembered()


def test_a_run_that_died_whose_evidence_cannot_come() -> None:
    host = FakeHost(follow=[shown({"died": ""})], evidence=[PreconditionFailed("no")])
    outcome, out = watched(host)
    assert of(outcome) == (1, "killed", None, RUN, None)
    assert "ended (killed), but its evidence is not here" in out
    assert remembered()
