"""What can be wrong with an audit, and with what it is asked of."""

from hardrank.models.errors import HardrankError


class AuditError(HardrankError):
    """The root of errors of an audit."""


class SubjectError(AuditError):
    """A model that does not exist, cannot be loaded, or does not embed images."""


class GalleryError(AuditError):
    """A gallery that does not exist, does not fit the model, or has no ranking to attack."""
