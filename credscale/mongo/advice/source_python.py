"""Writes in Python source, by the standard library's own parser."""

from __future__ import annotations

import ast
import warnings
from typing import TYPE_CHECKING, Any

from bson import Regex

from credscale.mongo.advice.calls import (
    OPEN,
    UNKNOWN,
    Call,
    Unknown,
    is_upsert,
    known_document,
    known_update,
    method,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.mongo.advice.writes import Operation

_REQUESTS: dict[str, Operation] = {
    "UpdateOne": "update_one", "UpdateMany": "update_many", "ReplaceOne": "replace_one",
    "DeleteOne": "delete_one", "DeleteMany": "delete_many",
}  # fmt: skip


def python_calls(text: str, file: str) -> list[Call]:
    """Return the writes in a module.

    Args:
        text: the source.
        file: its name in the calls.

    Raises:
        SyntaxError, ValueError, RecursionError: it can't be parsed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's escapes are not our warnings
        tree = ast.parse(text)
    names = dict(_aliases(tree))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    owners = dict(_owners(nodes, names))
    calls = [_call(node, file, names, owners) for node in nodes]
    return sorted((call for call in calls if call is not None), key=lambda call: call.line)


def _aliases(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the variables and attributes that hold a collection taken from the database by its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            name, certain = _collection(node.value, {})
            if certain:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name | ast.Attribute):
                        yield target.id if isinstance(target, ast.Name) else target.attr, name


def _owners(nodes: list[ast.Call], names: dict[str, str]) -> Iterator[tuple[ast.AST, tuple[str, bool]]]:
    """Yield the statements written out in a bulk write with the collection it is on."""
    for node in nodes:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "bulk_write" and node.args:
            for request in getattr(node.args[0], "elts", []):
                yield request, _collection(node.func.value, names)


def _call(node: ast.Call, file: str, names: dict[str, str], owners: dict[ast.AST, tuple[str, bool]]) -> Call | None:
    """Return the write that a call is, if it is one."""
    options = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
    requested = _REQUESTS.get(_name(node))
    if requested is not None:
        return _write(node, options, file, _name(node), requested, *owners.get(node, ("", False)))
    if not isinstance(node.func, ast.Attribute):
        return None
    found = method(node.func.attr)
    if found is None:
        return None
    operation, form = found
    collection, certain = _collection(node.func.value, names)
    if form == "bulk":
        requests = node.args[0] if node.args else options.get("requests")
        if isinstance(requests, ast.List) and all(_is_request(each) for each in requests.elts):
            return None  # each of them is found by itself
        return Call(file, node.lineno, node.func.attr, operation, None, None, None, collection, certain)
    return _write(node, options, file, node.func.attr, operation, collection, certain)


def _is_request(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and (_name(node) in _REQUESTS or _name(node) == "InsertOne")


def _name(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _write(
    node: ast.Call, options: dict[str, ast.expr], file: str, name: str, operation: Operation, collection: str,
    certain: bool,
) -> Call:  # fmt: skip
    spread = any(isinstance(each, ast.Starred) for each in node.args) or any(each.arg is None for each in node.keywords)
    given = [*node.args[:2], *[None] * (2 - len(node.args[:2]))]
    query = given[0] if given[0] is not None else options.get("filter", options.get("query"))
    update = given[1] if given[1] is not None else options.get("update", options.get("replacement"))
    if operation in ("delete_one", "delete_many"):
        update = None
    wanted: dict[str, Any] = {OPEN: UNKNOWN} if spread else {}
    if "upsert" in options:
        wanted["upsert"] = _value(options["upsert"])
    elif operation in ("update_one", "update_many", "replace_one") and len(node.args) > 2:
        wanted["upsert"] = _value(node.args[2])
    known = known_document(_value(query)) if query is not None and not spread else None
    changed = known_update(_value(update)) if update is not None else None
    return Call(
        file, node.lineno, name, operation, None if known is None else settled(known), settled(changed),
        is_upsert(wanted, given=True), collection, certain,
    )  # fmt: skip


def _collection(node: ast.AST, names: dict[str, str]) -> tuple[str, bool]:
    """Return the name of the collection an expression stands for, and whether it is the collection's own."""
    if isinstance(node, ast.Await):
        return _collection(node.value, names)
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id), node.id in names
    if isinstance(node, ast.Attribute):
        base = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        own = base.lower().endswith(("db", "database"))
        return names.get(node.attr, node.attr), own or node.attr in names
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return node.slice.value, True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            if node.func.attr in ("get_collection", "collection"):
                return first.value, True
        elif node.func.attr == "with_options":
            return _collection(node.func.value, names)
    return "", False


def _value(node: ast.AST) -> Any:
    """Return a literal as data, with UNKNOWN where the program decides."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Dict):
        return dict(_pair(key, value) for key, value in zip(node.keys, node.values, strict=True))
    if isinstance(node, ast.List | ast.Tuple):
        if any(isinstance(each, ast.Starred) for each in node.elts):
            return [UNKNOWN, UNKNOWN]
        return [_value(each) for each in node.elts]
    if isinstance(node, ast.Call):
        name = _name(node)
        if name == "dict" and not node.args:
            return {each.arg if each.arg is not None else OPEN: _value(each.value) for each in node.keywords}
        if name in ("compile", "Regex"):
            first = _value(node.args[0]) if node.args else UNKNOWN
            return Regex(first if isinstance(first, str) else "x")
    return UNKNOWN


def _pair(key: ast.expr | None, value: ast.expr) -> tuple[str, Any]:
    name = _value(key) if key is not None else UNKNOWN
    return (OPEN, UNKNOWN) if isinstance(name, Unknown) else (str(name), _value(value))
