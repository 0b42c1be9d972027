"""The backup before a migration: taken, declared or recognised, verified, and tried by restoring it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from credscale.core.errors import VerificationFailed
from credscale.core.step import Finding, step
from credscale.mongo.backup.engine import choose_engine, find_mongodump
from credscale.mongo.backup.leftovers import leftovers, new_folder, remove
from credscale.mongo.backup.manifest import backup_gap
from credscale.mongo.backup.reading import refuse_unsupported
from credscale.mongo.backup.source import Source, folder_there, source_id, source_of
from credscale.mongo.backup.target import Target, bytes_progress, target_of, timed_digest
from credscale.mongo.cluster import facts

if TYPE_CHECKING:
    from pathlib import Path

    from bson import Timestamp

    from credscale.core.context import Context
    from credscale.mongo.backup.manifest import Manifest
    from credscale.mongo.backup.remote import Place

NOT_IN_IT = "users, roles, zones and every other collection are not in this backup"


@step()
def backup(
    ctx: Context,
    *,
    namespace: str,
    backup_directory: str,
    engine: str = "auto",
    external: str = "",
    backup_host: str = "",
) -> Finding:
    """Take a backup of the collection and verify it, unless a verified one of the same data is there.

    Before the collection is sharded, "the same data" means an equal digest of every document; the oplogs then need to
    reach back to this look only, not to the backup's beginning. Once it is sharded, the newest backup from before is
    the baseline of the migration under way and is kept: what writers did since is told apart later by the oplogs.
    Folders in which a killed run left a part of a dump are removed; finished backups never are.

    A declared external backup is checked as far as can be seen from here and must be of the last 24 hours (§5 row 41).
    It is no baseline for the proof, so the `_id`s and hashes of the live documents are kept beside its name.

    Args:
        namespace: ``database.collection``.
        backup_directory: the folder on this machine that holds all backups.
        engine: ``mongodump``, ``native`` (this process), ``external``, or ``auto``: mongodump where a fit one is on
            PATH, else native.
        external: a backup that was taken by others: ``pbm:NAME``, as ``pbm list`` shows it, or ``snapshot:ID@TIME``
            with the UTC time at which it was made.
        backup_host: run mongodump on a machine of the section hosts and leave the dump there: ``host:/folder``. Empty
            for this machine.
    """
    from credscale.mongo.backup.external import parse_external
    from credscale.mongo.backup.remote import parse_place

    server = facts.server(ctx.clients.mongo())
    tool = find_mongodump() if not (external or backup_host) and engine in ("auto", "mongodump") else None
    simulated = server.engine == "simulated"
    chosen = choose_engine(engine, external=external, host=backup_host, simulated=simulated, tool=tool)
    declared = parse_external(external) if external else None
    place = parse_place(backup_host) if backup_host else None
    target = target_of(ctx, namespace, backup_directory)
    _refuse_kinds(ctx, namespace)
    _remove_leftovers(ctx, target, place)
    if tool is not None and not tool.fits:
        ctx.note(f"{tool.path} is {tool.text}, too old to be given a password unseen; the native engine is used")
    baseline = target.from_before_sharding()
    if baseline is not None:
        found = "a real run reads it again" if ctx.dry_run else "it was read again and found whole"
        kept = baseline if ctx.dry_run else _read_again(ctx, baseline)
        sentence = f"the backup {kept.folder} is the baseline of the migration under way; {found}"
        return Finding(sentence, _output(target, kept, "kept"))
    source = source_of(ctx, namespace, server, chosen, tool, declared, place)
    same = _same(ctx, target, source)
    if same is not None:
        found = "a real run reads it again" if ctx.dry_run else "it was read again and found whole"
        return Finding(f"the backup {same.folder} holds the same data; {found}", _output(target, same, "kept"))
    folder = new_folder(target.root)
    ctx.apply(f"{source.words} to {folder}", _dump, ctx, target, folder, source, server)
    if ctx.planning:
        return Finding(f"{namespace} would be backed up to {target.root}", {"folder": str(target.root)})
    manifest = _verify(ctx, folder, source.needed)
    return Finding(_taken(manifest), _output(target, manifest, "taken"))


def _remove_leftovers(ctx: Context, target: Target, place: Place | None) -> None:
    """Remove what killed runs left, here and on the machine that is about to be used."""
    for leftover in leftovers(target.root):
        what = f"remove the unfinished backup {leftover.folder} of a killed run ({leftover.bytes / 1e6:.1f} MB)"
        ctx.apply(what, remove, leftover.folder)
    if place is None:
        return
    from credscale.mongo.backup.remote import remove_there, unfinished_there

    machine = ctx.clients.machine(place.host)
    for folder in unfinished_there(machine, folder_there(ctx, target.namespace, place)):
        ctx.apply(f"remove the unfinished backup {place.host}:{folder} of a killed run", remove_there, machine, folder)


def _refuse_kinds(ctx: Context, namespace: str) -> None:
    found = facts.collection(ctx.clients.mongo(), namespace)
    if found is not None:
        refuse_unsupported({"name": found.name, "type": found.type, "options": found.options})


def _same(ctx: Context, target: Target, source: Source) -> Manifest | None:
    """Return the backup of the same data in the same place, after reading its files again; a new one is needless."""
    found = target.newest()
    times = None if found is None or source_id(found) != source.id else _same_data(ctx, target, found)
    if found is None or times is None:
        return None
    if ctx.dry_run:  # reading the files and noting the time in the manifest is for real runs
        return found
    try:
        verified = _read_again(ctx, found)
    except VerificationFailed as problem:
        ctx.note(f"the backup {found.folder} is damaged, so a new one is taken: {problem}")
        return None
    return _mark(found, times) if times else verified


def _same_data(ctx: Context, target: Target, manifest: Manifest) -> dict[str, Timestamp] | None:
    """Return None when the live data differ; otherwise what the manifest's logical times may be moved up to.

    Whatever was written before the look is either undone or in the backup, so the oplogs from there on explain all.
    """
    client = ctx.clients.mongo()
    # Once it is sharded, the size counts orphans too.
    if not target.sharded and facts.data_size(client, target.namespace).documents != manifest.documents:
        return None
    if ctx.dry_run:
        ctx.note("whether the newest backup holds the same data is not looked at: a real run compares every document")
        return {}
    digest, since, until = timed_digest(ctx, client, target.namespace)
    if digest.differing(manifest.digest):
        return None
    return {} if since is None or until is None else {"operation_time_start": since, "operation_time_end": until}


def _mark(found: Manifest, times: dict[str, Timestamp]) -> Manifest:
    """Move the manifest's logical times up to a look, and say so beside the statement about the documents' moment."""
    from credscale.mongo.backup.manifest import mark
    from credscale.mongo.backup.point import looked_at

    look = looked_at(times["operation_time_start"], times["operation_time_end"])
    return mark(found.folder, **times, point={**found.point, "looked_at": look})


def _dump(ctx: Context, target: Target, folder: Path, source: Source, server: facts.Server) -> Manifest:
    from credscale.mongo.backup.dump import dump
    from credscale.mongo.backup.manifest import BackupFacts
    from credscale.mongo.backup.point import surroundings

    client = ctx.clients.mongo()
    name, coll = facts.split_namespace(target.namespace)
    return dump(
        client[name][coll],
        folder,
        facts=BackupFacts(target.namespace, target.cluster_id, target.uuid, target.sharded),
        needed=source.needed,
        read=source.read,
        look=partial(surroundings, client, target.namespace, is_mongos=server.is_mongos),
        on_progress=bytes_progress(ctx, source.needed),
    )


def _verify(ctx: Context, folder: Path, total: int) -> Manifest:
    from credscale.mongo.backup.dump import verify

    return verify(folder, bytes_progress(ctx, total))


def _read_again(ctx: Context, manifest: Manifest) -> Manifest:
    """Read all files of an earlier backup again, on whichever machine they are."""
    from credscale.mongo.backup.remote import verify_there

    verify_there(ctx, manifest)
    return _verify(ctx, manifest.folder, manifest.bytes)


def _taken(manifest: Manifest) -> str:
    """Return the sentence about a backup that was just taken."""
    if manifest.external is not None:
        open_ends = "; ".join([*manifest.external["not_checked"], *backup_gap(manifest)])
        return (
            f"{source_id(manifest)} of {manifest.external['time']} is recorded, with the hashes of "
            f"{manifest.documents} documents in {manifest.folder}; not checked: {open_ends}"
        )
    return (
        f"{manifest.documents} documents are in {manifest.folder}, read again and found whole; "
        f"{manifest.point['statement']}; {NOT_IN_IT}"
    )


def _output(target: Target, manifest: Manifest, baseline: str) -> dict[str, Any]:
    from credscale.mongo.backup.manifest import retained

    open_ends = [] if manifest.external is None else [*manifest.external["not_checked"], *backup_gap(manifest)]
    return {
        "folder": str(manifest.folder),
        "documents": manifest.documents,
        "bytes": manifest.bytes,
        "fingerprint": manifest.digest.fingerprint,
        "engine": manifest.engine,
        "tool": manifest.tool,
        "point": dict(manifest.point),
        "external": dict(manifest.external) if manifest.external is not None else None,
        "baseline": baseline,
        "verified": manifest.verified,
        "not_checked": [*open_ends, NOT_IN_IT],
        "retained": retained(target.root).to_json(),
    }
