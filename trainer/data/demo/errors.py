"""Errors of the demo set."""

from hardrank.trainer.data.dataset import DatasetError


class DemoOptionError(DatasetError):
    """An option of the demo set is out of range."""


class DemoDamagedError(DatasetError):
    """Files of a demo set are missing, changed or not in its manifest."""


class DemoFolderError(DatasetError):
    """The folder contains something else, which is never overwritten."""
