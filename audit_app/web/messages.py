"""Failures as sentences on the page, never a trace."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from hardrank.audit_app.web.background_cache import UNFORESEEN
from hardrank.models.errors import HardrankError

_logger = logging.getLogger(__name__)
_MARKDOWN = frozenset(r"\`*_{}[]()<>#+-.!|$:~")


@contextmanager
def told() -> Iterator[None]:
    """Show what goes wrong in the block as a message, and go on after it."""
    try:
        yield
    except HardrankError as error:
        problem(str(error))
    except Exception:
        _logger.exception("a page failed")
        problem(UNFORESEEN)


def problem(message: str) -> None:
    """Show what is wrong."""
    st.error(plain(message[:1].upper() + message[1:]), icon=":material/error:")


def plain(text: str) -> str:
    """Keep names of files and others' words from being read as Markdown."""
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in text)
