"""The operator's Ed25519 signing key and the keys the operator trusts."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from credscale.core.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_FILE = "signing_key.pem"
TRUSTED_FILE = "trusted_keys"
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_OPEN_TO_OTHERS = 0o077


@dataclass(frozen=True)
class SigningKey:
    """The operator's key; ``created`` tells that it was made just now, so that its fingerprint can be announced."""

    private: Ed25519PrivateKey = field(repr=False)
    path: Path
    fingerprint: str
    created: bool


def key_folder() -> Path:
    """Return ``$CREDSCALE_KEY_DIR``, or ``credscale`` in ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    named = os.environ.get("CREDSCALE_KEY_DIR")
    if named:
        return Path(named).expanduser()
    configuration = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configuration).expanduser() if configuration else Path.home() / ".config") / "credscale"


def load_or_create_key() -> SigningKey:
    """Return the operator's signing key, made on first use with mode 0600 in a folder of mode 0700.

    Raises:
        EnvironmentInvalid: the key file is open to others, cannot be read, or holds no Ed25519 key.
    """
    path = key_folder() / KEY_FILE
    created = not path.exists() and _create(path)
    private = _load(path)
    return SigningKey(private, path, fingerprint_of(private.public_key()), created)


def fingerprint_of(public: Ed25519PublicKey) -> str:
    """Return the fingerprint of a public key, as ``ssh-keygen -l`` shows it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    blob = base64.b64decode(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def own_fingerprint() -> str | None:
    """Return the fingerprint of the operator's key, or None when there is no usable one."""
    path = key_folder() / KEY_FILE
    if not path.exists():
        return None
    try:
        return fingerprint_of(_load(path).public_key())
    except EnvironmentInvalid:
        return None


def trusted_fingerprints() -> set[str] | None:
    """Return the fingerprints in the file ``trusted_keys`` of the key folder, or None when there is no such file.

    The first word of each line counts; what follows it may say whose key it is.
    """
    try:
        lines = (key_folder() / TRUSTED_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return {words[0] for line in lines if (words := line.split()) and _FINGERPRINT.fullmatch(words[0])}


def _create(path: Path) -> bool:
    """Write a new key; tell whether it is ours and not that of a process that was faster."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        # a link appears whole or not at all, and never replaces a key that is there already
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    except OSError as error:
        raise EnvironmentInvalid(
            f"the signing key {path} cannot be created: {error.strerror}. Set CREDSCALE_KEY_DIR to a private folder"
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    return True


def _load(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if os.name == "posix" and path.stat().st_mode & _OPEN_TO_OTHERS:
            raise EnvironmentInvalid(f"the signing key {path} is open to others. Close it: chmod 600 {path}")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise EnvironmentInvalid(f"the signing key {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise EnvironmentInvalid(
            f"the signing key {path} is not an unencrypted PEM key. Move it away and a new one is made"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise EnvironmentInvalid(f"the signing key {path} is not an Ed25519 key. Move it away and a new one is made")
    return key
