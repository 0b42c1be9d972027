"""What each mongod of the cluster says when it is asked directly: one round of questions, shared by all checks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster.commands import hello, run
from credscale.mongo.preflight.check import Seen, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Literal

    from credscale.mongo.cluster.commands import Client

AUTHENTICATION_FAILED = 18
HELLO = "hello"  # also tells the clock; by its older name on 4.4.0 and 4.4.1
LET_IT_ANSWER = (
    "let it answer this user, then run again; or go on without it: --skip 'HOST:PORT=REASON' "
    "(shard-migrate: --skip-checks)"
)
# What is asked of every member: (name here, command).
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("build", {"buildInfo": 1}),
    (HELLO, {"hello": 1}),
    ("status", {"replSetGetStatus": 1}),
    ("options", {"getCmdLineOpts": 1}),
    ("compatibility", {"getParameter": 1, "featureCompatibilityVersion": 1}),
    ("server_status", {"serverStatus": 1}),
    ("host", {"hostInfo": 1}),
    ("warnings", {"getLog": "startupWarnings"}),
    ("replica_config", {"replSetGetConfig": 1}),
    ("login", {"connectionStatus": 1, "showPrivileges": True}),
)


@dataclass(frozen=True)
class Clock:
    """A server's clock beside this machine's, as one question showed it; all in seconds since 1970.

    Args:
        before: this machine's when the question left.
        after: this machine's when the reply was here.
        server: the server's in between.
    """

    before: float
    after: float
    server: float

    @property
    def least(self) -> float:
        """How far the server is ahead at least; negative when it is behind."""
        return self.server - self.after

    @property
    def most(self) -> float:
        """How far the server is ahead at most."""
        return self.server - self.before


@dataclass(frozen=True)
class Member:
    """One mongod, asked directly.

    Args:
        address: ``host:port``.
        role: ``shard`` or ``config``.
        replica_set: as the cluster's catalogue names it.
        shard: the shard's name; empty for a config server.
        replies: reply by name of ``QUESTIONS``; missing where the member refused or did not answer.
        errors: the driver's error by the same names.
        problem: why it did not answer at all; empty when it did.
        barred: whether it answers, but does not let the user log in: shards have users of their own (§2.5).
        clock: its clock beside ours; None where it did not say.
    """

    address: str
    role: Literal["shard", "config"]
    replica_set: str
    shard: str
    replies: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    errors: Mapping[str, Exception] = field(default_factory=dict)
    problem: str = ""
    barred: bool = False
    clock: Clock | None = None

    @property
    def is_primary(self) -> bool:
        """Whether it takes writes; 4.4.1 and older say so by the older name."""
        hello = self.replies.get("hello", {})
        return bool(hello.get("isWritablePrimary", hello.get("ismaster", False)))

    def reply(self, name: str) -> dict[str, Any]:
        """Return the reply to one question, or raise the error that came instead."""
        if name in self.errors:
            raise self.errors[name]
        return self.replies.get(name, {})

    @property
    def silence(self) -> Seen:
        """The row that says that it was not looked at; the same in every check, so that the table has it once."""
        return silent(self.address, self.problem)


def silent(address: str, problem: str) -> Seen:
    """Return the row of a server that could not be looked at at all; see ``check.united``."""
    return Seen("unknown", f"{address} was not looked at: {problem}", LET_IT_ANSWER, member=address)


@dataclass(frozen=True)
class Replies:
    """What members said to one question.

    Args:
        found: reply by address.
        refused: why there is none, by the address of a member that answers other questions.
        silent: those that answer nothing.
    """

    found: Mapping[str, dict[str, Any]]
    refused: Mapping[str, str] = field(default_factory=dict)
    silent: tuple[Member, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """The addresses of the members of which there is no reply."""
        return tuple(sorted({*self.refused, *(member.address for member in self.silent)}))

    def unseen(self) -> list[Seen]:
        """Return a row for each member that answers nothing, and one for all that refused this; none when all did."""
        rows = [member.silence for member in self.silent]
        if self.refused:
            reasons = "; ".join(f"{address}: {reason}" for address, reason in sorted(self.refused.items()))
            rows.append(Seen("unknown", f"not looked at: {reasons}", "let them answer this user, then run again"))
        return rows


def ask(member: Member, client: Client) -> Member:
    """Ask a member all ``QUESTIONS``; one that does not answer is not asked again.

    Args:
        member: whom.
        client: a connection to it on which a reply may take a short time only.
    """
    from pymongo.errors import ConnectionFailure, PyMongoError

    replies: dict[str, dict[str, Any]] = {}
    errors: dict[str, Exception] = {}
    clock: Clock | None = None
    for name, command in QUESTIONS:
        asked = time.time()
        try:
            # The driver has waited for the member already; asking again would only double that.
            reply = run(client, "admin", command, deadline=0.0) if name != HELLO else hello(client, deadline=0.0)
            replies[name] = reply
        except ConnectionFailure as error:
            return replace(member, replies=replies, problem=f"{type(error).__name__}: it does not answer")
        except PyMongoError as error:
            if getattr(error, "code", None) == AUTHENTICATION_FAILED:
                return replace(member, problem="it does not let this user log in (code 18)", barred=True)
            errors[name] = error
        else:
            if name == HELLO and "localTime" in reply:
                clock = Clock(asked, time.time(), reply["localTime"].replace(tzinfo=UTC).timestamp())
    return replace(member, replies=replies, errors=errors, clock=clock)


def replies_of(members: Iterable[Member], question: str) -> Replies:
    """Return what members said to one of ``QUESTIONS``."""
    found, refused, quiet = {}, {}, []
    for member in members:
        if member.problem:
            quiet.append(member)
        elif question in member.errors:
            refused[member.address] = unreadable(member.errors[question]).finding
        else:
            found[member.address] = member.reply(question)
    return Replies(found, refused, tuple(quiet))
