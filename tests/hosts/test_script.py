"""The question to a host: what it tells cannot be imitated, and its clock is bounded by question and answer."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.errors import ConnectFailed
from credscale.core.machines import Completed, LocalMachine
from credscale.hosts.script import SERVERS, ask, bounds, narrowed, split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EVIL = "a b;touch $(x) 'y' \"z\" \\ * ü"


def test_this_machine_tells_everything_in_one_go(tmp_path: Path) -> None:
    folder = tmp_path / EVIL
    folder.mkdir()
    told = ask(LocalMachine(), ["/", str(folder), "/no such folder"], 30.0)
    assert {"clock", "system", "disk 0", "inodes 1", "libc", "version python3", "end"} <= set(told.parts)
    assert "No such file" in told.parts["disk 2"]
    assert told.least <= 0 <= told.most, "this machine's clock is its own"
    assert [path.name for path in tmp_path.iterdir()] == [EVIL], "no value is read as shell text"


def test_a_server_is_found_by_its_name_and_told_with_its_own_limits(tmp_path: Path) -> None:
    program = tmp_path / SERVERS[0]
    program.symlink_to("/bin/sleep")
    limited = ["sh", "-c", 'ulimit -n 321; exec "$1" 60', "sh", str(program)]
    with subprocess.Popen(limited) as server:
        try:
            parts: dict[str, str] = {}
            while not any(name == f"process {server.pid} mongod" for name in parts):
                parts = dict(ask(LocalMachine(), [], 30.0).parts)
        finally:
            server.kill()
    assert " 321 " in parts[f"process {server.pid} mongod"]


class Slow(LocalMachine):
    """A host whose first answer takes the time of a connection, and whose clock is ahead."""

    def __init__(self, clock: list[float], *, ahead: float, first: float) -> None:
        super().__init__()
        self._clock, self._ahead, self._first, self.questions = clock, ahead, first, 0

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        self.questions += 1
        self._clock[0] += self._first if self.questions == 1 else 0.01
        moment = f"{self._clock[0] + self._ahead:.9f}"
        mark = argv[4] if len(argv) > 4 else ""
        text = f"\n{mark} clock\n{moment}\n\n{mark} end\n{moment}\n" if mark else moment
        self._clock[0] += 0.01
        return Completed(0, text.encode(), b"")


def test_the_clock_is_read_again_when_the_connection_took_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_000_000.0]
    monkeypatch.setattr("credscale.hosts.script.time.time", lambda: clock[0])
    quick, slow = Slow(clock, ahead=-2.0, first=0.02), Slow(clock, ahead=-2.0, first=3.0)
    assert (ask(quick, [], 5.0).most, quick.questions) == (pytest.approx(-1.98, abs=1e-3), 1)
    told = ask(slow, [], 5.0)
    assert slow.questions == 2
    assert (told.least, told.most) == (pytest.approx(-2.01, abs=1e-3), pytest.approx(-1.99, abs=1e-3))


def test_an_answer_is_not_lost_for_the_sake_of_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_000_000.0]
    monkeypatch.setattr("credscale.hosts.script.time.time", lambda: clock[0])

    class Gone(Slow):
        def run(self, argv: Sequence[str], **extra: Any) -> Completed:
            if self.questions:
                assert extra["timeout"] == pytest.approx(0.995), "half of what is left"
                raise ConnectFailed("the connection broke", "broken")
            return super().run(argv, **extra)

    told = ask(Gone(clock, ahead=-2.0, first=3.0), [], 5.0)
    assert (told.least, told.most) == (pytest.approx(-2.01, abs=1e-3), pytest.approx(1.0, abs=1e-3))


def test_what_a_program_prints_is_no_part() -> None:
    text = "Welcome!\n==1 disk 9\n\n==ab clock\n5.0\n\n==ab version mongod\n==1 clock\n\n==ab disk 0\n\n==ab end\n6\n"
    assert split(text, "==ab") == {"clock": "5.0", "version mongod": "==1 clock", "disk 0": "", "end": "6"}


@given(st.text(), st.text(max_size=3))
def test_any_text_can_be_split(text: str, mark: str) -> None:
    assert all(isinstance(part, str) for part in split(text, mark).values())


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ("1005.000000000", "1006.000000000", (4.0, 5.0)),  # asked at 1000, answered at 1002
        ("1005.%N", "1006.%N", (4.0, 6.0)),  # whole seconds: a second more in doubt
        ("1005", "1006", (4.0, 6.0)),
        ("", "1006", (float("-inf"), float("inf"))),
        ("date: command not found", "1", (float("-inf"), float("inf"))),
        ("٣.٤", "1", (float("-inf"), float("inf"))),
    ],
)
def test_bounds(first: str, last: str, expected: tuple[float, float]) -> None:
    assert bounds(first, last, 1000.0, 1002.0) == expected


@given(
    ahead=st.floats(-100, 100), there=st.floats(0, 5), inside=st.floats(0, 5), back=st.floats(0, 5),
    whole=st.booleans(),
)  # fmt: skip
def test_the_bounds_hold_the_truth(*, ahead: float, there: float, inside: float, back: float, whole: bool) -> None:
    """However long the ways took, and whether or not the host prints fractions."""
    before = 1_000_000.0
    first, last = before + there + ahead, before + there + inside + ahead
    shown = [f"{int(each)}.%N" if whole else f"{each:.9f}" for each in (first, last)]
    least, most = bounds(*shown, before, before + there + inside + back)
    assert least - 1e-6 <= ahead <= most + 1e-6


def test_two_measures_together() -> None:
    assert narrowed((-3.0, 0.1), (-0.2, 0.3)) == (-0.2, 0.1)
    assert narrowed((5.0, 6.0), (-0.1, 0.1)) == (-0.1, 0.1), "the clock was set meanwhile"
