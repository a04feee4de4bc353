"""Errors of an index, its storage and its searches."""

from hardrank.models.errors import HardrankError


def trace_of(error: Exception) -> Exception | None:
    """Return an error whose traceback belongs in the log; None if its text names the cause, such as a full disk."""
    return None if isinstance(error, HardrankError | OSError) else error


class IndexingError(HardrankError):
    """Base class of the errors of an index."""


class IndexNotFoundError(IndexingError):
    """The folder is not an index."""


class IndexExistsError(IndexingError):
    """The folder of a new index already holds something."""


class IndexDamagedError(IndexingError):
    """A file of the index is missing, damaged or of another version; the message names it."""


class IndexWriteError(IndexingError):
    """A file of the index cannot be written, for example because the disk is full; nothing was changed."""


class IndexBusyError(IndexingError):
    """Another process kept the index locked for longer than the time-out."""


class UnfinishedChangeError(IndexingError):
    """The last change of the item was interrupted, and also concerns an index that is not served."""


class ReadOnlyIndexError(IndexingError):
    """The index was opened for reading, or its folder is read-only."""


class WrongModelError(IndexingError):
    """The index belongs to another model; embeddings of two models cannot be compared."""


class InvalidSearchError(IndexingError):
    """An invalid query: its vectors, k, or label."""


class BackendError(IndexingError):
    """A backend that is missing, cannot be reached, or does not know an option."""
