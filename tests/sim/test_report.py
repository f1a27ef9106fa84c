"""Reports as one HTML file: nothing of a config is markup, nothing is loaded, pictures keep to themselves."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure

from minimodels.sim.paper import report, targets
from minimodels.sim.paper.result import Result, Score, score_row, scoreboard
from minimodels.sim.paper.study import Study, of_device
from minimodels.sim.report.page import inline_svg

HOSTILE = '<img src=x onerror="alert(1)"> & "quotes"'
VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """What a page holds: tags with their attributes, in order; an error where tags do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


def drawn(title: str) -> str:
    figure = Figure()
    axes = figure.subplots()
    axes.set_title(title)
    axes.bar([0, 1], [1, 2], hatch="//", clip_on=True)
    axes.plot([0, 1], [0, 1], "o")
    data = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "same", "svg.fonttype": "none"}):
        figure.savefig(data, format="svg")
    return data.getvalue()


def made(study: Study) -> Result:
    figure = Figure()
    figure.subplots().set_title("a > b")
    return Result(figure, ("a",), [(1,)], [Score("t2-01", HOSTILE, True, reading=HOSTILE, why=HOSTILE)])


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(targets, "TARGETS", {"table2": made, "fig12": made})
    of = of_device("a100-80gb")
    rows = targets.run(["all"], of, tmp_path)
    return report.write(of, rows, tmp_path).read_text()


def test_nothing_that_is_told_is_markup(page: str) -> None:
    found = Page(page)
    assert HOSTILE not in page and "&lt;img src=x" in page
    assert "img" not in {tag for tag, _ in found.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]


def test_the_page_loads_nothing(page: str) -> None:
    for tag, attributes in Page(page).tags:
        assert tag not in ("link", "iframe", "object") and "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#"), (tag, attributes)
    assert "default-src 'none'" in page and "@import" not in page
    assert not re.findall(r"url\((?!#)", page)


def test_ids_are_there_once_and_every_reference_has_one(page: str) -> None:
    tags = Page(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {href[1:] for _, attributes in tags if (href := attributes.get("href") or "").startswith("#")}
    used |= {
        name
        for _, attributes in tags
        for value in attributes.values()
        for name in re.findall(r"url\(#(.*?)\)", value or "")
    }
    assert used and used <= set(ids)
    labelled = {attributes["aria-labelledby"] for _, attributes in tags if "aria-labelledby" in attributes}
    assert labelled <= set(ids)


def test_every_target_and_every_number_is_there(page: str) -> None:
    tags = Page(page).tags
    assert {"table2", "fig12", "scoreboard"} <= {attributes.get("id") for _, attributes in tags}
    shown = len(scoreboard([score_row(score, name, "a100-80gb") for name in ("table2", "fig12")
                            for score in made(of_device("a100-80gb")).scores]))  # fmt: skip
    assert sum(tag == "tr" for tag, _ in tags) == shown + 1 + 2 * 2  # heads, and a row in each target
    assert sum(tag == "svg" for tag, _ in tags) == 2
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "svg")


def test_a_picture_keeps_its_shapes_and_loses_what_reaches_the_page() -> None:
    text = drawn(HOSTILE)
    inside = inline_svg(text, "fig7", HOSTILE)
    before, after = ElementTree.fromstring(text), ElementTree.fromstring(inside)
    kept = [element.tag.rpartition("}")[2] for element in before.iter()]
    assert [e.tag for e in after.iter() if e.tag == "path"] == [tag for tag in kept if tag == "path"]
    assert "<style" not in inside and "<metadata" not in inside and "<!--" not in inside
    assert "<img" not in inside and "alert(1)" in inside, "as text"
    assert inside.startswith("<svg") and "viewBox" in after.attrib and "width" not in after.attrib


def test_two_pictures_share_no_id() -> None:
    ids = [set(re.findall(r' id="([^"]+)"', inline_svg(drawn("same"), name, ""))) for name in ("fig7", "fig8")]
    assert ids[0] and not ids[0] & ids[1]


def test_titles_and_captions_are_there_for_every_target() -> None:
    for name in targets.TARGETS:
        assert re.fullmatch(r"(Fig\. \d+|Table I{1,3})", report.title(name))
        assert report.caption(name).endswith(".")
