"""What the precision of the gradients changes: rounding, and no result that is judged in float32."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardrank.audit_app.gallery.embedded import embed_gallery
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.subjects.loading import load_subject
from hardrank.trainer.evaluation.robustness import RobustnessOptions, measure_robustness
from hardrank.trainer.runtime.environment import Precision
from tests.audit_app.galleries import OPTIONS


@torch.no_grad()
def test_the_batch_changes_embeddings_only_by_rounding(tiny_zoo: list[Path], bf16: bool) -> None:
    subject = load_subject(str(tiny_zoo[1]), OPTIONS)
    assert subject.precision.startswith("bf16") == bf16
    images = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for embed, limit in ((subject.gradients, 0.004 if bf16 else 1e-6), (subject.judge, 1e-6)):
        whole = embed(images)
        for size in (1, 3):
            parts = torch.cat([embed(part) for part in images.split(size)])
            assert (parts - whole).norm(dim=1).max() <= limit


@pytest.mark.slow
def test_ltm_is_as_strong_with_gradients_in_bf16(tiny_zoo: list[Path], gratings: Path) -> None:
    """Recall@1 differs by less than 2 points; the query's own copy, near but not at distance 0, decides nothing."""
    options = RobustnessOptions(
        epsilon=1 / 255, alpha=1 / 3 / 255, steps=8, bootstrap=20, seed_check=0, sanity_images=0
    )

    def measure(precision: Precision) -> float:
        subject = load_subject(str(tiny_zoo[1]), replace(OPTIONS, precision=precision))
        embedded = embed_gallery(subject, from_images(gratings))
        card = measure_robustness(
            embedded.subject.gradients,
            embedded.images,
            embedded.embeddings,
            embedded.labels,
            torch.arange(len(embedded)),
            options=options,
            attacks=options.attacks(["LTM"]),
            judge=embedded.subject.judge,
        )
        assert card.figures["LTM"].value < card.figures["LTM"].before - 5, "the attack succeeds for some images"
        return card.figures["LTM"].value

    assert measure(Precision.BF16) == pytest.approx(measure(Precision.FLOAT32), abs=2)
