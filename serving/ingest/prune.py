"""Delete the items whose image files no longer exist, unless a whole folder or disk seems to be missing."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hardrank.models.errors import HardrankError
from hardrank.models.files import expand_user
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import ListedItem, id_of_path

_SHOWN: Final = 3


class PruneError(HardrankError):
    """A prune that would delete all items of a folder, or cannot tell whether a file exists."""


def prune(index: SearchIndex, *, gone_for_good: Iterable[Path] = ()) -> int:
    """Delete the items whose image files no longer exist.

    Items that were uploaded have no file and stay. An item is deleted only if its gallery still exists, and another
    item has its file on the same disk below the deepest folder that is left of the missing path. Otherwise the disk may
    not be mounted (its mount point is then empty or missing), or the folder was moved. The gallery is the folder that
    was indexed; of an item whose id is not of its path, as a CSV file may give it, the folder of the file.

    Args:
        index: An index that is open for writing.
        gone_for_good: Folders to which this does not apply.

    Returns:
        Number of items deleted.

    Raises:
        PruneError: No file is left of a folder, or a file cannot be looked at; nothing was deleted.
        ReadOnlyIndexError: The index was opened for reading.
    """
    alive: set[Path] = set()
    gone: list[tuple[ListedItem, Path]] = []
    for item in index.list_items():
        if item.source is not None:
            path = item.source.path
            if _exists(path):
                alive.add(path.parent)
            else:
                gone.append((item, path))
    confirmed = [Path(os.path.realpath(expand_user(folder))) for folder in gone_for_good]
    alive_on = {(above, _device(folder)) for folder in alive for above in (folder, *folder.parents)}
    lost: Counter[Path] = Counter()
    for item, path in gone:
        left = next(folder for folder in path.parents if _exists(folder))
        is_trusted = (left, _device(left)) in alive_on and left.is_relative_to(_gallery(item.id, path))
        if not is_trusted and not any(path.is_relative_to(folder) for folder in confirmed):
            lost[left if left == path.parent else left / path.relative_to(left).parts[0]] += 1
    if lost:
        shown = ", ".join(f"{folder} ({count} items)" for folder, count in lost.most_common(_SHOWN))
        more = f" and {len(lost) - _SHOWN} more folders" if len(lost) > _SHOWN else ""
        raise PruneError(
            f"no image file is left in {shown}{more}, so nothing was deleted; check that the disk is mounted. If the "
            "folder was moved, index it again at its new place first. If it is gone for good, give it or one above "
            "it as --gone-for-good"
        )
    return index.delete_listed([item for item, _ in gone])


def _exists(path: Path) -> bool:
    """Return whether a file exists; raises `PruneError` if that cannot be told, as on a disk that fails."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise PruneError(
            f"{path} cannot be looked at ({error.strerror}), so nothing was deleted; check the disk and permissions"
        ) from error
    return True


def _device(folder: Path) -> int:
    return folder.stat().st_dev


def _gallery(id: str, path: Path) -> Path:
    """Return the folder that was indexed: the one below which the path makes the id, else the file's own folder."""
    roots = (root for root in path.parents if id_of_path(path.relative_to(root).as_posix()) == id)
    return next(roots, path.parent)
