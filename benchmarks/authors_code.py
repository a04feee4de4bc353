"""The code that the authors of the paper released, as a yardstick: https://github.com/cdluminate/robrank

It is loaded from a checkout, which is not part of this project; `pip install termcolor` is all that it needs besides.
Only its attacks, its samplers, its triplet loss and its defense are loaded, not its data sets and models. It works on
our networks, with batch norm frozen as in ours.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn

from hardrank.models.embedder import Embedder
from hardrank.trainer.attacks.pgd import PGDOptions
from hardrank.trainer.training.precision import set_training_mode

ATTACKS: Final[dict[str, dict[str, Any]]] = {
    "CA+": {"attack_type": "CA", "pm": "+", "W": 1},
    "CA-": {"attack_type": "CA", "pm": "-", "W": 1},
    "QA+": {"attack_type": "QA", "pm": "+", "M": 1},
    "QA-": {"attack_type": "QA", "pm": "-", "M": 1},
    "TMA": {"attack_type": "TMA"},
    "ES": {"attack_type": "ES"},
    "LTM": {"attack_type": "LTM"},
    "GTM": {"attack_type": "GTM"},
    "GTT": {"attack_type": "GTT"},
}
"""The attacks of the robustness score, by our names, as arguments of the authors' `AdvRank`."""

FIGURES: Final[dict[str, tuple[str, str, float]]] = {
    "CA+": ("CA+", "CA+:prank", 100),
    "CA-": ("CA-", "CA-:prank", 100),
    "QA+": ("QA+", "QA+:prank", 100),
    "QA-": ("QA-", "QA-:prank", 100),
    "TMA": ("TMA", "Cosine-SIM", 1),
    "ES:D": ("ES", "embshift", 1),
    "ES:R": ("ES", "r@1", 1),
    "LTM": ("LTM", "r@1", 100),
    "GTM": ("GTM", "r@1", 100),
    "GTT": ("GTT", "retain@4", 100),
}
"""The results that make up the score: the attack, the authors' name, and the factor to our unit."""


@dataclass(frozen=True)
class AuthorsCode:
    """Their training step, loss and attacks."""

    hm_training_step: Any
    triplet_loss: Any
    """`pstripletN`: normalized embeddings, Euclidean distances, softhard triplets."""
    attack: Any
    """`AdvRank`."""


def load_authors_code(checkout: Path) -> AuthorsCode:
    """Import what is needed from `checkout`.

    Raises:
        SystemExit: there is no such code, or a package that it needs is missing.
    """
    if not (checkout / "robrank" / "defenses" / "amd.py").is_file():
        raise SystemExit(f"error: {checkout} is no checkout of https://github.com/cdluminate/robrank")
    for name in ("robrank", "robrank.attacks", "robrank.losses", "robrank.defenses"):
        # Without the packages' own __init__, which imports all data sets and models.
        package = ModuleType(name)
        package.__path__ = [str(checkout.joinpath(*name.split(".")))]
        sys.modules[name] = package
    try:
        attack = importlib.import_module("robrank.attacks.advrank").AdvRank
        sys.modules["robrank.attacks"].AdvRank = attack  # type: ignore[attr-defined]
        return AuthorsCode(
            hm_training_step=importlib.import_module("robrank.defenses.amd").hm_training_step,
            triplet_loss=importlib.import_module("robrank.losses.triplet").pstripletN,
            attack=attack,
        )
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: the authors' code needs {error.name}: pip install {error.name}") from None


def _with_zero_margin(loss: Any) -> Any:
    """Let the loss take a margin of 0, which PyTorch refuses since: the smallest number above it is 0 in float32."""
    raw = loss.raw

    def allow_zero(*embeddings: Tensor, override_margin: float | None = None) -> Tensor:
        margin = sys.float_info.min if override_margin == 0 else override_margin
        found: Tensor = raw(*embeddings, override_margin=margin)
        return found

    loss.raw = allow_zero
    return loss


class AuthorsModel(nn.Module):
    """φ as the authors' code expects a model: its attributes, and batch norm that stays frozen."""

    metric, dataset, device = "N", "cub", "cpu"

    def __init__(self, embedder: Embedder, code: AuthorsCode, attack: PGDOptions) -> None:
        super().__init__()
        self.embedder = embedder
        self.lossfunc = _with_zero_margin(code.triplet_loss())
        self.config = SimpleNamespace(
            advtrain_eps=attack.epsilon, advtrain_alpha=attack.alpha, advtrain_pgditer=attack.steps
        )

    def train(self, mode: bool = True) -> "AuthorsModel":
        """Change the mode of everything but batch norm."""
        if mode:
            set_training_mode(self.embedder, freeze_batch_norm=True)
        else:
            self.embedder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,H,W) → (N,D)."""
        embeddings: Tensor = self.embedder(images)
        return embeddings

    def log(self, name: str, value: float) -> None:
        """Take a figure of their log, which nobody reads here."""


class AnySize:
    """Images that keep their size: the authors' step views images as 224 × 224."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def to(self, _device: str) -> "AnySize":
        """Return itself, on the CPU."""
        return self

    def view(self, *_shape: int) -> Tensor:
        """Return the images as they are."""
        return self.images


def authors_hm_step(
    code: AuthorsCode, model: AuthorsModel, images: Tensor, labels: Tensor, *, previous_loss: float
) -> Tensor:
    """Return the loss of HM[S,g_LGA]&ICS in their code, for an SPC-2 batch, with its graph.

    The destination's sampler has no influence with a gradual adversary, but has to differ from the source's.
    """
    model._hm_prev_loss = previous_loss  # type: ignore[assignment]
    loss: Tensor = code.hm_training_step(
        model,
        (AnySize(images), labels),
        0,
        srch="spc2-softhard",
        desth="spc2-semihard",
        hm="ET",
        gradual=True,
        ics=True,
    )
    return loss


def authors_attack(
    code: AuthorsCode,
    model: AuthorsModel,
    name: str,
    images: Tensor,
    labels: Tensor,
    gallery: tuple[Tensor, Tensor],
    options: PGDOptions,
) -> dict[str, float]:
    """Attack `images` (N,3,H,W) as `name` of `ATTACKS` does in their code, and return its figures after the attack.

    `gallery` has the embeddings (M,D) and the labels (M,) of all images.
    """
    attack = code.attack(
        model, eps=options.epsilon, alpha=options.alpha, pgditer=options.steps, metric="N", **ATTACKS[name]
    )
    torch.manual_seed(0)
    after: dict[str, float] = attack(images, labels, gallery)[-1]
    return after
