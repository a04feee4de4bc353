"""Delete the items whose image files no longer exist."""

from hardrank.models.errors import HardrankError
from hardrank.models.image_listing import is_file
from hardrank.serving.index.search_index import SearchIndex


class PruneError(HardrankError):
    """A prune that would delete every item."""


def prune(index: SearchIndex) -> int:
    """Delete the items whose image files no longer exist.

    Items that were uploaded have no file and stay.

    Args:
        index: An index that is open for writing.

    Returns:
        Number of items deleted.

    Raises:
        PruneError: No file exists any more, as if a disk were not mounted; nothing was deleted.
        ReadOnlyIndexError: The index was opened for reading.
    """
    with_file = [item for item in index.list_items() if item.source is not None]
    gone = [item for item in with_file if item.source is not None and not is_file(item.source.path)]
    if gone and len(gone) == len(with_file):
        raise PruneError(
            f"none of the {len(gone)} image files exists any more, such as {gone[0].source and gone[0].source.path}; "
            "check that the disk is mounted. If the folder was moved, index it again at its new place first"
        )
    index.delete([item.id for item in gone])
    return len(gone)
