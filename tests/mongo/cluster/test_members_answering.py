"""A shard is asked through its primary, else through a secondary, and through nobody else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import AutoReconnect, OperationFailure

from credscale.mongo.cluster.members import first_answering

if TYPE_CHECKING:
    from credscale.core.context import Context

PRIMARY = {"isWritablePrimary": True, "secondary": False}
SECONDARY = {"isWritablePrimary": False, "secondary": True}
RECOVERING = {"isWritablePrimary": False, "secondary": False}


class Member:
    """A member that greets with a document or an error."""

    def __init__(self, name: str, greeting: Any) -> None:
        self.name, self.greeting = name, greeting

    def __getitem__(self, _name: str) -> Member:
        return self

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.greeting, Exception):
            raise self.greeting
        if "hello" in request and "ismaster" in self.greeting:
            raise OperationFailure("no such command: 'hello'", 59)
        return dict(self.greeting)


def asked(ctx: Context, monkeypatch: pytest.MonkeyPatch, *greetings: Any) -> str:
    members = {f"m{number}": Member(f"m{number}", greeting) for number, greeting in enumerate(greetings)}
    monkeypatch.setattr(ctx.clients, "mongo_member", lambda address, **_: members[address])
    shard: Any = SimpleNamespace(id="s1", members=tuple(members))
    found: Any = first_answering(ctx, shard)
    return str(found.name)


@pytest.mark.parametrize(
    ("greetings", "expected"),
    [
        ((SECONDARY, PRIMARY), "m1"),
        ((RECOVERING, SECONDARY, SECONDARY), "m1"),
        ((RECOVERING, {"ismaster": True}), "m1"),
        ((OperationFailure("refused", 18), SECONDARY), "m1"),
    ],
)
def test_who_is_asked(ctx: Context, monkeypatch: pytest.MonkeyPatch, greetings: tuple[Any, ...], expected: str) -> None:
    assert asked(ctx, monkeypatch, *greetings) == expected


def test_a_member_that_recovers_is_never_asked(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AutoReconnect, match="none of the members m0, m1 is a primary or a secondary"):
        asked(ctx, monkeypatch, RECOVERING, RECOVERING)
