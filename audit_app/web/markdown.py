"""Escape text for Streamlit, which renders Markdown in labels, tooltips, captions and messages."""

import re
from typing import Final

_PUNCTUATION: Final = re.compile(r"[!-/:-@\[-`{-~]")
_JOINER: Final = "\N{WORD JOINER}"
"""Invisible, and without a line break. It separates characters that would otherwise be replaced."""
_REPLACED_LATER: Final = re.compile(r"[:@](?=\S)|[-<>~](?=[->=])|(?<=w)(?=w)", re.IGNORECASE)
"""Where to break up emoji shortcodes and URL schemes, addresses, arrows, and `www`."""


def escape_markdown(text: str) -> str:
    """Return Markdown that shows `text` literally, on one line.

    Use it for every label, id, file name or message that becomes part of a Streamlit label, `help`, caption, message
    or `st.markdown`. Unescaped, a label such as `![x](http://host/x.png)` makes the visitor's browser fetch a URL.

    Backslashes disable Markdown, HTML, LaTeX and color directives. Streamlit replaces emoji shortcodes (`:cat:`), URLs
    and arrows (`->`) after parsing, when the backslashes are gone; an invisible word joiner breaks these up.
    """
    line = " ".join(text.split())
    return _PUNCTUATION.sub(r"\\\g<0>", _REPLACED_LATER.sub(rf"\g<0>{_JOINER}", line))
