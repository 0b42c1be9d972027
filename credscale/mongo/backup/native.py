"""The native engine: one pass in raw BSON, of a single moment where the server can still show it to the end."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from credscale.mongo.backup import dump_files as files
from credscale.mongo.backup.reading import Job, Reading
from credscale.mongo.documents.digest import PROGRESS_EVERY, Digester
from credscale.mongo.documents.scan import scan_raw
from credscale.mongo.documents.snapshot import is_moment_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from bson import Timestamp
    from pymongo.client_session import ClientSession

    from credscale.mongo.documents.snapshot import View

TOOL = "credscale-native-2"


def read_native(
    job: Job, session: ClientSession, *, moment: Callable[[], AbstractContextManager[View]] | None = None
) -> Reading:
    """Read a collection into a dump.

    Args:
        job: what to read and where to.
        session: a causally consistent session, to see at least what it has seen.
        moment: opens a view of one moment (``snapshot.view_of``); where there can be none, or the server forgets it
            before the pass ends, the pass is made without, and the reading says so.
    """
    from pymongo.errors import OperationFailure

    if moment is None:
        return _reading(_write(job, session))
    with moment() as view:
        if view.session is None:
            return _reading(_write(job, session), remark=view.reason)
        try:
            return _reading(_write(job, view.session), at=view.at)
        except OperationFailure as error:
            if not is_moment_gone(error):
                raise
            remark = f"the shards forgot the moment at which a first pass began before it ended (code {error.code})"
    return _reading(_write(job, session), remark=remark)


def _reading(survey: files.Survey, *, at: Timestamp | None = None, remark: str = "") -> Reading:
    from pymongo import version

    return Reading("native", f"{TOOL} (pymongo {version})", survey, at, remark)


def _write(job: Job, session: ClientSession) -> files.Survey:
    collection, namespace = job.collection, job.collection.full_name
    data = files.data_file(job.folder, namespace, files.PARTIAL)
    data.parent.mkdir(mode=0o700, exist_ok=True)
    data.unlink(missing_ok=True)  # of a pass whose moment was lost
    indexes = list(collection.list_indexes())
    files.write_text(
        files.metadata_file(job.folder, namespace, files.PARTIAL), files.encode_metadata(job.entry, indexes)
    )
    server = collection.database.client.server_info()["version"]
    files.write_json(data.parent / "prelude.json", {"ServerVersion": server, "ToolVersion": TOOL})
    digester, whole = Digester(), hashlib.sha256()
    with files.create(data) as stream:
        for raw in counted(job, scan_raw(collection, session=session), digester):
            stream.write(raw)
            whole.update(raw)
        files.sync(stream)
    return files.Survey(digester.bytes, whole.hexdigest(), digester.digest())


def counted(job: Job, documents: Iterator[bytes], digester: Digester) -> Iterator[bytes]:
    """Hand documents through, digest them and tell the progress."""
    progress: Any = job.on_progress or (lambda _documents, _bytes: None)
    for raw in documents:
        digester.add(raw)
        yield raw
        if digester.documents % PROGRESS_EVERY == 0:
            progress(digester.documents, digester.bytes)
    progress(digester.documents, digester.bytes)
