"""A way from here to a port on a remote machine's loopback."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN_SECONDS = 10.0
_CHUNK = 65536


class Tunnel:
    """Forward connections to a socket file here to a port of the remote loopback, over SSH.

    A socket file in a folder of mode 0700 rather than a port: while MongoDB's localhost exception holds, a port would
    let every user of this machine make himself the cluster's administrator.

    Args:
        transport: returns the live SSH transport.
        port: on the remote 127.0.0.1.
        name: of the machine; messages of the driver show it as a part of the socket's path.
    """

    def __init__(self, transport: Callable[[], Any], port: int, name: str) -> None:
        self._transport, self._port = transport, port
        self._folder = Path(tempfile.mkdtemp(prefix="credscale-"))
        self.path = str(self._folder / f"{re.sub('[^A-Za-z0-9.-]', '_', name)[:30]}-{port}.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(16)
        threading.Thread(target=self._accept, name=f"tunnel-{port}", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(client,), name=f"tunnel-{self._port}", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Carry one connection; when the port does not answer, hang up, which is what the driver expects of it."""
        with client:
            try:
                channel = self._transport().open_channel(
                    "direct-tcpip", ("127.0.0.1", self._port), ("127.0.0.1", 0), timeout=OPEN_SECONDS
                )
            except Exception:  # noqa: BLE001 - a thread's end: the driver sees the closed connection and reports it
                return
            with channel:
                back = threading.Thread(target=_pump, args=(channel, client), daemon=True)
                back.start()
                _pump(client, channel)
                back.join()

    def close(self) -> None:
        """Take no more connections; those that are open end with the transport."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _pump(source: Any, target: Any) -> None:
    """Copy bytes one way until the source ends, then tell the target and wake the other direction."""
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
    except (OSError, EOFError):
        pass  # either side hung up: the connection is over
    for end in (source, target):
        with suppress(OSError, EOFError):
            end.shutdown(2)
