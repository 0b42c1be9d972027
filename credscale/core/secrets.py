"""Secret references: resolved as late as possible, masked everywhere else.

A reference is ``env:NAME``, ``file:PATH`` or ``keyring:SERVICE/USER``. The value it stands for never enters a
parameter, a journal, a notebook or an exception text. A value that was handed to this process from the machine that
the operator works at stands in for one that this machine does not have.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_plus

from credscale.core import handed
from credscale.core.errors import EnvironmentInvalid, MissingExtra

MASK = "********"
_REFERENCE = re.compile(r"^(env|file|keyring):(.+)$", re.DOTALL)
_URI_PASSWORD = re.compile(r"(?<=://)([^/?@\s:]*):([^/?@\s]+)@")
_SHORTEST = 4  # shorter values would hide half of every report and guard nothing


def is_reference(text: str) -> bool:
    """Tell whether a text is a secret reference."""
    return _REFERENCE.match(text) is not None


def has_password(uri: str) -> bool:
    """Tell whether a connection string carries a password."""
    return _URI_PASSWORD.search(uri) is not None


class Secrets:
    """Resolve references and hide what they resolved to."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def resolve(self, reference: str) -> str:
        """Return the value behind a reference, or the text itself when it is none.

        Raises:
            EnvironmentInvalid: the variable, file or keyring entry is absent; the message names it, never a value.
            MissingExtra: a keyring reference without the ``keyring`` package.
        """
        match = _REFERENCE.match(reference)
        if match is None:
            self._remember_uri(reference)
            return reference
        value = _read(reference, match[1], match[2]).strip()
        if not value:
            raise EnvironmentInvalid(f"the secret reference {reference!r} is empty")
        if has_password(value):
            self._remember_uri(value)
        elif match[1] != "file" or "://" not in value:
            self._values.add(value)
        return value

    def _remember_uri(self, uri: str) -> None:
        for _, password in _URI_PASSWORD.findall(uri):
            self._values |= {password, unquote_plus(password)}

    @property
    def values(self) -> frozenset[str]:
        """Every resolved value that is long enough to be hidden."""
        return frozenset(value for value in tuple(self._values) if len(value) >= _SHORTEST)

    def mask(self, text: str) -> str:
        """Return the text with every resolved value and every password in a connection string hidden."""
        for value in sorted(self.values, key=len, reverse=True):
            text = text.replace(value, MASK)
        return _URI_PASSWORD.sub(lambda match: f"{match[1]}:{MASK}@", text)


def _read(reference: str, kind: str, name: str) -> str:
    """Return what was handed to this process, because this machine lacks it, or else what this machine has."""
    given = handed.values().get(reference)
    return given if given is not None else _READERS[kind](name)


def _from_environment(name: str) -> str:
    if name not in os.environ:
        raise EnvironmentInvalid(f"the environment variable {name} is not set. Set it: export {name}=...")
    return os.environ[name]


def _from_file(name: str) -> str:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise EnvironmentInvalid(f"the secret file {name} cannot be read: {error.strerror}") from None


def _from_keyring(name: str) -> str:
    try:
        import keyring
    except ImportError:
        raise MissingExtra("keyring", "keyring", "a keyring: reference") from None
    service, _, user = name.partition("/")
    try:
        value = keyring.get_password(service, user)
    except keyring.errors.KeyringError as error:
        raise EnvironmentInvalid(f"the keyring cannot be asked: {type(error).__name__}") from None
    if value is None:
        raise EnvironmentInvalid(f"the keyring has no entry {service!r} for user {user!r}")
    return str(value)


_READERS = {"env": _from_environment, "file": _from_file, "keyring": _from_keyring}
