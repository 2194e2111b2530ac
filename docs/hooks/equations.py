"""Equations: LaTeX becomes MathML when the site is built, so that no page loads a script for it."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

EQUATION = re.compile(
    r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.S
)


def on_page_content(html_page: str, **_: Any) -> str:
    r"""Replace every ``\(...\)`` and ``\[...\]`` of a page by MathML."""
    return EQUATION.sub(_mathml, html_page)


def _mathml(equation: re.Match[str]) -> str:
    display = "block" if equation[1] == "[" else "inline"
    return convert(html.unescape(equation[2]), display=display)
