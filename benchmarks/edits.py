"""Which edits that people make do rankings withstand?

    python benchmarks/edits.py --bundle models/zoo/demo-robust
    python benchmarks/edits.py --tiny    # a try, in a minute

A sample of a bundle's test images is edited (JPEG, resizing, cropping, blur, brightness, rotation, screenshots,
watermarks, each at several strengths), as `hardrank audit --transforms` does. For each strength: Recall@1, overlap@10
and the distance moved, with 95 % bootstrap intervals. The result goes to benchmarks/results/edits.json, by bundle.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.bundles import BundleOptions
from benchmarks.command import parse_options
from hardrank.audit_app.audit.edit_stability import MAX_RECALL_LOSS, MIN_OVERLAP, measure_edits
from hardrank.audit_app.gallery.embedded import embed_gallery
from hardrank.audit_app.gallery.image_gallery import from_run
from hardrank.audit_app.subjects.loading import load_subject
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.serving.engine import Device
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.robustness import sample_queries

SEED = 0
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Options(BundleOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"images": 2}

    images: int = 200
    """Images edited."""


def measure(options: Options) -> dict[str, Any]:
    """Measure one bundle."""
    subject = load_subject(str(options.bundle), SubjectOptions(device=Device.CPU))
    embedded = embed_gallery(subject, from_run(options.bundle, data_root=options.data_root))
    rows = sample_queries(len(embedded), options.images, seed=SEED)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = measure_edits(
            embedded,
            rows,
            seed=SEED,
            resamples=RESAMPLES,
            journal=Journal(Path(folder)),
            report=lambda done: None,
            cancel=lambda: False,
        )
    return {
        "images": found.n,
        "gallery": len(embedded),
        "gallery_sha256": embedded.gallery.digest(),
        "model_sha256": subject.sha256,
        "k": found.k,
        "recall_at_1": None if found.recall_at_1 is None else found.recall_at_1.model_dump(),
        "edits": {
            key: {
                **edit.model_dump(exclude={"points"}),
                "points": {f"{point.strength:g}": point.model_dump() for point in edit.points},
            }
            for key, edit in found.edits.items()
        },
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Measure a bundle and add it to the results."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    options.write_bundle(
        "edits",
        measure(options),
        what="Recall@1 and overlap@10 (0 to 1), distance moved after edits; the strongest edit withstood",
        options={
            "seed": SEED,
            "resamples": RESAMPLES,
            "min_overlap": MIN_OVERLAP,
            "max_recall_loss": MAX_RECALL_LOSS,
        },
    )


if __name__ == "__main__":
    main()
