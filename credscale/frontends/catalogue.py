"""What can be run, as plain data, so that ``invoke --list`` need not import it.

Importing every step takes longer than invoke itself. The names, documents and flags are therefore kept in a file beside
the lab's state, together with a hash of the sources that they were read from: a changed source makes it anew.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from credscale.core.errors import UnknownTarget

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from inspect import Parameter, Signature

    from credscale.core.runbook import Runbook
    from credscale.core.step import Step

ROOT = Path(__file__).parents[2]
SOURCES = (
    "runbooks",
    "credscale/hosts",
    "credscale/mongo",
    "credscale/redis_cluster",
    "credscale/core",
    "credscale/frontends",
)
CACHE = Path(".credscale/catalogue.json")


class Entry(NamedTuple):
    """A runbook or step.

    Args:
        name: the task's.
        collection: the task's collection; empty at the top.
        target: module and attribute.
        doc: its text.
        parameters: flag texts by parameter.
        watchable: whether ``--watch`` may repeat it: a runbook that only reads.
        switches: parameters that are true or false; their flags may stand without a value.
    """

    name: str
    collection: str
    target: str
    doc: str
    parameters: dict[str, str]
    watchable: bool = False
    switches: Sequence[str] = ()


def entries() -> list[Entry]:
    """Return everything that can be run, from the cache while no source has changed."""
    state = _fingerprint()
    with suppress(OSError, ValueError, TypeError, LookupError):
        kept = json.loads(CACHE.read_text(encoding="utf-8"))
        if kept["sources"] == state:
            return [Entry(*entry) for entry in kept["entries"]]
    found = [_runbook_entry(runbook) for runbook in runbooks()] + [_step_entry(step) for step in steps()]
    with suppress(OSError):  # a read-only checkout lists more slowly, no more
        CACHE.parent.mkdir(exist_ok=True)
        CACHE.write_text(json.dumps({"sources": state, "entries": found}), encoding="utf-8")
    return found


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def runbooks() -> list[Runbook]:
    """Return the runbooks: in each module of ``runbooks/`` the one of the module's own name."""
    import importlib

    modules = [path.stem for path in sorted((ROOT / "runbooks").glob("[a-z]*.py"))]
    return [getattr(importlib.import_module(f"runbooks.{name}"), name) for name in modules]


def steps() -> Iterator[Step[Any]]:
    """Yield the steps of every technology."""
    from credscale.hosts.steps import STEPS as HOSTS
    from credscale.mongo.steps import STEPS as MONGO
    from credscale.redis_cluster.steps import STEPS as REDIS

    yield from (*HOSTS, *MONGO, *REDIS)


def named(task: str) -> Entry:
    """Return what a task's name stands for, such as ``shard-migrate`` or ``mongo.stop-balancer``.

    Raises:
        UnknownTarget: nothing.
    """
    found = {f"{entry.collection}.{entry.name}".lstrip("."): entry for entry in entries()}
    if task not in found:
        raise UnknownTarget(f"there is no runbook or step {task!r}. See: invoke --list")
    return found[task]


def runbook_behind(entry: Entry) -> Runbook:
    """Return the runbook of an entry; a step becomes a runbook of one, named ``collection.step``."""
    import importlib

    from credscale.core.runbook import Runbook

    module, _, name = entry.target.partition(":")
    found = getattr(importlib.import_module(module), name)
    if isinstance(found, Runbook):
        return found

    def body(ctx: Any, **params: Any) -> None:
        found(ctx, **params)

    body.__name__, body.__doc__, body.__module__ = found.name, found.__doc__, found.function.__module__
    body.__signature__ = _with_defaults(found.__signature__)  # type: ignore[attr-defined]
    required = {name for name, each in found.__signature__.parameters.items() if each.default is each.empty}
    return Runbook(
        body, (), task=f"{entry.collection}.{entry.name}", has_notebook=False, inherited=required - {"ctx"},
        reads_only=found.kind == "probe", target=entry.collection, repairs=found.repairs,
    )  # fmt: skip


def _with_defaults(signature: Signature) -> Signature:
    """Give a step's parameters without a default the one that they have in a runbook."""
    known = {name: parameter.default for runbook in runbooks() for name, parameter in runbook.parameters.items()}
    parameters = [
        parameter.replace(default=known[parameter.name])
        if parameter.default is parameter.empty and parameter.name in known
        else parameter
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def _runbook_entry(runbook: Runbook) -> Entry:
    target = f"{runbook.module}:{runbook.function.__name__}"
    flags = _flags(runbook.parameters, runbook.function)
    switches = _switches(runbook.parameters)
    return Entry(runbook.name, "", target, _document(runbook.function), flags, runbook.reads_only, switches)


def collection_of(step: Step[Any]) -> str:
    """Return the name of a step's task collection: its technology."""
    return _technology(step).removesuffix("_cluster")


def _technology(step: Step[Any]) -> str:
    return str(step.function.__module__.split(".")[1])


def _step_entry(step: Step[Any]) -> Entry:
    parameters = dict(list(_with_defaults(step.__signature__).parameters.items())[1:])
    target = f"credscale.{_technology(step)}.steps:{step.name}"
    return Entry(
        step.name.replace("_", "-"),
        collection_of(step),
        target,
        _document(step.function),
        _flags(parameters, step.function),
        switches=_switches(parameters),
    )


def _switches(parameters: dict[str, Parameter]) -> list[str]:
    return [name for name, parameter in parameters.items() if parameter.annotation == "bool"]


def _document(function: Any) -> str:
    """Return the docstring without its sections; the flags' help has the parameters."""
    import inspect
    import re

    return re.split(r"\n(?:Args|Returns|Raises):\n", inspect.getdoc(function) or "")[0].strip()


def parameter_texts(function: Any) -> dict[str, str]:
    """Return the Args section of a docstring, one line per parameter."""
    import inspect
    import re

    section = (inspect.getdoc(function) or "").partition("Args:\n")[2]
    section = re.split(r"\n(?:Returns|Raises):", section)[0]
    found = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE))
    return {name: " ".join(text.split()) for name, text in found.items()}


def _flags(parameters: dict[str, Any], function: Any) -> dict[str, str]:
    texts = parameter_texts(function)
    result = {}
    for name, parameter in parameters.items():
        default = "required" if parameter.default is parameter.empty else f"default: {parameter.default!r}"
        result[name] = f"{texts.get(name, name.replace('_', ' '))} ({default})"
    return result
