"""The page: sections of text, tables and figures in one self-contained HTML file."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import ClassVar

from matplotlib.figure import Figure

from smallvit_jax.reporting.templates import render_template

MOST_BYTES = 5_000_000
_RESOLUTIONS = (130, 90, 60, 40)  # dots per inch, tried until the page is small enough


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with its file name and caption; a `wide` one scrolls on a phone."""

    kind: ClassVar[str] = "picture"
    name: str
    figure: Figure
    caption: str
    wide: bool = False

    @property
    def width(self) -> int:
        """Width on the page, in pixels."""
        return round(self.figure.get_figwidth() * 100)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a header, which may be empty."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Code:
    """Text to copy."""

    kind: ClassVar[str] = "code"
    text: str


@dataclasses.dataclass(frozen=True)
class Folded:
    """Long preformatted text that unfolds with a click on its title."""

    kind: ClassVar[str] = "folded"
    title: str
    text: str


Block = str | Picture | Table | Code | Folded


@dataclasses.dataclass(frozen=True)
class Section:
    """A reader's question and the blocks that answer it; a plain string is a paragraph."""

    title: str
    blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class PageContent:
    """The content of a page. `tiles` maps the names of the main results to their values."""

    title: str
    subtitle: str
    tiles: Mapping[str, str]
    sections: Sequence[Section]


def render(content: PageContent) -> tuple[str, dict[str, bytes]]:
    """Returns the page as HTML below 5 MB, and its pictures as PNG data by name.

    Sections without blocks are left out. All text is escaped.
    """
    sections = [section for section in content.sections if section.blocks]
    for dpi in _RESOLUTIONS:
        pictures = {
            block.name: _png(block.figure, dpi)
            for section in sections
            for block in section.blocks
            if isinstance(block, Picture)
        }
        page = render_template(
            "page.html",
            title=content.title,
            subtitle=content.subtitle,
            tiles=content.tiles,
            sections=sections,
            pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
        )
        if len(page.encode()) < MOST_BYTES:
            break
    return page, pictures


def _png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
