"""The page as HTML: well-formed, self-contained, escaped and small."""

from html.parser import HTMLParser

import numpy as np
import pytest

from smallvit_jax.reporting import figures
from smallvit_jax.reporting.page import (
    MOST_BYTES,
    Code,
    Folded,
    PageContent,
    Picture,
    Section,
    Table,
    render,
)

EVIL = '<script>alert("x")</script> & <b>'
VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects text by tag and checks that tags close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.attributes = [], {}, []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


def some_figure(pixels=8):
    noise = np.random.default_rng(0).integers(0, 50, (pixels, pixels))
    return figures.draw_confusion(noise, [str(i) for i in range(pixels)])


def test_every_text_is_shown_and_escaped():
    blocks = [EVIL, Table((EVIL, "b"), [("c", EVIL)]), Code(EVIL), Folded(EVIL, EVIL)]
    blocks.append(Picture("p", some_figure(), EVIL))
    sections = [Section("Why?", blocks), Section("empty", [])]
    page, pictures = render(PageContent(EVIL, EVIL, {EVIL: "97 %"}, sections))
    reader = read(page)
    for tag in ("title", "h1", "p", "th", "td", "pre", "figcaption", "span", "summary"):
        assert EVIL in "".join(reader.texts[tag]), tag
    assert "script" not in reader.texts and reader.texts["b"] == ["97 %"]
    assert reader.texts["h2"] == ["Why?"] == reader.texts["a"]
    assert list(pictures) == ["p"] and pictures["p"].startswith(b"\x89PNG")


def test_page_loads_nothing_external():
    sections = [Section("x", [Picture("p", some_figure(), "c")])]
    page, _ = render(PageContent("t", "s", {}, sections))
    links = [value for name, value in read(page).attributes if name in ("src", "href")]
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert len(links) == 2 and "http" not in page


@pytest.mark.parametrize("count", [1, 5])
def test_pictures_shrink_until_the_page_is_small(count):
    rng = np.random.default_rng(0)

    def noisy():
        figure, (ax,) = figures.panels(1, width=6, height=6)
        ax.imshow(rng.random((600, 600, 3)), interpolation="nearest")
        return figure

    blocks = [Picture(f"p{i}", noisy(), "c") for i in range(count)]
    page, pictures = render(PageContent("t", "s", {}, [Section("x", blocks)]))
    assert len(page.encode()) < MOST_BYTES
    assert len(pictures) == count
