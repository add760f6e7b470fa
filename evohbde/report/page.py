"""How do blocks become one HTML file that needs nothing else?"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evohbde.report.blocks import Block, Section


def render(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """Write a page: no outside resources, all text escaped, no script or style but those whose hashes it names.

    Args:
        title: Heading of the page and of its window.
        subtitle: The line below.
        blocks: What the page holds, sections with an anchor listed at its top.
    """
    style, script = _part("style.css"), _part("script.js")
    contents = [block for block in blocks if isinstance(block, Section) and block.anchor]
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=title,
            subtitle=subtitle,
            blocks=blocks,
            contents=contents,
            policy=_policy(style, script),
            # Our own files; escaped, they would be neither CSS nor JavaScript.
            style=Markup(style),
            script=Markup(script),
        )
    )


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}"


@cache
def _part(name: str) -> str:
    return files("evohbde.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("evohbde.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
