"""An executed notebook as HTML that loads nothing and runs nothing."""

from __future__ import annotations

import html
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from credscale.core.step import RESULT_MIME
from credscale.evidence.notebook import BANNER_TAG, step_of, tags_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TAGS = frozenset(
    {
        *(
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "p",
            "div",
            "span",
            "br",
            "hr",
            "pre",
            "blockquote",
            "figure",
            "figcaption",
        ),
        *("b", "i", "u", "s", "em", "strong", "small", "sub", "sup", "ins", "del", "code", "kbd", "img"),
        *("ul", "ol", "li", "dl", "dt", "dd"),
        *("table", "caption", "colgroup", "col", "thead", "tbody", "tfoot", "tr", "th", "td"),
    }
)
_ATTRIBUTES = {"td": ["colspan", "rowspan"], "th": ["colspan", "rowspan", "scope"], "img": ["src", "alt"]}
_PICTURE = re.compile(r"data:image/(png|jpeg|gif);base64,[A-Za-z0-9+/=\s]*")
# bleach drops tags but keeps what stands in them; nobody wants to read a stylesheet
_HIDDEN = re.compile(r"<(script|style|head|title|template)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]")
_CELL_WORDS = {"failed": "failed", "interrupted": "interrupted", "pending": "not run"}


def clean(fragment: str) -> str:
    """Return foreign HTML reduced to harmless tags: no scripts, no styles, no links, only embedded pictures."""
    import bleach  # type: ignore[import-untyped]

    kept = _HIDDEN.sub("", fragment)
    return str(bleach.clean(kept, tags=_TAGS, attributes=_allowed, protocols={"data"}, strip=True))


def render_notebook(notebook: Any) -> str:
    """Return the cells as HTML: prose rendered, code folded, outputs shown."""
    return "\n".join(part for cell in notebook.cells if (part := _cell(cell)))


def first_picture(notebook: Any) -> str | None:
    """Return the first PNG among the outputs as an ``img`` element, or None."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return _picture("image/png", output.data["image/png"])
    return None


def _allowed(tag: str, name: str, value: str) -> bool:
    if name not in _ATTRIBUTES.get(tag, []):
        return False
    return name != "src" or _PICTURE.fullmatch(value) is not None


@cache
def _markdown() -> Callable[[str], str]:
    import mistune

    class Renderer(mistune.HTMLRenderer):
        def link(self, text: str, url: str, title: str | None = None) -> str:  # noqa: ARG002 - mistune's signature
            """Print the address: the report refers to nothing outside itself, and paper has no links."""
            return text if text == html.escape(url) or url.startswith("#") else f"{text} ({html.escape(url)})"

    parse = mistune.create_markdown(escape=True, renderer=Renderer(escape=True), plugins=["table", "strikethrough"])
    return lambda text: clean(str(parse(text)))


def _cell(cell: Any) -> str:
    if BANNER_TAG in tags_of(cell):
        return ""  # the report's first screen says the same
    if cell.cell_type == "markdown":
        return f'<div class="prose">{_markdown()(cell.source)}</div>'
    if cell.cell_type != "code" or not cell.source.strip():
        return ""
    status = str(cell.metadata.get("papermill", {}).get("status") or "")
    word = _CELL_WORDS.get(status)
    badge = f' <span class="badge {status}">{word}</span>' if word else ""
    name = step_of(cell)
    what = f"<code>{html.escape(name)}</code>" if name else "code"
    code = f"<details><summary>{what}{badge}</summary><pre>{html.escape(cell.source)}</pre></details>"
    return f'<div class="cell {html.escape(status)}">{code}{"".join(_outputs(cell))}</div>'


def _outputs(cell: Any) -> Iterator[str]:
    for output in cell.outputs:
        kind = output.output_type
        if kind == "stream":
            yield f'<pre class="{"stderr" if output.name == "stderr" else "stdout"}">{_plain(output.text)}</pre>'
        elif kind == "error":
            text = "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
            yield f'<pre class="error">{_plain(text)}</pre>'
        else:
            yield from _data(output.data)


def _data(data: dict[str, Any]) -> Iterator[str]:
    shown = False
    if "text/html" in data:
        shown = True
        yield f'<div class="output">{clean(_joined(data["text/html"]))}</div>'
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            shown = True
            yield f'<div class="output">{_picture(kind, data[kind])}</div>'
    if not shown and "text/markdown" in data and RESULT_MIME not in data:
        shown = True
        yield f'<div class="output">{_markdown()(_joined(data["text/markdown"]))}</div>'
    if not shown and "text/plain" in data:
        yield f"<pre>{_plain(_joined(data['text/plain']))}</pre>"


def _picture(kind: str, data: Any) -> str:
    encoded = re.sub(r"[^A-Za-z0-9+/=]", "", _joined(data))
    return f'<img alt="figure" src="data:{kind};base64,{encoded}">'


def _plain(text: str) -> str:
    return html.escape(_ANSI.sub("", text))


def _joined(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value)
