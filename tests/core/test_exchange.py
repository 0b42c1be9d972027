"""A program over a channel: whatever order its output, its exit code and the end of the connection come in."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from paramiko.buffered_pipe import BufferedPipe

from credscale.core.machines.exchange import Exchange, Watchdog
from credscale.core.machines.sudo import Sudo


class Transport:
    """A connection that is open, or not any more."""

    def __init__(self) -> None:
        self.active = True

    def join(self, _timeout: float) -> None:
        return

    def is_active(self) -> bool:
        return self.active


class Channel:
    """What paramiko's channel does, with the other end played by the test."""

    def __init__(self, window: int = 100) -> None:
        self.in_buffer, self.in_stderr_buffer, self.status_event = BufferedPipe(), BufferedPipe(), threading.Event()
        self.transport = Transport()
        self.exit_status, self.closed, self.eof_received = -1, False, False
        self.window, self.sent, self.sent_all = window, b"", False

    def exec_command(self, _command: str) -> None:
        return

    def recv_ready(self) -> bool:
        return bool(self.in_buffer.read_ready())

    def recv_stderr_ready(self) -> bool:
        return bool(self.in_stderr_buffer.read_ready())

    def recv(self, count: int) -> Any:
        return self.in_buffer.read(count, 0.0)

    def recv_stderr(self, count: int) -> Any:
        return self.in_stderr_buffer.read(count, 0.0)

    def send_ready(self) -> bool:
        return self.window > 0

    def send(self, data: bytes) -> int:
        taken = data[: self.window]
        self.sent, self.window = self.sent + taken, self.window - len(taken)
        return len(taken)

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def shutdown_write(self) -> None:
        self.sent_all = True

    def end(self, code: int) -> None:
        self.exit_status = code
        self.status_event.set()

    def close(self) -> None:
        self.closed = True
        self.status_event.set()
        self.in_buffer.close()
        self.in_stderr_buffer.close()


def rest(exchange: Exchange) -> tuple[bytes, bytes]:
    """Step to the end."""
    out = err = b""
    while not exchange.ended:
        more, complaint = exchange.step(0.01)
        out, err = out + more, err + complaint
    return out, err


def test_output_that_came_before_the_end_is_not_lost() -> None:
    channel = Channel()
    exchange = Exchange(channel, "prog", b"", None)
    channel.in_buffer.feed(b"x" * 300_000)
    channel.in_stderr_buffer.feed(b"err")
    channel.end(3)
    channel.close()
    assert rest(exchange) == (b"x" * 300_000, b"err")
    assert exchange.code == 3


def test_output_may_come_after_the_exit_code_and_a_stream_may_stay_open() -> None:
    channel = Channel()
    exchange = Exchange(channel, "prog", b"", None)
    channel.end(0)
    exchange.step(0.01)
    exchange.step(0.01)
    assert not exchange.ended, "the stream is still open"
    channel.in_buffer.feed(b"late")
    assert rest(exchange) == (b"late", b""), "and stays so, because a child of the program has it"
    assert exchange.code == 0


