"""Host keys: which are known, which are revoked, and how a new one is accepted by the person who compared it."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import os
import re
import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, EnvironmentInvalid

if TYPE_CHECKING:
    from credscale.core.sections import Host

SSH_PORT = 22
_HASHED = "|1|"
_SHORTEST_LINE = 3  # hosts, type and key


@dataclass(frozen=True)
class KnownKeys:
    """What a known_hosts file says about one host.

    Args:
        path: of the file.
        keys: keys it is known by, as (type, key).
        revoked: keys that must never be accepted for it, as (type, key).
        authority: whether the file names an authority that signs its keys, which is not supported.
    """

    path: Path
    keys: tuple[tuple[str, bytes], ...] = ()
    revoked: tuple[tuple[str, bytes], ...] = ()
    authority: bool = False

    @property
    def types(self) -> set[str]:
        """The types of the keys it is known by."""
        return {kind for kind, _ in self.keys}


def known_keys(host: Host) -> KnownKeys:
    """Read what is known about a host, the way sshd(8) describes the file: hashed names, patterns, ports, markers.

    paramiko reads the same file but takes no notice of ``@revoked``, of patterns, and of a second key of a type.

    Raises:
        EnvironmentInvalid: the file cannot be read.
    """
    path = Path(host.known_hosts or "~/.ssh/known_hosts").expanduser()
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return KnownKeys(path)
    except OSError as error:
        raise EnvironmentInvalid(f"the file {path} of known host keys cannot be read: {error.strerror}") from None
    return parse(text, name_of(host), path)


def parse(text: str, name: str, path: Path) -> KnownKeys:
    """Return what the lines of a known_hosts file say about one host; lines that make no sense say nothing.

    Args:
        text: the file's contents.
        name: the host as such a file calls it, see ``name_of``.
        path: of the file.
    """
    found: dict[str, list[tuple[str, bytes]]] = {"": [], "@revoked": [], "@cert-authority": []}
    for marker, patterns, kind, key in _lines(text):
        if marker in found and _names(patterns, name):
            try:
                found[marker].append((kind, base64.b64decode(key, validate=True)))
            except ValueError:
                continue
    return KnownKeys(path, tuple(found[""]), tuple(found["@revoked"]), bool(found["@cert-authority"]))


@lru_cache(maxsize=4)  # fifty hosts ask for the same file
def _lines(text: str) -> tuple[tuple[str, str, str, str], ...]:
    """Return marker, patterns, type and key of each line."""
    found = []
    for line in text.split("\n"):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) >= _SHORTEST_LINE and not words[0].startswith("#"):
            patterns = words[0] if words[0].startswith(_HASHED) else words[0].lower()
            found.append((marker, patterns, words[1], words[2]))
    return tuple(found)


def name_of(host: Host) -> str:
    """Return how a known_hosts file calls a host."""
    address = host.address.lower()
    return address if host.port == SSH_PORT else f"[{address}]:{host.port}"


def _names(patterns: str, name: str) -> bool:
    """Tell whether the first field of a line means a host."""
    if patterns.startswith(_HASHED):
        _, _, salt, wanted = [*patterns.split("|"), "", ""][:4]
        try:
            digest = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest()
            return hmac.compare_digest(digest, base64.b64decode(wanted))
        except ValueError:
            return False
    found = False
    for pattern in patterns.split(","):
        if _fits(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _fits(pattern: str, name: str) -> bool:
    """Tell whether a pattern means a host; [ is no wildcard here, it belongs to [host]:port."""
    if "*" not in pattern and "?" not in pattern:
        return pattern == name
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def check(name: str, host: Host, known: KnownKeys, key: Any, environment: str) -> None:
    """Raise unless a host showed a key that is known for it and not revoked.

    Args:
        name: how the inventory calls the host.
        host: how it is reached.
        known: what is known about it.
        key: the key it showed.
        environment: name of the environment, for the command in the message.

    Raises:
        ConnectFailed: with ``why`` "host key".
    """
    shown = (key.get_name(), key.asbytes())
    where = f"{name} ({host.address}:{host.port})"
    if shown in known.revoked:
        raise ConnectFailed(
            f"the host key of {where}, {fingerprint(key)}, is revoked in {known.path}, so nothing was sent. Somebody "
            "else may hold it: give the machine a new host key before anybody logs in there",
            "host key",
        )
    if shown in known.keys:
        return
    if known.keys:
        expected = " or ".join(fingerprint_of(data) for _, data in known.keys)
        raise ConnectFailed(
            f"the host key of {where} is not the one known: expected {expected}, it showed {fingerprint(key)}. Nothing "
            "was sent. Either the machine was set up anew or somebody answers in its place: find out which, then "
            f"remove the old key with: ssh-keygen -R {shlex.quote(name_of(host))} -f {shlex.quote(str(known.path))}",
            "host key",
        )
    kind = key.get_name()
    accept = ["invoke", "hosts.accept-host-key", "--env", environment or "NAME"]
    accept += ["--host", name, "--fingerprint", fingerprint(key)]
    authority = " It names an authority that signs its keys, but signed host keys are not supported."
    raise ConnectFailed(
        f"the host key of {where} is not in {known.path}, so nothing was sent."
        f"{authority if known.authority else ''} It showed {kind} {fingerprint(key)}. Compare that with what the "
        f"machine itself says (on its console: ssh-keygen -lf /etc/ssh/ssh_host_{scan_type(kind)}_key.pub). "
        f"If they are equal, accept it with: {shlex.join(accept)}",
        "host key",
    )


def append(path: Path, host: Host, key: Any) -> None:
    """Add a host's key to a known_hosts file; it and its folder are made when missing.

    One write to the end of the file, as ssh itself does it: whoever adds another key at the same time loses nothing.

    Raises:
        EnvironmentInvalid: it cannot be written.
    """
    line = f"{name_of(host)} {key.get_name()} {base64.b64encode(key.asbytes()).decode()}\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "rb+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            complete = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
            file.write(("" if complete else "\n").encode() + line.encode())
            os.fsync(descriptor)
    except OSError as error:
        raise EnvironmentInvalid(f"the host key cannot be written to {path}: {error.strerror}") from None


def check_fingerprint(text: str) -> str:
    """Return a fingerprint in the form in which OpenSSH prints it.

    Raises:
        EnvironmentInvalid: it is none.
    """
    if not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}=?", text.strip()):
        raise EnvironmentInvalid(
            f"{text!r} is not a fingerprint as ssh-keygen -lf prints it: SHA256: and 43 letters, digits, + or /"
        )
    return text.strip().rstrip("=")


def scan_type(name: str) -> str:
    """Return how ssh-keyscan and the files in /etc/ssh call a type of key."""
    return "rsa" if "rsa" in name else "ecdsa" if "ecdsa" in name else "ed25519"


def fingerprint(key: Any) -> str:
    """Return a key's fingerprint as OpenSSH prints it."""
    return fingerprint_of(key.asbytes())


def fingerprint_of(data: bytes) -> str:
    """Return the fingerprint of a key's bytes."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
