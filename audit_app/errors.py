"""Errors of audits."""

from typing import Final

from hardrank.models.errors import HardrankError

INTERNAL_ERROR: Final = "internal error; see the app log"
"""What a visitor is told about an unexpected failure; the log has the details."""


class AuditError(HardrankError):
    """Base class of the errors of audits."""


class SubjectError(AuditError):
    """A model that does not exist, cannot be loaded, or does not embed images."""


class GalleryError(AuditError):
    """A gallery that does not exist, does not fit the model, or has no ranking to attack."""
