"""Show errors on the page as sentences, never as stack traces."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from hardrank.audit_app.errors import INTERNAL_ERROR
from hardrank.audit_app.web.markdown import escape_markdown
from hardrank.models.errors import HardrankError

_logger = logging.getLogger(__name__)


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show errors of the block as messages, and continue after it."""
    try:
        yield
    except HardrankError as error:
        show_error(str(error))
    except Exception:
        _logger.exception("a page failed")
        show_error(INTERNAL_ERROR)


def show_error(message: str) -> None:
    """Show an error message."""
    sentence = re.match("[a-z]+ ", message) is not None  # else it may begin with the name of a file
    st.error(escape_markdown(message[:1].upper() + message[1:] if sentence else message), icon=":material/error:")
