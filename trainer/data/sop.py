"""Stanford Online Products as unpacked, with its own split by class."""

from trainer.data.dataset import DataOptions, Dataset, Entry, Listing, ShowProgress, assemble
from trainer.data.official import needed_root, read_table


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read Ebay_train.txt and Ebay_test.txt below `root`; raises `DatasetError`."""
    root = needed_root(options, "Stanford_Online_Products", "Ebay_train.txt")
    halves = [
        [
            Entry(root / path, f"{int(label):05d}")
            for _, label, _, path in read_table(root / f"Ebay_{half}.txt", columns=4, skip=1)
        ]
        for half in ("train", "test")
    ]
    return assemble("sop", root, Listing(*halves), options, progress)
