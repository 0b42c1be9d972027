"""Versions: of the servers, of what they are compatible with, and the bugs known of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster.facts import version_numbers
from credscale.mongo.cluster.known_bugs import bugs_of
from credscale.mongo.preflight.check import Seen, Severity, check, unreadable
from credscale.mongo.preflight.connections import pinging

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from credscale.mongo.preflight.look import Look

OLDEST = (4, 4)
BY_ARCHITECTURE = {"WT-10461": ("arm", "aarch", "ppc", "power")}  # bugs of these processors only


def _versions(look: Look) -> tuple[dict[str, str], list[Seen]]:
    """Return the version of every server that said it, and rows that name the others.

    Servers are the members, the pinned router, and the routers that live.
    """
    from pymongo.errors import PyMongoError

    builds = look.replies("build")
    found = {address: str(reply["version"]) for address, reply in builds.found.items()}
    found[f"mongos {look.ctx.clients.mongo_router()}"] = look.server.version
    unseen = builds.unseen()
    try:
        living = set(pinging(look.router_signs))
        found |= {
            f"mongos {each['_id']}": str(each["mongoVersion"])
            for each in look.router_signs
            if str(each["_id"]) in living and "mongoVersion" in each
        }
    except PyMongoError as error:
        told = unreadable(error)
        unseen.append(Seen(told.severity, f"the other routers: {told.finding}", told.remedy))
    return found, unseen


@check(
    1,
    "known-bugs",
    command="buildInfo and hostInfo on every member, config.mongos",
    reason="Some releases lose data in exactly this operation (reference §8.1).",
)
def known_bugs(look: Look) -> Iterator[Seen]:
    """Compare every server's version with the bugs that matter here."""
    versions, unseen = _versions(look)
    processors = {
        str(reply.get("system", {}).get("cpuArch", "")).lower() for reply in look.replies("host").found.values()
    }
    yield from judge_bugs(versions.values(), processors - {""}, rehearsal=look.rehearsal)
    yield from unseen


def judge_bugs(versions: Iterable[str], processors: Collection[str], *, rehearsal: bool) -> list[Seen]:
    """Judge versions by their known bugs.

    Args:
        versions: of all servers.
        processors: such as ``x86_64``; empty when unknown, then bugs of any are told.
        rehearsal: whether this is a lab, where bugs that lose data only warn.
    """
    listed, rows = sorted(set(versions), key=version_numbers), []
    for version in listed:
        for bug in bugs_of(version_numbers(version)):
            concerned = BY_ARCHITECTURE.get(bug.ticket)
            if concerned and processors and not any(name.startswith(concerned) for name in processors):
                continue
            severity: Severity = "warn" if bug.severity == "stop" and rehearsal else bug.severity
            rows.append(Seen(severity, f"{version} has {bug.ticket}: {bug.effect}", bug.remedy))
    if all(row.severity == "note" for row in rows):
        rows.insert(0, Seen("ok", f"no bug is known of {', '.join(listed)} that loses data of this operation"))
    return rows


@check(
    2,
    "uniform-versions",
    command="buildInfo on every member, config.mongos",
    reason="A cluster between two releases is in the middle of an upgrade, and chunks may not move.",
)
def uniform_versions(look: Look) -> Iterator[Seen]:
    """Compare the releases of all servers."""
    versions, unseen = _versions(look)
    yield from judge_versions(versions)
    yield from unseen


def judge_versions(found: Mapping[str, str]) -> list[Seen]:
    """Judge whether all servers are of one release, and new enough.

    Args:
        found: version by server.
    """
    listed = sorted(set(found.values()), key=version_numbers)
    by_version = ", ".join(f"{server} {version}" for server, version in sorted(found.items()))
    rows = []
    if len({version_numbers(version)[:2] for version in listed}) > 1:
        rows.append(Seen("stop", f"different releases: {by_version}", "finish the upgrade of all servers first"))
    elif len(listed) > 1:
        rows.append(Seen("note", f"different patches of one release: {by_version}", "bring all to the newest one"))
    if version_numbers(listed[0])[:2] < OLDEST:
        rows.append(Seen("stop", f"{listed[0]} has no compound hashed keys", "upgrade to 4.4 or later"))
    return rows or [Seen("ok", f"{len(found)} servers run {listed[0]}")]


@check(
    3,
    "compatibility",
    command="getParameter featureCompatibilityVersion on every member",
    reason="No chunk moves while the compatibility version changes; below 4.4 there are no compound hashed keys.",
)
def compatibility(look: Look) -> Iterator[Seen]:
    """Compare the feature compatibility versions of all members."""
    told = look.replies("compatibility")
    found = {
        address: reply["featureCompatibilityVersion"]
        for address, reply in told.found.items()
        if "featureCompatibilityVersion" in reply
    }
    yield from judge_compatibility(found)
    yield from told.unseen()


def judge_compatibility(found: Mapping[str, Mapping[str, Any]]) -> list[Seen]:
    """Judge the feature compatibility versions.

    Args:
        found: the document by member.
    """
    if not found:
        return [Seen("unknown", "no member says its compatibility version", "give the user the role clusterMonitor")]
    rows = []
    for member, document in sorted(found.items()):
        other = document.get("targetVersion") or document.get("previousVersion")
        if other:
            seen = f"{member} is on its way between {document.get('version')} and {other}"
            rows.append(Seen("stop", seen, "finish setFeatureCompatibilityVersion first: no chunk can move"))
    said = {str(document.get("version")) for document in found.values()}
    if len(said) > 1:
        text = ", ".join(f"{member} {document.get('version')}" for member, document in sorted(found.items()))
        rows.append(Seen("stop", f"different: {text}", "run setFeatureCompatibilityVersion through mongos"))
    old = sorted(version for version in said if version_numbers(version)[:2] < OLDEST)
    if old:
        remedy = 'run db.adminCommand({setFeatureCompatibilityVersion: "4.4"}), or a later one, through mongos'
        rows.append(Seen("stop", f"{old[0]} has no compound hashed keys", remedy))
    return rows or [Seen("ok", f"{len(found)} members are at {', '.join(said)}")]
