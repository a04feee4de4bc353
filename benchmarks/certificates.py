"""How much of Recall@1 can randomized smoothing certify, and how does that depend on σ?

    python benchmarks/certificates.py --bundle models/zoo/demo-robust
    python benchmarks/certificates.py --tiny    # a try, in a minute

Certified Recall@1 of a sample of a bundle's test images, as `hardrank audit --certify` measures it: the class that most
noisy copies find (vote), and the item nearest to their mean embedding. The result goes to
benchmarks/results/certificates.json, by bundle and σ; other bundles, and other σ of the same model, stay there.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.bundles import BundleOptions
from benchmarks.command import parse_options
from hardrank.audit_app.audit.certified_recall import MULTIPLES, measure_certificates
from hardrank.audit_app.audit.options import CertificateOptions
from hardrank.audit_app.gallery.embedded import embed_gallery
from hardrank.audit_app.gallery.image_gallery import from_run
from hardrank.audit_app.subjects.loading import load_subject
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.serving.engine import Device
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.robustness import sample_queries

SEED = 0
RESAMPLES = 1000
BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Options(BundleOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"images": 2, "samples": 20}

    images: int = 100
    """Images certified."""
    sigma: tuple[float, ...] = CertificateOptions().sigmas
    """Standard deviations of the noise, for pixels in [0,1]."""
    samples: int = CertificateOptions().samples
    """Noisy copies of each image."""
    journal: Path | None = None
    """Folder that keeps finished images, so that an interrupted measurement continues; default: none."""


def measure(options: Options) -> dict[str, Any]:
    """Measure one bundle."""
    subject = load_subject(str(options.bundle), SubjectOptions(device=Device.CPU))
    embedded = embed_gallery(subject, from_run(options.bundle, data_root=options.data_root))
    rows = sample_queries(len(embedded), options.images, seed=SEED)
    certificates = CertificateOptions(images=options.images, sigmas=options.sigma, samples=options.samples)
    with tempfile.TemporaryDirectory() as folder:
        kept = options.journal or Path(folder)
        found = measure_certificates(
            embedded,
            rows,
            certificates,
            seed=SEED,
            batch=BATCH,
            resamples=RESAMPLES,
            journal=lambda name: Journal(kept / name),
            report=lambda done: print(done, flush=True) if done % 10 == 0 else None,
            cancel=lambda: False,
        )
    return {
        "gallery": len(embedded),
        "gallery_sha256": embedded.gallery.digest(),
        "model_sha256": subject.sha256,
        "sigmas": {
            f"{one.sigma:g}": {
                "images": one.n,
                "samples": one.samples,
                "alpha": one.alpha,
                "recall_at_1": one.recall_at_1.model_dump(),
                "points": {
                    f"{multiple:g} sigma": point.model_dump()
                    for multiple, point in zip(MULTIPLES, one.points, strict=True)
                },
            }
            for one in found
        },
    }


def main() -> None:
    """Measure a bundle and add it to the results."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    measured = measure(options)
    before = options.known("certificates").get("bundles", {}).get(options.bundle.name, measured)
    if before["model_sha256"] == measured["model_sha256"]:
        measured["sigmas"] = {**before["sigmas"], **measured["sigmas"]}
    options.write_bundle(
        "certificates",
        measured,
        what="certified Recall@1 (0 to 1) at L2 radii, by bundle and σ, with 95 % bootstrap intervals",
        options={"seed": SEED, "resamples": RESAMPLES, "batch": BATCH},
    )


if __name__ == "__main__":
    main()
