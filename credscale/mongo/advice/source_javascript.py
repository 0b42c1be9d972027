"""Writes in JavaScript and TypeScript source, by tree-sitter's parsers (extra ``source``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bson import Regex

from credscale.core.errors import MissingExtra
from credscale.mongo.advice.calls import (
    OPEN,
    UNKNOWN,
    Call,
    is_upsert,
    known_document,
    known_update,
    method,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tree_sitter import Node, Parser

_WRAPPERS = frozenset(
    {
        "parenthesized_expression", "as_expression", "satisfies_expression", "non_null_expression",
        "await_expression", "type_assertion",
    }
)  # fmt: skip


def javascript_calls(text: str, file: str, suffix: str) -> tuple[list[Call], bool]:
    """Return the writes in a file, and whether it could be read to its end without syntax errors.

    Args:
        text: the source; where it has syntax errors the rest is still read.
        file: its name in the calls.
        suffix: of the file, such as ``.ts``, which decides the grammar.

    Raises:
        MissingExtra: the parsers are not installed.
    """
    root = parser_for(suffix).parse(text.encode()).root_node
    nodes = list(_all(root))
    names = dict(_aliases(nodes))
    calls = [call for node in nodes if node.type == "call_expression" for call in _calls(node, file, names)]
    return calls, not root.has_error


def parser_for(suffix: str) -> Parser:
    """Return the parser of a kind of file.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import tree_sitter
        import tree_sitter_javascript
        import tree_sitter_typescript
    except ImportError as error:
        raise MissingExtra(str(error.name), "source", "reading JavaScript and TypeScript") from None
    if suffix in (".ts", ".mts", ".cts"):
        language = tree_sitter_typescript.language_typescript()
    elif suffix == ".tsx":
        language = tree_sitter_typescript.language_tsx()
    else:
        language = tree_sitter_javascript.language()
    return tree_sitter.Parser(tree_sitter.Language(language))


def _all(root: Node) -> Iterator[Node]:
    """Yield every node in the order of the source; without recursion, as generated code nests deeply."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(node.named_children))


def _text(node: Node | None) -> str:
    return (node.text or b"").decode(errors="replace") if node is not None else ""


def _field(node: Node, name: str) -> Node | None:
    return node.child_by_field_name(name)


def _bare(node: Node) -> Node:
    """Return an expression without parentheses, await and type annotations."""
    while node.type in _WRAPPERS and node.named_children:
        node = node.named_children[0]
    return node


def _aliases(nodes: list[Node]) -> Iterator[tuple[str, str]]:
    """Yield the variables that hold a collection taken from the database, or a model, by its name."""
    for node in nodes:
        left, right = {
            "variable_declarator": ("name", "value"),
            "assignment_expression": ("left", "right"),
        }.get(node.type, ("", ""))
        target, value = (_field(node, left), _field(node, right)) if left else (None, None)
        if target is not None and value is not None:
            name, certain = _collection(_bare(value), {})
            if certain:
                yield _text(_field(target, "property") if target.type == "member_expression" else target), name


def _calls(node: Node, file: str, names: dict[str, str]) -> Iterator[Call]:
    """Yield the writes that a call makes: none, one, or the statements of a bulk write."""
    function = _field(node, "function")
    if function is None or function.type != "member_expression":
        return
    name = _text(_field(function, "property"))
    found = method(name)
    holder, listed = _field(function, "object"), _field(node, "arguments")
    if found is None or holder is None or listed is None or listed.type != "arguments":
        return
    operation, form = found
    holder = _bare(holder)
    collection, certain = _collection(holder, names)
    arguments = [_bare(each) for each in listed.named_children if each.type != "comment"]
    line = function.end_point[0] + 1
    if form == "bulk":
        yield from _bulk(arguments, file, line, name, collection, certain)
        return
    values: list[Any] = [_value(each) for each in arguments]
    # A query that is built in a chain, Model.find(a).updateOne(b), has a filter in more than one place.
    chained = holder.type == "call_expression" and not certain
    query, update, upsert = _arguments(form, values)
    known = None if chained else known_document(query)
    yield Call(
        file, line, name, operation, None if known is None else settled(known), settled(known_update(update)),
        upsert, collection, certain,
    )  # fmt: skip


def _arguments(form: str, values: list[Any]) -> tuple[Any, Any, bool | None]:
    """Return filter, update and whether it upserts, from a call's arguments."""
    at = dict(enumerate(values))
    if form in ("id", "id_update"):
        given = 2 in at if form == "id_update" else 1 in at
        upsert = is_upsert(at.get(2), given=given) if form == "id_update" else False
        return {"_id": UNKNOWN} if 0 in at else UNKNOWN, at.get(1, UNKNOWN) if form == "id_update" else None, upsert
    if form == "filter":
        return at.get(0, UNKNOWN), None, False
    if form == "shell":
        first = at.get(0)
        if len(at) <= 1:  # the shell's form: one document with query, update, upsert and remove
            whole = first if isinstance(first, dict) else {"query": UNKNOWN, OPEN: UNKNOWN}
            return whole.get("query", {}), whole.get("update"), is_upsert(whole, given=True)
        return first, at.get(2), is_upsert(at.get(3), given=3 in at)  # the old driver's: query, sort, update, options
    options = at.get(2)
    return at.get(0, UNKNOWN), at.get(1, UNKNOWN), is_upsert(options, given=2 in at)


