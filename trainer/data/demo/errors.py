"""What can be wrong with a demo set or with what is asked of it."""

from hardrank.trainer.data.dataset import DatasetError


class DemoOptionError(DatasetError):
    """An option of the demo set is out of its range."""


class DemoDamagedError(DatasetError):
    """Files of a demo set on disk are missing, changed or too many."""


class DemoForeignError(DatasetError):
    """The folder asked for holds something else; it is never overwritten."""
