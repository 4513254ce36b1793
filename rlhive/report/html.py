"""The parts of an HTML page that needs no other file, script or network; text passed in is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

STYLESHEET = """
:root { color-scheme: light dark; --line: #8886; --faint: #8881; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem; }
.grid { display: grid; gap: 1.5rem 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.grid > * { min-width: 0; }
figure { margin: 0; }
img { width: 100%; max-width: 36rem; background: #fff; border-radius: 6px; display: block; margin-bottom: .4rem; }
figcaption, caption, .note { font-size: .85rem; opacity: .8; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { vertical-align: bottom; white-space: normal; }
tr > :first-child { text-align: left; padding-left: 0; min-width: 5rem; white-space: normal; }
pre { overflow-x: auto; font-size: .75rem; background: var(--faint); padding: .7rem; border-radius: 6px; }
@media print {
  body { max-width: none; padding: 0; font-size: .8rem; }
  .grid { grid-template-columns: 1fr 1fr; }
  .grid.wide { grid-template-columns: 1fr; }
  figure, tr { break-inside: avoid; }
  h2, caption { break-after: avoid; }
  pre { white-space: pre-wrap; }
  th, td { padding: .15rem .35rem; }
}
"""


def document(title: str, body: Sequence[str]) -> str:
    """A whole page, from parts that are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLESHEET}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def heading(text: str, below: str) -> str:
    """The page's heading with a line below it."""
    return f"<h1>{html.escape(text)}</h1>\n<p>{html.escape(below)}</p>"


def section(title: str, *parts: str) -> str:
    """A titled section, from parts that are HTML."""
    return f"<section>\n<h2>{html.escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def grid(parts: Sequence[str], *, wide: bool = False) -> str:
    """Parts side by side where there is room; wide ones are stacked on paper."""
    return f'<div class="grid{" wide" if wide else ""}">\n' + "\n".join(parts) + "\n</div>"


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{html.escape(text)}</p>'


def listing(title: str, below: str, text: str) -> str:
    """The text of a file, with a title and a line about it."""
    return f"<div><h3>{html.escape(title)}</h3>{note(below)}<pre>{html.escape(text)}</pre></div>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table; the first cell of each row is its name."""
    top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
        body += f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>\n'
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    content = f"{above}<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>"
    return f'<div class="scroll"><table>{content}</table></div>'


def image(kind: str, content: bytes, caption: str) -> str:
    """A picture, of a media type such as "image/png", embedded in the page with its caption."""
    data, text = base64.b64encode(content).decode(), html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:{kind};base64,{data}"><figcaption>{text}</figcaption></figure>'
    )
