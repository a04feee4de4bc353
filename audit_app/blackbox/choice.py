"""How a model is attacked: by its gradients, by a black-box search, or by transfer."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from hardrank.audit_app.blackbox import SEARCHES, make_search
from hardrank.audit_app.subjects.subject import Subject
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.runner import Method


class SearchMethod(StrEnum):
    """How adversarial images are found."""

    AUTO = "auto"
    """White-box where the model gives gradients, else the square search (L∞) or NES (L2)."""
    WHITE_BOX = "white-box"
    NES = "nes"
    SPSA = "spsa"
    SQUARE = "square"
    RANKS = "ranks"
    """Sees the ids of the first results alone."""
    TRANSFER = "transfer"
    """White-box on a surrogate, judged on the model."""


SEARCH_METHODS: Final = (SearchMethod.AUTO, *map(SearchMethod, SEARCHES))
"""What a model without gradients can be attacked with alone."""


def search_name(method: SearchMethod, norm: Norm) -> str:
    """Return the black-box search for models without gradients: the requested one, else the one that suits the norm."""
    if method in SEARCHES:
        return str(method)
    return "square" if norm is Norm.LINF else "nes"


def method_name(subject: Subject, method: SearchMethod, norm: Norm) -> str:
    """Return the name of the method that `choose_method` chooses, as reports have it."""
    if method is SearchMethod.TRANSFER:
        return str(method)
    if method is SearchMethod.WHITE_BOX or (method is SearchMethod.AUTO and subject.white_box):
        return str(SearchMethod.WHITE_BOX)
    return search_name(method, norm)


def choose_method(subject: Subject, method: SearchMethod, *, norm: Norm, search: Mapping[str, Any]) -> Method | None:
    """Choose how a model is attacked.

    Args:
        subject: The model under audit.
        method: The requested method, except `TRANSFER`, which needs a surrogate; see `transfer_from`.
        norm: Norm of the budget, which decides the default search.
        search: Options of the black-box search.

    Returns:
        A method that replaces `run_attack`; None for white-box attacks.

    Raises:
        SubjectError: The method needs gradients, and the model has none.
        AttackError: Unknown options of the search.
    """
    if method_name(subject, method, norm) == SearchMethod.WHITE_BOX:
        _ = subject.gradients  # raises where there are none
        return None
    return make_search(search_name(method, norm), **search)
