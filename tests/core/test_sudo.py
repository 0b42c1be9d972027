"""sudo gets its password when it asks; what it says is left out, and nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.errors import ConnectFailed, EnvironmentInvalid, PreconditionFailed
from credscale.core.machines.sudo import Sudo

LECTURE = b"We trust you have received the usual lecture.\n"


def prompt_and_mark(sudo: Sudo) -> tuple[bytes, bytes]:
    words = sudo.words(["prog", "arg"])
    assert words[-2:] == ["prog", "arg"]
    prompt = words[words.index("-p") + 1] if "-p" in words else ""
    return prompt.encode(), words[words.index("sh", words.index("-c")) + 1].encode()


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({each % (len(data) + 1) for each in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(st.integers(0, 500)), st.binary(max_size=50), st.booleans(), st.binary(max_size=50))
def test_the_program_gets_its_own_streams_in_whatever_pieces_they_come(
    cuts: list[int], out: bytes, asks: bool, noise: bytes
) -> None:
    sudo = Sudo("box", lambda: "pässword", "env:P")
    prompt, mark = prompt_and_mark(sudo)
    answers, got = [], b""
    for piece in pieces(LECTURE + prompt, cuts) if asks else []:
        answers.append(sudo.hear(b"", piece)[0])
    assert b"".join(answers) == ("pässword\n".encode() if asks else b"")
    assert not sudo.started
    for piece in pieces(noise + mark + out, cuts):
        if sudo.started:
            got += piece
        else:
            answer, own, err = sudo.hear(piece, b"")
            got += own
            assert (answer, err) == (b"", b"")
    assert sudo.started
    assert got == out


def test_the_password_is_never_an_argument_and_the_words_differ_each_time() -> None:
    first, second = (Sudo("box", lambda: "horse", "env:P").words(["true"]) for _ in range(2))
    assert "horse" not in " ".join(first)
    assert first != second
    assert first[:3] == ["sudo", "-S", "-p"]
    assert Sudo("box", None, "").words(["true"])[:3] == ["sudo", "-n", "--"]


def test_it_is_not_resolved_before_sudo_asks() -> None:
    def resolve() -> str:
        raise AssertionError("nobody asked")

    sudo = Sudo("box", resolve, "env:P")
    _, mark = prompt_and_mark(sudo)
    assert sudo.hear(mark + b"out", b"err") == (b"", b"out", b"err")


def test_a_second_prompt_means_a_wrong_password() -> None:
    sudo = Sudo("box", lambda: "horse", "env:P")
    prompt, _ = prompt_and_mark(sudo)
    assert sudo.hear(b"", prompt)[0] == b"horse\n"
    with pytest.raises(ConnectFailed, match=r"refused the password of box; .* env:P \(hosts.box.sudo\)") as caught:
        sudo.hear(b"", b"Sorry, try again.\n" + prompt)
    assert caught.value.why == "auth"
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize("password", ["two\nlines", "carriage\rreturn"])
def test_a_password_of_two_lines_is_none(password: str) -> None:
    sudo = Sudo("box", lambda: password, "env:P")
    prompt, _ = prompt_and_mark(sudo)
    with pytest.raises(EnvironmentInvalid, match="has more than one line") as caught:
        sudo.hear(b"", prompt)
    assert password not in str(caught.value)


@pytest.mark.parametrize(
    ("password", "said", "code", "kind", "match"),
    [
        (None, b"sudo: a password is required\n", 1, ConnectFailed, r"NOPASSWD.*hosts\.box\.sudo a reference"),
        ("x", b"sudo: sorry, you must have a tty to run sudo\n", 1, ConnectFailed, "requiretty"),
        ("x", b"Sorry, user betty is not allowed to execute it.\n", 1, ConnectFailed, r"user betty .*sudo -l"),
        ("x", b"bob is not in the sudoers file.\n", 1, ConnectFailed, r"bob is not in the sudoers.*sudo -l"),
        (None, b"sh: sudo: not found\n", 127, PreconditionFailed, "sudo cannot be run there: sh: sudo: not found"),
    ],
)
def test_a_sudo_that_starts_nothing_says_why(
    password: str | None, said: bytes, code: int, kind: type[Exception], match: str
) -> None:
    sudo = Sudo("box", (lambda: "horse") if password else None, "env:P")
    sudo.hear(b"", said)
    assert not sudo.started
    problem = sudo.refusal(code)
    assert isinstance(problem, kind)
    with pytest.raises(kind, match=match):
        raise problem
    assert sudo.waiting().endswith(said.decode().strip())
