"""HTML in pieces: everything is escaped, pictures are part of the file, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #222; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin-bottom: .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
p.lead { font-size: 1.1rem; margin-top: .4rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eee;
         white-space: pre-line; }
th { font-weight: 600; }
th.n { max-width: 9rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
td.small, .faint { color: #555; font-size: 14px; }
td.seq { font: 12px/1.8 ui-monospace, Menlo, Consolas, monospace; white-space: nowrap; }
pre, code { font: 14px/1.45 ui-monospace, Menlo, Consolas, monospace; background: #f5f5f5; }
pre { padding: .7rem 1rem; overflow-x: auto; white-space: pre-wrap; }
code { padding: .05rem .25rem; }
figure { margin: 1.4rem 0; }
figure img { max-width: min(100%, 46rem); height: auto; }
figcaption { color: #444; max-width: 46rem; }
.warn { background: #fff4e0; border-left: 4px solid #d55e00; padding: .5rem 1rem; margin: .6rem 0; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole page."""
    parts = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{parts}\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def warning(text: str) -> str:
    """A paragraph that stands out."""
    return f'<div class="warn">{escape(text)}</div>'


def code(text: str) -> str:
    """Text to copy."""
    return f"<pre>{escape(text)}</pre>"


def details(summary: str, content: str) -> str:
    """Content to unfold."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def bullets(items: Iterable[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], kinds: Sequence[str]) -> str:
    """A table; `kinds` are the classes of the columns: "" for words, "n" for numbers, "seq", "small"."""
    top = "".join(f'<th class="{kind}">{escape(cell)}</th>' for cell, kind in zip(header, kinds, strict=True))
    lines = [
        "".join(f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))
        for row in rows
    ]
    head = f"<tr>{top}</tr>" if any(header) else ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>{head}{body}</table></div>'


def picture(path: Path, caption: str) -> str:
    """A PNG, embedded, with its caption."""
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/png;base64,{data}"
    return f'<figure><img alt="{escape(caption)}" src="{source}"><figcaption>{escape(caption)}</figcaption></figure>'
