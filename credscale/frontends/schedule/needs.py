"""What of this machine an environment refers to, and how a pod gets it: variables and files from one Secret."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from credscale.core.errors import EnvironmentInvalid
from credscale.core.secrets import is_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.frontends.schedule.asked import Asked

HOME = "/home/credscale"  # of the pod's user
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_KEY = re.compile(r"[-._A-Za-z0-9]+")


@dataclass(frozen=True)
class Needs:
    """What the Secret must hold: variables by name, files by the key they lie under."""

    variables: tuple[str, ...]
    files: dict[str, str]


def needs_of(asked: Asked) -> Needs:
    """Return which secrets and files of this machine an environment refers to.

    Raises:
        EnvironmentInvalid: it needs a keyring or a lab, which a pod has not got, or a file by a relative path.
    """
    environment = asked.environment
    if environment.lab is not None:
        raise EnvironmentInvalid(f"{environment.path}: the section lab is a cluster on this machine; a pod has none")
    variables: set[str] = set()
    paths = set(_local_files(asked))
    for reference in _references(yaml.safe_load(environment.path.read_text(encoding="utf-8"))):
        kind, _, name = reference.partition(":")
        if kind == "keyring":
            raise EnvironmentInvalid(
                f"{environment.path}: {reference!r}: a pod has no keyring. Use env:NAME or file:PATH"
            )
        if kind == "env" and not _VARIABLE.fullmatch(name):
            raise EnvironmentInvalid(f"{environment.path}: {reference!r} does not name a variable")
        (variables if kind == "env" else paths).add(name)
    files: dict[str, str] = {}
    for path in sorted(paths):
        key, place = _file(environment.path, path)
        if files.get(key, place) != place or key in variables:
            raise EnvironmentInvalid(f"{environment.path}: two secrets would have the key {key!r}; rename {path}")
        files[key] = place
    return Needs(tuple(sorted(variables)), files)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str) and is_reference(value):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def _local_files(asked: Asked) -> Iterator[str]:
    """Yield the files of this machine that are no secret references: keys and lists of hosts, certificates of Redis."""
    environment = asked.environment
    for host in environment.hosts.values():
        yield host.known_hosts or "~/.ssh/known_hosts"
        yield from (host.key,) if host.key else ()
    if environment.redis is not None and environment.redis.tls is not None:
        tls = environment.redis.tls
        yield from (path for path in (tls.ca, tls.certificate, tls.key) if path)


def _file(environment: Path, path: str) -> tuple[str, str]:
    """Return under which key a file lies in the Secret, and where the pod finds it."""
    place = PurePosixPath(HOME, path[2:]) if path.startswith("~/") else PurePosixPath(path)
    if not place.is_absolute() or ".." in place.parts or not _SECRET_KEY.fullmatch(place.name):
        raise EnvironmentInvalid(
            f"{environment}: the file {path!r} cannot be mounted in a pod. Give it an absolute path, or one that "
            "begins with ~/, and a name of letters, digits and . _ -"
        )
    return place.name, str(place)
