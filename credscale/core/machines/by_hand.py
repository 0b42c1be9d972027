"""fabric's connection over a machine's own one: for work by hand, where ``run`` prints what comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fabric import Config, Connection
from paramiko import SSHClient

if TYPE_CHECKING:
    from collections.abc import Callable


class _OpenedClient(SSHClient):  # type: ignore[misc]
    """A client whose connection others opened and verified; fabric asks it for SFTP and sessions."""

    def carry(self, transport: Any) -> None:
        """Use a connection."""
        self._transport = transport

    def connect(self, *_: Any, **__: Any) -> None:
        """Refuse: by itself it would accept what the strict way does not."""
        raise TypeError("the machine connects, not its client")


class ByHand(Connection):  # type: ignore[misc]
    """A ``fabric.Connection`` that leaves connecting to the machine, which verifies the host's key.

    Args:
        address: for fabric's texts.
        user: likewise.
        port: likewise.
        transport: returns the machine's open connection.
    """

    _opened: Any = None  # a class attribute, because fabric turns unknown ones into configuration

    def __init__(self, address: str, user: str, port: int, transport: Callable[[], Any]) -> None:
        super().__init__(address, user=user, port=port, config=Config(overrides={"load_ssh_configs": False}))
        self._opened = transport
        self.client = _OpenedClient()

    def open(self) -> None:
        """Connect unless that was done."""
        if not self.is_connected:
            self.transport = self._opened()
            self.client.carry(self.transport)
