"""What can be wrong with an index, and with what is asked of it."""

from hardrank.models.errors import HardrankError


class IndexingError(HardrankError):
    """The root of errors of an index."""


class IndexNotFoundError(IndexingError):
    """There is no index in this folder."""


class IndexExistsError(IndexingError):
    """The folder of a new index holds something already."""


class IndexDamagedError(IndexingError):
    """A file of the index is missing, damaged or of another version; the message names it."""


class IndexWriteError(IndexingError):
    """The disk is full, or refuses to be written; nothing was changed."""


class IndexBusyError(IndexingError):
    """Another process writes to the index for longer than one waits."""


class ReadOnlyIndexError(IndexingError):
    """A change was asked of an index that was opened for reading."""


class WrongModelError(IndexingError):
    """The index was made with another model, so its vectors cannot be compared with this one's."""


class InvalidSearchError(IndexingError):
    """A query that no search can answer: its vectors, k, or label."""


class BackendError(IndexingError):
    """A backend that cannot be reached, set up, or does not know an option."""
