"""What can be wrong with a demo set or with what is asked of it."""

from models.errors import HardrankError


class DemoOptionError(HardrankError):
    """An option of the demo set is out of its range."""


class DemoDamagedError(HardrankError):
    """Files of a demo set on disk are missing, changed or too many."""


class DemoForeignError(HardrankError):
    """The folder asked for holds something else; it is never overwritten."""
