"""The page: sections of text, tables and figures as one HTML file that needs nothing else."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

MOST_BYTES = 5_000_000
_RESOLUTIONS = (130, 90, 60, 40)  # dots per inch, until the page is small enough

_CSS = """
:root { color-scheme: light dark; --text: #1b1f24; --muted: #5b6570; --line: #d8dee4;
  --page: #ffffff; --tile: #f4f6f8; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --muted: #9aa5b1;
  --line: #353c44; --page: #15191e; --tile: #1f252c; --accent: #6cb8e6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 62rem; color: var(--text);
  background: var(--page); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 0.25rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 0.25rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
p { margin: 0.4rem 0; max-width: 46rem; }
.muted, figcaption, nav { color: var(--muted); font-size: 0.92rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
a { color: var(--accent); }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: 0.75rem; margin: 1.25rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--tile); border-radius: 0.5rem; padding: 0.75rem 0.9rem; }
.tiles b { display: block; font-size: 1.55rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.tiles span { color: var(--muted); font-size: 0.88rem; line-height: 1.3; display: block; }
figure, div:has(> table) { margin: 1.1rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 0.4rem;
  border: 1px solid var(--line); padding: 0.4rem; display: block; }
.wide { overflow-x: auto; }
.wide img { max-width: none; width: var(--natural); min-width: 36rem; }
@media (min-width: 48rem) { .wide img { max-width: 100%; } }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.3rem 1rem 0.3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; min-width: 4.5rem; }
th { color: var(--muted); font-weight: 500; }
pre { background: var(--tile); border-radius: 0.5rem; padding: 0.9rem; overflow-x: auto;
  font-size: 0.85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with its file's name and what to read in it; a `wide` one scrolls on a phone."""

    name: str
    figure: Figure
    caption: str
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text below a head, which may be empty."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Code:
    """Text to copy."""

    text: str


Block = str | Picture | Table | Code


@dataclasses.dataclass(frozen=True)
class Section:
    """A question of the reader's and what answers it; a plain text is a paragraph."""

    title: str
    parts: Sequence[Block]


def render(
    title: str, subtitle: str, tiles: Mapping[str, str], sections: Sequence[Section]
) -> tuple[str, dict[str, bytes]]:
    """Returns the page, below 5 MB, and its pictures as PNG files by name.

    `tiles` are the headline figures: what each is, and its value. All text is escaped.
    """
    sections = [section for section in sections if section.parts]
    for dpi in _RESOLUTIONS:
        pictures = {
            part.name: _png(part.figure, dpi)
            for section in sections
            for part in section.parts
            if isinstance(part, Picture)
        }
        page = _page(title, subtitle, tiles, sections, pictures)
        if len(page.encode()) < MOST_BYTES:
            break
    return page, pictures


def _page(title, subtitle, tiles, sections, pictures) -> str:
    links = [f'<a href="#{i}">{escape(section.title)}</a>' for i, section in enumerate(sections)]
    boxes = [f"<li><b>{escape(v)}</b><span>{escape(k)}</span></li>" for k, v in tiles.items()]
    body = [
        f'<h2 id="{i}">{escape(section.title)}</h2>\n'
        + "\n".join(_part(part, pictures) for part in section.parts)
        for i, section in enumerate(sections)
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>",
            f'<h1>{escape(title)}</h1>\n<p class="muted">{escape(subtitle)}</p>',
            f'<ul class="tiles">{"".join(boxes)}</ul>\n<nav>{" ".join(links)}</nav>',
            *body,
            "</body>\n</html>\n",
        ]
    )


def _part(part: Block, pictures: Mapping[str, bytes]) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>"
    if isinstance(part, Code):
        return f"<pre>{escape(part.text)}</pre>"
    if isinstance(part, Table):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in part.head)
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in part.rows
        )
        return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
    data = base64.b64encode(pictures[part.name]).decode()
    width = round(part.figure.get_figwidth() * 100)
    image = (
        f'<img style="--natural: {width}px" width="{width}" alt="{escape(part.caption)}" '
        f'src="data:image/png;base64,{data}">'
    )
    holder = f'<div class="wide">{image}</div>' if part.wide else image
    return f"<figure>{holder}<figcaption>{escape(part.caption)}</figcaption></figure>"


def _png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
