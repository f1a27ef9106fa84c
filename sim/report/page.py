"""What the HTML reports share: the shell with its style, templates whose values are escaped, pictures inside the page.

A report is one file: style, script and pictures are inside, and its policy forbids it to load anything.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PACKAGES = {"report": "minimodels.sim.report", "paper": "minimodels.sim.paper"}  # folders of templates
REFERENCE = re.compile(r"url\(#([^)]+)\)")
STROKES = "stroke-linejoin: round; stroke-linecap: butt"  # matplotlib's style of everything, kept to the picture


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.globals["source"] = _inside
    return made


def _source(name: str) -> str:
    folder, file = name.split("/")
    return (resources.files(PACKAGES[folder]) / file).read_text("utf-8")


def _inside(name: str) -> Markup:
    """A file of ours (style or script) as it is."""
    from markupsafe import Markup

    return Markup(_source(name))


def render(template: str, **values: object) -> str:
    """A page from a template such as "paper/report.html", which extends "report/page.html"; values are escaped."""
    return _environment().get_template(template).render(**values)


def inline_svg(text: str, name: str, label: str, *, themed: bool = False) -> Markup:
    """A picture of matplotlib's as part of a page: its ids start with `name`, as no other picture's do.

    label: what a screen reader says of it; themed: black and white become the page's colours of text and background.
    Comments, metadata and style sheets are left out, namespaces go.

    Raises:
        ElementTree.ParseError: it is no XML.
    """
    from markupsafe import Markup

    root = ElementTree.fromstring(text)
    for parent in root.iter():
        for child in [child for child in parent if _local(child.tag) in ("metadata", "style", "script")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _renamed(_local(key), value, name) for key, value in element.attrib.items()}
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": label, "style": STROKES}
    if not themed:
        return Markup(ElementTree.tostring(root, encoding="unicode"))
    root.attrib["fill"] = "currentColor"  # of letters, which have no colour of their own
    drawn = ElementTree.tostring(root, encoding="unicode")
    return Markup(drawn.replace("#000000", "currentColor").replace("#ffffff", "var(--back)"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _renamed(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return REFERENCE.sub(rf"url(#{name}-\1)", value)
