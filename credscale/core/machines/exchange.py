"""One program over an SSH channel: its input sent while its output comes, without a call that could block for ever."""

from __future__ import annotations

import threading
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import BinaryIO, Self

    from credscale.core.machines.sudo import Sudo

_CHUNK = 32768  # what OpenSSH takes in one packet
_LOOK_SECONDS = 0.1  # how often a silent program is looked at; what it prints wakes us at once
_WINDOW_SECONDS = 0.005  # how often we look whether more input may be sent
_LATE_OUTPUT_SECONDS = 1.0  # output may come after the exit code; a server that forked away holds the stream for ever
_LOOK_AGAIN_SECONDS = 1.0  # the time may have been set nearer meanwhile
_END_SECONDS = 0.2  # a connection that broke closes its channels a moment before it counts as closed itself


class _Bell(threading.Event):
    """What paramiko rings when something came; it also stops it when one of two streams is read empty."""

    def clear(self) -> None:
        """Leave it ringing: only who listens stops it."""

    def quiet(self) -> None:
        super().clear()


class Exchange:
    """A running program's streams.

    Args:
        channel: an open channel on which nothing was started yet.
        command: one line for the user's shell over there.
        stdin: what the program reads.
        sudo: how it becomes root; None when it does not.
    """

    def __init__(self, channel: Any, command: str, stdin: bytes | BinaryIO, sudo: Sudo | None) -> None:
        self._channel, self._sudo = channel, sudo
        self._source = BytesIO(stdin) if isinstance(stdin, bytes) else stdin
        self._pending = b""
        self._fed = False
        self._bell = _Bell()
        self._status_since = 0.0
        channel.exec_command(command)
        channel.in_buffer.set_event(self._bell)
        channel.in_stderr_buffer.set_event(self._bell)
        self.ended = False

    @property
    def code(self) -> int:
        """The exit code; -1 when a signal ended the program."""
        return int(self._channel.exit_status)

    def step(self, seconds: float) -> tuple[bytes, bytes]:
        """Send and receive what is possible now, or wait a little for it.

        Args:
            seconds: to wait at most when there is nothing to do.

        Returns:
            what came on the program's output and error output.

        Raises:
            EOFError: the connection ended before the program did.
        """
        channel = self._channel
        self._bell.quiet()
        # in this order: output that is there when the end is seen must not be left behind
        closed, status = channel.closed, channel.status_event.is_set() and channel.exit_status != -1
        sent = self._send()
        out = channel.recv(_CHUNK * 2) if channel.recv_ready() else b""
        err = channel.recv_stderr(_CHUNK * 2) if channel.recv_stderr_ready() else b""
        if out or err or sent:
            self._status_since = 0.0
            return self._own(out, err)
        if closed and not status:
            channel.transport.join(_END_SECONDS)
            if not channel.transport.is_active():
                raise EOFError("the connection ended before the program did")
        if status and not self._status_since:
            self._status_since = time.monotonic()
        late = status and time.monotonic() - self._status_since > _LATE_OUTPUT_SECONDS
        if closed or late or (status and channel.eof_received):
            self.ended = True
        else:
            more = _LOOK_SECONDS if self._fed or self._held else _WINDOW_SECONDS
            self._bell.wait(min(seconds, more))
        return b"", b""

    def _own(self, out: bytes, err: bytes) -> tuple[bytes, bytes]:
        """Leave out what sudo said, and answer it."""
        if self._sudo is None or self._sudo.started:
            return out, err
        answer, out, err = self._sudo.hear(out, err)
        if answer:
            self._channel.sendall(answer)
        return out, err

    @property
    def _held(self) -> bool:
        """Whether input is kept back because sudo would read it."""
        return self._sudo is not None and not self._sudo.started

    def _send(self) -> bool:
        """Send as much input as the other end takes now, and the end of it; tell whether anything went."""
        if self._fed or self._held:
            return False
        if self._channel.closed or self._channel.status_event.is_set():
            self._fed = True  # the program ended without reading everything, which is its right
            return False
        if not self._pending:
            self._pending = self._source.read(_CHUNK)
        try:
            return self._send_pending()
        except OSError:
            if not self._channel.closed:
                raise
            self._fed = True  # it ended after we looked; whether the program did or the connection shows next
            return False

    def _send_pending(self) -> bool:
        if not self._pending:
            self._channel.shutdown_write()
            self._fed = True
            return True
        if not self._channel.send_ready():
            return False
        self._pending = self._pending[self._channel.send(self._pending) :]
        return True


class Watchdog:
    """Break a connection when the time is up, so that a call that hangs in it ends.

    Whoever is in the ``with`` block watches the time as well; this one comes after, for a socket that takes nothing.

    Args:
        seconds: until the time is up.
        bites: each breaks more of the connection, a second after the one before; taken from another thread.
    """

    def __init__(self, seconds: float, bites: Iterable[object]) -> None:
        self._until, self._bites, self._done = time.monotonic() + seconds, iter(bites), threading.Event()
        self.bitten = False

    def calm(self, seconds: float) -> None:
        """Give it another time, from now."""
        self._until = time.monotonic() + seconds

    def _watch(self) -> None:
        while not self._done.wait(min(_LOOK_AGAIN_SECONDS, max(0.0, self._until - time.monotonic()))):
            if time.monotonic() >= self._until:
                self.bitten = True
                if next(self._bites, self) is self:
                    return
                self._until += _LOOK_AGAIN_SECONDS

    def __enter__(self) -> Self:
        """Start watching."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop watching."""
        self._done.set()
