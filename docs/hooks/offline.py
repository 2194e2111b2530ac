"""The site opens without a network: no page loads anything from elsewhere."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

LOADED = re.compile(
    r"<(?:script|img|iframe|source|link(?=[^>]*(?:stylesheet|icon|preconnect)))\b[^>]*?"
    r"\b(?:src|href)=\"?((?:https?:)?//[^\s\">]+)"
)


def on_post_build(config: Any, **_: Any) -> None:
    """Refuse a site that needs a network.

    Raises:
        PluginError: if a page loads a script, a style, a font or an image from elsewhere.

    """
    for page in sorted(Path(config["site_dir"]).rglob("*.html")):
        if loaded := LOADED.search(page.read_text()):
            raise PluginError(f"{page}: loads {loaded[1]}, so it does not open offline")
