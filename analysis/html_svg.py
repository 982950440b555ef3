"""Puts a plot's SVG into the page: ids made unique, style sheets and metadata taken out, nothing that acts or loads.

Only SVG from our own plots gets here, but names from a run stand in it as text; what a plot has no use for is refused.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup, escape

__all__ = ["UnsuitableSvg", "inline_svg"]

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_ELEMENTS = frozenset(
    {"svg", "g", "defs", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan", "use"}
    | {"clipPath", "image", "linearGradient", "radialGradient", "stop", "pattern", "marker", "symbol", "title", "desc"}
)
_DROPPED = frozenset(("metadata", "style"))
_HREF = re.compile(r"#[\w.:-]+|data:image/png;base64,[A-Za-z0-9+/=\s]+")
_ID_IN_STYLE = re.compile(r"url\(\s*['\"]?#([^)'\"]+)['\"]?\s*\)")
_LOADING = re.compile(r"url\((?!\s*['\"]?#)|@import|expression\(|javascript:", re.IGNORECASE)

ElementTree.register_namespace("", _SVG[1:-1])
ElementTree.register_namespace("xlink", _XLINK[1:].split("}")[0])


class UnsuitableSvg(ValueError):
    """The SVG holds something that does not belong into the page."""


def inline_svg(svg: str, name: str, label: str) -> Markup:
    """Return the SVG as an element of the page, with ``label`` for those who don't see it.

    ``name`` is unique in the page and becomes the prefix of all ids. UnsuitableSvg if it is no SVG, or holds an
    element, attribute or address that a plot has no use for.
    """
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise UnsuitableSvg(f"{name} is no SVG: {error}") from None
    if root.tag != f"{_SVG}svg":
        raise UnsuitableSvg(f"{name} is no SVG but {root.tag}")
    _clean(root, re.sub(r"[^\w-]", "-", name), name)
    width, _ = _natural_size(root)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    # How matplotlib's own style sheet, which would hold for the whole page, wants lines to be drawn.
    root.set("style", f"stroke-linejoin:round;stroke-linecap:butt;--natural:{width:.0f}px")
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("focusable", "false")
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _clean(element: ElementTree.Element, prefix: str, name: str) -> None:
    for child in list(element):
        tag = child.tag.removeprefix(_SVG) if isinstance(child.tag, str) else ""
        if tag.startswith("{") or tag in _DROPPED:
            # Namespaces of metadata (RDF, Dublin Core): nothing that is drawn.
            element.remove(child)
        elif tag not in _ELEMENTS:
            raise UnsuitableSvg(f"{name} holds an element <{escape(tag)}>, which no plot needs")
        else:
            _clean(child, prefix, name)
    for key, value in list(element.attrib.items()):
        element.set(key, _attribute(key, value, prefix, name))


def _attribute(key: str, value: str, prefix: str, name: str) -> str:
    if key.lower().startswith("on") or _LOADING.search(value):
        raise UnsuitableSvg(f"{name} holds an attribute {key} that acts or loads")
    if key in ("href", _XLINK):
        if not _HREF.fullmatch(value):
            raise UnsuitableSvg(f"{name} refers to something outside itself")
        return f"#{prefix}-{value[1:]}" if value.startswith("#") else value
    if key == "id":
        return f"{prefix}-{value}"
    return _ID_IN_STYLE.sub(lambda match: f"url(#{prefix}-{match[1]})", value)


def _natural_size(root: ElementTree.Element) -> tuple[float, float]:
    """Width and height in px, from the view box."""
    parts = root.get("viewBox", "").split()
    try:
        width, height = float(parts[2]), float(parts[3])
    except (IndexError, ValueError):
        raise UnsuitableSvg("the SVG has no view box") from None
    return width * 4 / 3, height * 4 / 3  # matplotlib counts in points
