"""Whether this may be done: by this user, at this time, beside others, and with a backup."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from credscale.core.mongo_lease import COLLECTION, DATABASE, DOCUMENT
from credscale.mongo.backup.target import target_of
from credscale.mongo.cluster.commands import retrying, run
from credscale.mongo.cluster.members import MEMBER_DEADLINE
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.preflight.privileges import Need, missing, needs_of_migration, needs_on_member

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from credscale.core.sections import Policy
    from credscale.mongo.backup.manifest import Manifest
    from credscale.mongo.preflight.look import Look

FRESH = timedelta(hours=24)
READ_MILLISECONDS = 5_000
HOW_TO = "docs/how-to.md lists the roles"


@check(
    41,
    "backup",
    command="the manifests under backup_directory",
    reason="Before 8.0 the only way back is a backup that was tried out.",
)
def backup(look: Look) -> Iterator[Seen]:
    """Look for a fresh backup of this collection that was verified and restored."""
    if not look.backup_directory:
        remedy = "the steps backup and restore_check take one and try it; or name the folder with --backup-directory"
        yield Seen("note", "it is not known where backups lie", remedy)
    elif not look.is_plain:
        yield Seen("note", f"{look.namespace} is no plain collection: there is nothing to back up")
    else:
        target = target_of(look.ctx, look.namespace, look.backup_directory)
        try:
            found = target.verified() or target.newest()
        except OSError as error:
            yield Seen("unknown", f"{target.root} can't be read: {error.strerror}", "make the folder readable")
        else:
            yield judge_backup(found, str(target.root), datetime.now(UTC))


def judge_backup(found: Manifest | None, root: str, now: datetime) -> Seen:
    """Judge the newest backup; none is no stop, as the step backup takes one before anything is changed.

    Args:
        found: its manifest.
        root: where it was looked for.
        now: an aware moment.
    """
    remedy = "the steps backup and restore_check come before any change"
    if found is None:
        return Seen("note", f"there is no backup of this collection under {root} yet", remedy)
    age = now - datetime.fromisoformat(found.finished)
    told = f"{found.folder.name}, {found.documents} documents, {age.total_seconds() / 3600:.1f} hours old"
    lacking = [] if found.verified else ["not read again yet"]
    lacking += [] if found.restore_checked else ["not restored yet"]
    lacking += ["older than a day"] if age > FRESH else []
    if lacking:
        return Seen("note", f"the backup {told}, is {' and '.join(lacking)}", remedy)
    return Seen("ok", f"the backup {told}, was read again and restored")


@check(
    42,
    "roles",
    command="connectionStatus showPrivileges on mongos and on every shard member",
    reason="A right that is missing half-way stops the migration in the middle.",
)
def roles(look: Look) -> Iterator[Seen]:
    """List what the user is not allowed of what a migration does."""
    options = look.replies("options")
    guarded = any(_asks_for_login(reply.get("parsed", {})) for reply in options.found.values())
    command = {"connectionStatus": 1, "showPrivileges": True}
    login = run(look.client, "admin", command, deadline=MEMBER_DEADLINE).get("authInfo", {})
    version = look.server.numbers
    needs = needs_of_migration(look.database_name, look.collection_name, version)
    yield judge_login("mongos", login, needs, guarded=guarded)
    logins = look.replies("login", "shard")
    if login.get("authenticatedUsers"):
        needs = needs_on_member(look.database_name, version)
        yield from judge_members({address: reply.get("authInfo", {}) for address, reply in logins.found.items()}, needs)
    yield from logins.unseen()


def _asks_for_login(options: Mapping[str, Any]) -> bool:
    security = options.get("security", {})
    return security.get("authorization") == "enabled" or "keyFile" in security or "clusterAuthMode" in security


def judge_login(place: str, login: Mapping[str, Any], needs: Sequence[Need], *, guarded: bool) -> Seen:
    """Judge who is logged in on mongos, and what they may not do.

    Args:
        place: where.
        login: authInfo of connectionStatus.
        needs: what must be allowed.
        guarded: whether servers ask for a login.
    """
    users = [f"{user['user']}@{user['db']}" for user in login.get("authenticatedUsers", [])]
    if not users and guarded:
        return Seen("stop", "nobody is logged in, while the servers ask for it", "name a user in mongo.uri")
    if not users:
        seen = "there is no access control: anyone who reaches the servers can change this cluster"
        remedy = "enable security.authorization, or see that no other machine reaches the ports"
        return Seen("warn", seen, remedy, real_only=True)  # nobody else reaches a lab
    if "authenticatedUserPrivileges" not in login:
        return Seen("unknown", f"{place} does not tell what {users[0]} may do", HOW_TO)
    lacking = missing(login["authenticatedUserPrivileges"], needs)
    if lacking:
        return Seen("stop", f"{', '.join(users)} may not, on {place}: {'; '.join(lacking)}", f"grant it: {HOW_TO}")
    return Seen("ok", f"{', '.join(users)} may do on {place} what a migration does")


def judge_members(logins: Mapping[str, Mapping[str, Any]], needs: Sequence[Need]) -> list[Seen]:
    """Judge what the user may not do on shard members; what is missing there only makes the tool see less.

    Args:
        logins: authInfo of connectionStatus by member.
        needs: what must be allowed.
    """
    lacking: dict[str, list[str]] = {}
    for address, login in sorted(logins.items()):
        if found := missing(login.get("authenticatedUserPrivileges", []), needs):
            lacking.setdefault("; ".join(found), []).append(address)
    if logins and not lacking:
        return [Seen("ok", f"the user may look at {len(logins)} shard members directly")]
    remedy = f"grant it to the user of each shard, on the shard itself: {HOW_TO}"
    return [Seen("warn", f"not allowed on {', '.join(where)}: {what}", remedy) for what, where in lacking.items()]


@check(
    54,
    "approval",
    command=f"the environment's policy, {DATABASE}.{COLLECTION}",
    reason="Two operators on one cluster undo each other's work, and changes belong into their window.",
)
def approval(look: Look) -> Iterator[Seen]:
    """Look whether the policy allows a change now and nobody else is at it."""
    yield from judge_policy(look.ctx.environment.policy, look.ctx.environment.name, datetime.now(UTC))
    leases = look.client[DATABASE][COLLECTION]
    document = retrying(
        lambda: leases.find_one({"_id": DOCUMENT}, max_time_ms=READ_MILLISECONDS), deadline=MEMBER_DEADLINE
    )
    now = run(look.client, "admin", {"hello": 1}, deadline=MEMBER_DEADLINE)["localTime"]
    yield from judge_lease(document, look.ctx.folder.name if look.ctx.folder is not None else "", now)


def judge_policy(policy: Policy, name: str, now: datetime) -> list[Seen]:
    """Judge what the policy says of a change at this moment; the frontend enforces it when a run begins.

    Args:
        policy: of the environment.
        name: of the environment.
        now: an aware moment.
    """
    window, rows = policy.maintenance_window, []
    if window is not None:
        hours = f"{'/'.join(window.days)} {window.start}-{window.stop} {window.timezone}"
        if window.contains(now):
            rows.append(Seen("ok", f"the maintenance window {hours} is open"))
        else:
            seen = f"the maintenance window is closed: {name} may be changed {hours}"
            rows.append(Seen("warn", seen, "start the migration inside it; checks and plans run at any time"))
    if policy.require_ticket:
        rows.append(Seen("note", f"{name} requires a change ticket", "add --ticket ID to whatever changes it"))
    return rows or [Seen("ok", f"the policy of {name} names no maintenance window and no ticket")]


def judge_lease(document: Mapping[str, Any] | None, run_id: str, now: datetime) -> Iterable[Seen]:
    """Judge who works on the cluster.

    Args:
        document: the lease; None when there never was one.
        run_id: of this run; its own lease is no obstacle.
        now: the server's time, as the lease has it.
    """
    found = document or {}
    holder = found.get("holder")
    if holder and holder.get("run") != run_id and found.get("expires") is not None and found["expires"] > now:
        seen = f"{holder.get('operator')} on {holder.get('host')} works on this cluster (run {holder.get('run')})"
        # Whether that run is alive is decided where the lease is taken; a dead one's is taken over there.
        yield Seen("warn", f"{seen}, lease until {found['expires']:%H:%M:%S} UTC", "wait until that run has ended")
    else:
        yield Seen("ok", "nobody else works on this cluster with credscale")
    if kept := found.get("kept"):
        remedy = "the next shard-migrate puts it back at its end; restore_balancer does so at once"
        yield Seen("note", f"an earlier run has left something to put back: {', '.join(sorted(kept))}", remedy)