@pytest.mark.parametrize("stdin", [b"", b"input"])
def test_a_channel_that_closes_while_input_is_sent_has_an_answer_all_the_same(
    stdin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program ends without reading everything, and paramiko hears of it after we looked, before we send."""
    channel = Channel()

    def closed(*_: object) -> None:
        channel.end(7)
        channel.close()
        raise OSError("Socket is closed")

    monkeypatch.setattr(channel, "send", closed)
    monkeypatch.setattr(channel, "shutdown_write", closed)
    exchange = Exchange(channel, "prog", stdin, None)
    channel.in_buffer.feed(b"head")
    assert rest(exchange) == (b"head", b"")
    assert exchange.code == 7


def test_a_connection_that_breaks_while_input_is_sent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel()

    def broken(_data: bytes) -> int:
        channel.transport.active = False
        channel.close()
        raise OSError("Socket is closed")

    monkeypatch.setattr(channel, "send", broken)
    exchange = Exchange(channel, "prog", b"input", None)
    with pytest.raises(EOFError, match="the connection ended before the program did"):
        rest(exchange)


def test_input_that_cannot_be_sent_on_an_open_channel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel()

    def late(_data: bytes) -> int:
        raise TimeoutError

    monkeypatch.setattr(channel, "send", late)
    with pytest.raises(TimeoutError):
        rest(Exchange(channel, "prog", b"input", None))


def test_a_program_that_a_signal_ended_is_not_a_broken_connection() -> None:
    channel = Channel()
    exchange = Exchange(channel, "prog", b"", None)
    channel.close()
    assert rest(exchange) == (b"", b"")
    assert exchange.code == -1


def test_a_connection_that_ended_first_is_an_error() -> None:
    channel = Channel()
    exchange = Exchange(channel, "prog", b"", None)
    channel.in_buffer.feed(b"some")
    channel.transport.active = False
    channel.close()
    with pytest.raises(EOFError, match="before the program did"):
        rest(exchange)


def test_input_goes_as_the_other_end_takes_it_while_output_comes() -> None:
    channel = Channel(window=10)
    exchange = Exchange(channel, "cat", b"0123456789" * 3, None)
    for number in range(1, 4):
        exchange.step(0.01)
        assert channel.sent == b"0123456789" * number
        channel.in_buffer.feed(b"back")
        assert exchange.step(0.01) == (b"back", b"")
        channel.window += 10
    exchange.step(0.01)
    assert channel.sent_all
    channel.end(0)
    channel.close()
    rest(exchange)


def test_a_program_that_has_closed_its_output_still_gets_its_input() -> None:
    channel = Channel(window=10)
    exchange = Exchange(channel, "cat >file", b"0123456789" * 2, None)
    channel.eof_received = True
    for _ in range(3):
        exchange.step(0.01)
        channel.window += 10
    assert (channel.sent, channel.sent_all) == (b"0123456789" * 2, True)
    channel.end(0)
    assert rest(exchange) == (b"", b"")


def test_a_program_that_ended_gets_no_more_input() -> None:
    channel = Channel(window=10)
    exchange = Exchange(channel, "head", b"0123456789" * 2, None)
    exchange.step(0.01)
    channel.end(0)
    channel.window += 10
    exchange.step(0.01)
    assert channel.sent == b"0123456789"


def test_input_is_kept_back_until_sudo_has_started_the_program() -> None:
    channel = Channel()
    sudo = Sudo("box", lambda: "horse", "env:P")
    words = sudo.words(["cat"])
    exchange = Exchange(channel, "cat", b"input", sudo)
    exchange.step(0.01)
    assert channel.sent == b""
    channel.in_stderr_buffer.feed(words[3].encode())
    exchange.step(0.01)
    assert channel.sent == b"horse\n"
    exchange.step(0.01)
    assert channel.sent == b"horse\n"
    channel.in_buffer.feed(words[-2].encode() + b"out")
    assert exchange.step(0.01) == (b"out", b"")
    exchange.step(0.01)
    assert channel.sent == b"horse\ninput"


def test_a_watchdog_bites_when_the_time_is_up_and_only_then() -> None:
    events = [threading.Event() for _ in range(4)]
    with Watchdog(0.01, (event.set() for event in events[:2])) as watchdog:
        assert events[0].wait(10)
        assert watchdog.bitten
        assert events[1].wait(10), "what hangs on gets a second one"
    with Watchdog(60, (event.set() for event in events[2:3])) as watchdog:
        watchdog.calm(float("inf"))
    assert not watchdog.bitten
    assert not events[2].is_set()
    with Watchdog(float("inf"), (event.set() for event in events[3:])) as watchdog:
        watchdog.calm(0.01)
        assert events[3].wait(10), "the time may be set nearer"
