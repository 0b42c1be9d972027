"""Secret values that a process was given instead of finding them on its machine.

A run on another host gets them on its standard input, keeps them in memory, and passes them to the notebook kernel that
it starts through a socket in a folder of its own: never through a file, an environment or an argument. Linux only, as
``--on`` is: who asks is known by ``SO_PEERCRED`` (unix(7)).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import tempfile
import threading
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOCKET = "CREDSCALE_SECRETS_SOCKET"
ASK_SECONDS = 5.0
_held: dict[str, str] = {}


def values() -> Mapping[str, str]:
    """Return the values by reference: those that this process holds, or those of the process that started it."""
    return _held or _asked()


@contextmanager
def held(given: Mapping[str, str]) -> Iterator[None]:
    """Hold values while the block runs, for this process and for those it starts.

    Args:
        given: the values by reference.
    """
    if not given:
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="credscale-"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "secrets"))
        listener.listen(4)
        _held.update(given)
        os.environ[SOCKET] = str(folder / "secrets")
        threading.Thread(target=_serve, args=(listener,), name="secrets", daemon=True).start()
        try:
            yield
        finally:
            _held.clear()
            del os.environ[SOCKET]
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            shutil.rmtree(folder, ignore_errors=True)


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # closed: the run is over
        with client, suppress(OSError):
            client.settimeout(ASK_SECONDS)
            if _is_ours(client):
                client.sendall(json.dumps(_held).encode())


def _is_ours(client: socket.socket) -> bool:
    """Tell whether a process asks that this one started, itself or through others."""
    import psutil

    peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, user, _ = struct.unpack("3i", peer)
    try:
        return user == os.getuid() and os.getpid() in {each.pid for each in psutil.Process(pid).parents()}
    except psutil.Error:
        return False


@cache
def _asked() -> Mapping[str, str]:
    path = os.environ.get(SOCKET)
    if path is None:
        return {}
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(ASK_SECONDS)
        asked.connect(path)
        text = b"".join(iter(lambda: asked.recv(65536), b""))
    return dict(json.loads(text)) if text else {}
