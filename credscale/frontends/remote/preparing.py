"""A host made ready for a run: what is not there yet is sent and installed, once per version."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.frontends.progress import human_bytes
from credscale.frontends.remote import package
from credscale.frontends.remote.host import SEND_SECONDS, RemoteHost, is_lost

if TYPE_CHECKING:
    from pathlib import Path

Doing = Callable[[str], None]
T = TypeVar("T")
ROOM_BYTES = 1_000_000_000  # for the packages, the wheels they come from, and a run
PAUSES = (1.0, 2.0, 4.0, 8.0, *[15.0] * 7)


def prepare(host: RemoteHost, references: list[str], doing: Doing) -> tuple[str, str, list[str]]:
    """Install on the host what is not there yet.

    Args:
        host: the host.
        references: the environment's secret references.
        doing: receives what is being done.

    Returns:
        the names of the packages and of the version there, and the references that the host can resolve itself.

    Raises:
        PreconditionFailed: it has no room, no Python, or something cannot be installed; carries what was said.
        ConnectFailed: it cannot be reached.
    """
    version = package.version()
    look = patiently(lambda: host.call("look", "", version, *references), reached=False)
    pinned = package.requirements(look["python"], str(look["platform"]).rpartition("-")[2])
    packages = package.name_of(pinned, look)
    look = patiently(lambda: host.call("look", packages, version, *references))
    if not look["packages"]:
        if look["free"] < ROOM_BYTES:
            raise PreconditionFailed(
                f"{host.name} has {human_bytes(look['free'])} left where hosts.{host.name}.folder is, and "
                f"{human_bytes(ROOM_BYTES)} are needed. Nothing was changed. Make room there, or name another folder"
            )
        _install_packages(host, packages, pinned, look, doing)
    if not look["version"]:
        doing("building this version's wheel")
        _install(host, "versions", version, package.pack_version(version), doing)
    return packages, version, look["has"]


def _install_packages(
    host: RemoteHost, packages: str, pinned: tuple[str, ...], look: dict[str, Any], doing: Doing
) -> None:
    """Let the host fetch the packages from its registry, or send them where it cannot."""
    archive = package.pack_requirements(packages, pinned, look, wheels=False)
    try:
        _install(host, "packages", packages, archive, doing)
    except PreconditionFailed as error:
        if "No space left" in str(error) or "virtual environment" in str(error):
            raise
        doing("its registry does not give the packages, so they are downloaded here")
        _install(host, "packages", packages, package.pack_requirements(packages, pinned, look, wheels=True), doing)


def _install(host: RemoteHost, kind: str, name: str, archive: Path, doing: Doing) -> None:
    """Send an archive and let the agent install it; both again where the connection broke in their middle."""

    def work() -> None:
        with archive.open("rb") as file:
            told = cast("BinaryIO", _Told(file, archive.stat().st_size, doing))
            host.call("receive", kind, name, stdin=told, timeout=SEND_SECONDS)
        for line in host.stream("install", kind, name):
            if "doing" in line:
                doing(line["doing"] + (f" ({line['seconds']} s)" if "seconds" in line else ""))

    patiently(work)


class _Told:
    """A file that tells how much of it was read."""

    def __init__(self, file: BinaryIO, size: int, doing: Doing) -> None:
        self._file, self._size, self._doing, self._told = file, size, doing, time.monotonic()

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        if time.monotonic() - self._told > 1.0:
            self._told = time.monotonic()
            self._doing(f"sending it, {human_bytes(self._file.tell())} of {human_bytes(self._size)}")
        return data


def patiently(action: Callable[[], T], *, reached: bool = True) -> T:
    """Do something that may be done twice, and do it again where the connection broke.

    Args:
        action: what to do.
        reached: whether the host was there a moment ago, so that it is worth waiting for.

    Raises:
        ConnectFailed: for two minutes there was no way to it, or it does not let us in.
    """
    for pause in PAUSES if reached else ():
        try:
            return action()
        except ConnectFailed as error:
            if not is_lost(error):
                raise
        time.sleep(pause)
    return action()
