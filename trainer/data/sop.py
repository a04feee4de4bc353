"""Stanford Online Products as unpacked, with its own split by class."""

from pathlib import Path

from hardrank.trainer.data.dataset import (
    DataOptions,
    Dataset,
    DatasetError,
    LabeledImage,
    ShowProgress,
    TrainTestImages,
    assemble,
)
from hardrank.trainer.data.official import needed_root, read_table


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read Ebay_train.txt and Ebay_test.txt below `root`; raises `DatasetError`."""
    root = needed_root(options, "Stanford_Online_Products", "Ebay_train.txt")
    return assemble(
        "sop", root, TrainTestImages(_half(root / "Ebay_train.txt"), _half(root / "Ebay_test.txt")), options, progress
    )


def _half(table: Path) -> list[LabeledImage]:
    entries: list[LabeledImage] = []
    for image, label, _, path in read_table(table, columns=4, skip=1):
        if not label.isdecimal():
            raise DatasetError(f"{table}, image {image}: the class must be a number, not {label!r}")
        entries.append(LabeledImage(table.parent / path, f"{int(label):05d}"))
    return entries
