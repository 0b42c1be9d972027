"""Hide secrets in the files of an artifact folder, before they are hashed and signed."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from credscale.core.journal import masked

if TYPE_CHECKING:
    from pathlib import Path

Mask = Callable[[str], str]
JOURNAL = "journal.jsonl"
_SHORTEST = 4  # as in core.secrets: a shorter value is found everywhere by chance
_PROBE = 8192
_TAG = re.compile(r"(<[^>]*>)")
_BASE64_KINDS = ("image/png", "image/jpeg", "application/pdf")


def redact_folder(folder: Path, mask: Mask) -> list[Path]:
    """Apply a mask to every text file of an artifact folder but the journal, which is masked as it is written.

    JSON and notebooks are masked value by value, because a secret may stand there with JSON escapes; pictures in them
    stay as they are. HTML is masked text by text, for the same reason. Binary files are left alone.

    Args:
        folder: the artifact folder.
        mask: hides the secrets in a text; ``core.secrets.Secrets.mask``.

    Returns:
        the files that were changed.
    """
    changed = []
    for path in _files(folder):
        if path == folder / JOURNAL:
            continue
        text = _read_text(path)
        if text is None:
            continue
        redacted = _redact(path.suffix.lower(), text, mask)
        if redacted != text:
            path.write_bytes(redacted.encode())
            changed.append(path)
    return changed


def find_secrets(folder: Path, values: Iterable[str]) -> list[Path]:
    """Return the files, the journal among them, in which a value can still be found.

    A value is looked for as it is and as JSON, HTML and URLs spell it. Values shorter than four characters are left
    out.

    Args:
        folder: the artifact folder.
        values: the secret values.
    """
    spelled = {form.encode() for value in values if len(value) >= _SHORTEST for form in _spellings(value)}
    return [path for path in _files(folder) if any(form in path.read_bytes() for form in spelled)]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _read_text(path: Path) -> str | None:
    with path.open("rb") as file:
        if b"\0" in file.read(_PROBE):
            return None  # a backup archive may be large
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return None


def _redact(suffix: str, text: str, mask: Mask) -> str:
    if suffix == ".ipynb":
        return _redact_notebook(text, mask)
    if suffix == ".json":
        return _redact_json(text, mask, indent=2)
    if suffix == ".jsonl":
        return "".join(_redact_json(line, mask, indent=None) for line in text.splitlines(keepends=True))
    if suffix in {".html", ".htm", ".svg", ".xml"}:
        return "".join(_redact_markup(part, mask) for part in _TAG.split(text))
    return mask(text)


def _redact_json(text: str, mask: Mask, indent: int | None) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return mask(text)
    hidden = masked(value, mask)
    if hidden == value:
        return text
    end = text[len(text.rstrip()) :]
    return json.dumps(hidden, ensure_ascii=False, indent=indent) + end


def _redact_notebook(text: str, mask: Mask) -> str:
    """Mask a notebook with its lines joined, so that a secret of several lines is found too."""
    import nbformat

    try:
        notebook = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
    except Exception:  # noqa: BLE001 - nbformat raises many kinds; such a file is redacted as plain JSON
        return _redact_json(text, mask, indent=1)
    hidden = _masked_but_pictures(notebook, mask)
    if hidden == notebook:
        return text
    return str(nbformat.writes(nbformat.from_dict(hidden), version=nbformat.NO_CONVERT)) + "\n"


def _masked_but_pictures(value: Any, mask: Mask) -> Any:
    if isinstance(value, dict):
        return {
            mask(str(key)): item if key in _BASE64_KINDS else _masked_but_pictures(item, mask)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_masked_but_pictures(item, mask) for item in value]
    return masked(value, mask)


def _redact_markup(part: str, mask: Mask) -> str:
    if part.startswith("<"):
        return mask(part)
    plain = html.unescape(part)
    hidden = mask(plain)
    return part if hidden == plain else html.escape(hidden, quote=False)


def _spellings(value: str) -> set[str]:
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        html.escape(value),
        html.escape(value, quote=False),
        quote(value, safe=""),
        quote_plus(value),
    }
