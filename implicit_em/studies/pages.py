"""A study's report: a template filled in, written as Markdown and as one HTML file."""

import base64
import html
import re
from pathlib import Path
from typing import Any

import markdown
from jinja2 import Environment, PackageLoader, StrictUndefined

from implicit_em.base.files import whole

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13.5px; display: block;
        overflow-x: auto; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; }
th { border-bottom: 2px solid #888; }
img { max-width: 100%; display: block; margin: 1.5rem auto .5rem; }
code { background: #f3f3f3; padding: 0 .2rem; }
blockquote { border-left: 4px solid #d55e00; background: #fdf1ea; margin: 1rem 0;
             padding: .1rem 1rem; }
h3 { margin-top: 2rem; }
"""


def render(package: str, template: str = "report.md.j2", /, **values: Any) -> str:
    """Return a template of a package, filled in; a value that is missing is an error."""
    environment = Environment(
        loader=PackageLoader(package, ""), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(template).render(**values)


def write_pages(text: str, directory: Path) -> Path:
    """Write Markdown as ``report.md`` and ``report.html``; gives the path of the latter."""
    text = re.sub(r"\n{3,}", "\n\n", text)
    with whole(directory / "report.md") as temporary:
        temporary.write_text(text)
    page = directory / "report.html"
    with whole(page) as temporary:
        temporary.write_text(to_html(text, directory))
    return page


def to_html(text: str, directory: Path) -> str:
    """Return Markdown as a page with its style and images inside.

    Args:
        text: Markdown, whose images are PNG files below ``directory``.
        directory: that their paths start from.

    """
    unbroken = text.replace(" ± ", "\u00a0±\u00a0")
    body = markdown.markdown(unbroken, extensions=["tables", "md_in_html", "sane_lists"])

    def embed(match: re.Match[str]) -> str:
        content = (directory / html.unescape(match[1])).read_bytes()
        return f'src="data:image/png;base64,{base64.b64encode(content).decode()}"'

    title = text.partition("\n")[0].lstrip("# ")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n"
        + re.sub(r'src="([^":]+)"', embed, body)
        + "\n</body>\n</html>\n"
    )
