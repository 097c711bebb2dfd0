"""Matplotlib figures as SVG elements of a page: text stays text, colours follow light and dark mode, ids unique."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from .figures.style import COLOURS, HEIGHT, STYLE, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["drawn"]

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_NAMES = {light: name for name, (light, _) in COLOURS.items()}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"font-family: [^;]*; |font: [\d.]+px [^;]*; ")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def drawn(
    draw: Callable[[Axes], object],
    *,
    key: str,
    title: str,
    text: str,
    width: float = WIDTH,
    height: float = HEIGHT,
) -> str:
    r"""Draw a figure and return it as an `<svg>` element.

    Colours of the style become the page's variables (`var(--blue)`), so that they follow its light or dark mode.
    Ids begin with `key`, so that several figures live in one page; `title` and `text` are for those who hear it; sizes
    are in inches.

    Example:
        >>> svg = drawn(
        ...     lambda ax: ax.plot([1, 2], [3, 4]), key="f1", title="a < b", text="A line that rises."
        ... )
        >>> svg[:4], '<title id="f1-title">a &lt; b</title>' in svg
        ('<svg', True)
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": key}), warnings.catch_warnings():
        # text is drawn by the browser, which has fonts for names in any script
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return embedded(buffer.getvalue(), key=key, title=title, text=text)


def embedded(document: str, *, key: str, title: str, text: str) -> str:
    """An SVG document of matplotlib as an element for a page; see `drawn`."""
    # what matplotlib writes has no entity of its own and a known size: there is nothing to defend against here
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            name = child.tag.rpartition("}")[2]
            # a style element would apply to the whole page
            only_styles = name == "defs" and all(inner.tag.endswith("style") for inner in child)
            if name in ("metadata", "style") or only_styles:
                parent.remove(child)
    for element in root.iter():
        _adapt(element, key)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{key}-title {key}-text", "class": "figure"}
    for position, (tag, name, words) in enumerate((("title", "title", title), ("desc", "text", text))):
        label = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{key}-{name}"})
        label.text = words
        root.insert(position, label)
    return _serialised(root)


def _adapt(element: ElementTree.Element, key: str) -> None:
    """One element: unique ids, short numbers, colours as variables, the font of the page."""
    attributes = element.attrib
    if "id" in attributes:
        attributes["id"] = f"{key}-{attributes['id']}"
    if _LINK in attributes:
        link = attributes.pop(_LINK)
        attributes["href"] = f"#{key}-{link[1:]}" if link.startswith("#") else link
    for name in attributes.keys() - {"id", "href", "class"}:
        value = _REFERENCE.sub(rf"url(#{key}-\1)", attributes[name])
        value = _NUMBER.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)
        if name in ("style", "fill", "stroke"):
            value = _FONT.sub(lambda font: _size(font[0]), value)
            value = re.sub(r"#[0-9a-f]{6}", lambda colour: _variable(colour[0]), value)
        attributes[name] = value


def _size(font: str) -> str:
    """The size out of a font; its family is that of the page. Releases of matplotlib write it in two ways."""
    size = re.search(r"[\d.]+px", font)
    return f"font-size: {size[0]}; " if size else ""


def _variable(colour: str) -> str:
    return f"var(--{_NAMES[colour]}, {colour})" if colour in _NAMES else colour


def _serialised(root: ElementTree.Element) -> str:
    """Text of the element without prefixes of namespaces, which HTML does not know."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if element.text is not None and not element.text.strip():
            element.text = None
        element.tail = None
    return ElementTree.tostring(root, encoding="unicode")
