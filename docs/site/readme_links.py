"""MkDocs hook: links to the README lead to the front page of the site, which is made from it."""

from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the text of a page of `docs` with such links replaced."""
    return markdown.replace("](../README.md", "](index.md")