def _bulk(arguments: list[Node], file: str, line: int, name: str, collection: str, certain: bool) -> Iterator[Call]:
    """Yield the statements of a bulkWrite, or one that says they are built elsewhere."""
    items = arguments[0].named_children if arguments and arguments[0].type == "array" else None
    if items is None:
        yield Call(file, line, name, "update_one", None, None, None, collection, certain)
        return
    for item in items:
        value = _value(_bare(item))
        first = next(iter(value), "") if isinstance(value, dict) else OPEN
        found, body = method(first), value.get(first) if isinstance(value, dict) else None
        where = item.start_point[0] + 1
        if found is not None and isinstance(body, dict):
            known, changed = known_document(body.get("filter", UNKNOWN)), body.get("update", body.get("replacement"))
            yield Call(
                file, where, f"{name} {first}", found[0], None if known is None else settled(known),
                settled(known_update(changed)), is_upsert(body, given=True), collection, certain,
            )  # fmt: skip
        elif first != "insertOne":
            yield Call(file, where, name, "update_one", None, None, None, collection, certain)


def _collection(node: Node, names: dict[str, str]) -> tuple[str, bool]:
    """Return the name of the collection or model an expression stands for, and whether that is certain."""
    if node.type == "identifier":
        name = _text(node)
        return names.get(name, name), name in names
    if node.type == "member_expression":
        name, base = _text(_field(node, "property")), _text(_field(node, "object"))
        own = base.lower().endswith(("db", "database"))
        return names.get(name, name), own or name in names
    if node.type == "subscript_expression":
        index = _field(node, "index")
        return (_string(index), True) if index is not None and index.type == "string" else ("", False)
    if node.type == "call_expression":
        function, listed = _field(node, "function"), _field(node, "arguments")
        called = _text(_field(function, "property")) if function is not None else ""
        called = called or _text(function)
        first = listed.named_children[0] if listed is not None and listed.named_children else None
        if called in ("collection", "getCollection", "model") and first is not None and first.type == "string":
            return _string(first), True
    return "", False


def _string(node: Node) -> str:
    return "".join(_text(part) for part in node.named_children)


def _value(node: Node) -> Any:
    """Return a literal as data, with UNKNOWN where the program decides."""
    node = _bare(node)
    if node.type == "object":
        return dict(_pair(each) for each in node.named_children if each.type != "comment")
    if node.type == "array":
        parts = [each for each in node.named_children if each.type != "comment"]
        if any(each.type == "spread_element" for each in parts):
            return [UNKNOWN, UNKNOWN]
        return [_value(each) for each in parts]
    if node.type == "string":
        return _string(node)
    if node.type == "regex":
        flags = "i" if "i" in _text(_field(node, "flags")) else ""
        return Regex(_text(_field(node, "pattern")), flags)
    if node.type == "new_expression" and _text(_field(node, "constructor")) == "RegExp":
        return Regex("x")
    return {"true": True, "false": False, "null": None, "number": 1}.get(node.type, UNKNOWN)


def _pair(node: Node) -> tuple[str, Any]:
    if node.type == "shorthand_property_identifier":
        return _text(node), UNKNOWN
    key, value = _field(node, "key"), _field(node, "value")
    if node.type != "pair" or key is None or value is None or key.type == "computed_property_name":
        return OPEN, UNKNOWN
    return (_string(key) if key.type == "string" else _text(key)), _value(value)
