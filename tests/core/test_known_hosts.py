"""What a known_hosts file says about a host: as sshd(8) describes it, whatever else stands in the file."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.errors import ConnectFailed, EnvironmentInvalid
from credscale.core.machines.known_hosts import (
    append,
    check,
    check_fingerprint,
    fingerprint,
    known_keys,
    name_of,
    parse,
)
from credscale.core.sections import Host

FILE = Path("/known_hosts")
DATA = base64.b64decode("AAAAC3NzaC1lZDI1NTE5AAAAIH6AexjLolU31hL0uhF3aw9PCR0jJWLYlnIuoew4DQV1")
TYPE = "ssh-ed25519"
KEY = f"{TYPE} {base64.b64encode(DATA).decode()}"
PRINT = "SHA256:yQ4351dUeeMLaxGwn1leSYzRy5hZOUV1WJ6ifXSt2qE"


class Key:
    """A key as paramiko has it."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data

    def get_name(self) -> str:
        return TYPE

    def asbytes(self) -> bytes:
        return self.data


def hashed(name: str) -> str:
    salt = bytes(range(20))
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    ("hosts", "name", "meant"),
    [
        ("db1", "db1", True),
        ("DB1.Example.net", "db1.example.net", True),
        ("db1,10.0.0.7", "10.0.0.7", True),
        ("db1", "db11", False),
        ("db*", "db11", True),
        ("db?", "db11", False),
        ("*,!db2", "db2", False),
        ("*,!db2", "db1", True),
        ("!db2", "db1", False),
        ("[db1]:2222", "[db1]:2222", True),
        ("[db1]:2222", "db1", False),
        ("db1", "[db1]:2222", False),
        ("[*]:2222", "[db1]:2222", True),
        ("[d]", "d", False),
        (hashed("db1"), "db1", True),
        (hashed("[db1]:2222"), "[db1]:2222", True),
        (hashed("db1"), "db2", False),
        ("|1|no base64|at all", "db1", False),
        ("|1|", "db1", False),
    ],
)
def test_a_line_means_the_hosts_it_names(hosts: str, name: str, meant: bool) -> None:
    assert parse(f"{hosts} {KEY} a comment\n", name, FILE).keys == (((TYPE, DATA),) if meant else ())


def test_markers_keep_their_meaning_and_other_lines_none() -> None:
    text = f"# db1 {KEY}\n\n@revoked *\t{KEY}\n@cert-authority db* {KEY}\n@new * {KEY}\ndb1 {TYPE} A\ndb1 {TYPE}\n"
    known = parse(text, "db1", FILE)
    assert (known.keys, known.revoked, known.authority) == ((), ((TYPE, DATA),), True)


@given(st.text(), st.text(min_size=1))
def test_any_text_can_be_read(text: str, name: str) -> None:
    known = parse(text, name, FILE)
    assert known.types == {kind for kind, _ in known.keys}


def test_a_comment_has_no_line_of_its_own() -> None:
    """To OpenSSH only a newline ends a line; Python knows more of them."""
    for end in "\x0b\x0c\x1c\x85\u2028":
        assert parse(f"db1 {KEY} a{end}db2 {KEY}\n", "db2", FILE).keys == ()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    host, other = (Host(address=name, known_hosts=str(path)) for name in ("db1", "db2"))
    path.write_text(f"db1 {KEY}\n")
    assert known_keys(host).keys == ((TYPE, DATA),)
    append(path, other, Key(b"second"))
    assert [data for _, data in known_keys(other).keys] == [b"second"]
    with path.open("a") as file:
        file.write(f"@revoked * {KEY}\n")
    assert known_keys(host).revoked == ((TYPE, DATA),)
    path.unlink()
    assert known_keys(host).keys == ()


def test_a_host_is_called_by_its_port_where_that_is_another_one() -> None:
    assert name_of(Host(address="DB1")) == "db1"
    assert name_of(Host(address="db1", port=2222)) == "[db1]:2222"


def test_a_key_that_is_known_passes_and_every_other_says_what_to_do() -> None:
    host = Host(address="db1", known_hosts="/known_hosts")
    check("box", host, parse(f"db1 {TYPE} {base64.b64encode(b'old').decode()}\ndb1 {KEY}", "db1", FILE), Key(), "prod")
    for text, shown, match in (
        ("", DATA, f"invoke hosts.accept-host-key --env prod --host box --fingerprint {PRINT}$"),
        (f"db1 {KEY}", b"other", f"expected {PRINT}, it showed .*ssh-keygen -R db1 -f /known_hosts$"),
        (f"db1 {KEY}\n@revoked db1 {KEY}", DATA, "is revoked in /known_hosts"),
        (f"@cert-authority * {KEY}", DATA, "signed host keys are not supported"),
    ):
        with pytest.raises(ConnectFailed, match=match) as caught:
            check("box", host, parse(text, "db1", FILE), Key(shown), "prod")
        assert caught.value.why == "host key"


def test_a_key_is_added_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "home" / "known_hosts"
    host = Host(address="db1", port=2222, known_hosts=str(path))
    assert known_keys(host).keys == ()
    append(path, host, Key(b"first"))
    path.write_text(path.read_text().rstrip("\n"))
    append(path, host, Key())
    assert [data for _, data in known_keys(host).keys] == [b"first", DATA]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    host = Host(address="db1", known_hosts=str(tmp_path))
    with pytest.raises(EnvironmentInvalid, match="cannot be read: Is a directory"):
        known_keys(host)
    with pytest.raises(EnvironmentInvalid, match="cannot be written to .*: Is a directory"):
        append(tmp_path, host, Key())


def test_a_fingerprint_is_taken_as_openssh_prints_it() -> None:
    assert fingerprint(Key()) == PRINT
    assert check_fingerprint(f" {PRINT}= ") == PRINT
    for wrong in ("", "yes", "MD5:00:11", PRINT[:-1], PRINT + "x"):
        with pytest.raises(EnvironmentInvalid, match="is not a fingerprint"):
            check_fingerprint(wrong)
