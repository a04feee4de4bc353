"""A small network, a batch, and the conditions of an update, on which defenses are tested."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.attacks.pgd import PGDOptions
from hardrank.trainer.defenses import Conditions, DefenseResult, parse_defense
from hardrank.trainer.metric.samplers import Sampler, Triplets, draw_triplets

EPSILON, ALPHA, STEPS = 8 / 255, 1 / 255, 4
ATTACK = PGDOptions(epsilon=EPSILON, alpha=ALPHA, steps=STEPS)
SEED = 3


@dataclass(frozen=True)
class DefenseCase:
    """A network in float64 and an SPC-2 batch, in evaluation mode throughout, so that passes can be compared."""

    embedder: Embedder
    images: Tensor
    labels: Tensor
    seen: list[Tensor]
    """Inputs of the network in training mode."""

    def conditions(
        self, *, attack: PGDOptions = ATTACK, iteration: int = 0, progress: float = 0.0, independent: bool = False
    ) -> Conditions:
        def network(images: Tensor) -> Tensor:
            self.seen.append(images.detach())
            return self.embedder(images)  # type: ignore[no-any-return]

        return Conditions(
            network=network,
            independent=independent,
            frozen=FoldedEmbedder(self.embedder),
            attack=attack,
            previous_loss=0.05,
            generator=torch.Generator().manual_seed(SEED),
            iteration=iteration,
            progress=progress,
        )

    def run(self, name: str, conditions: Conditions | None = None) -> DefenseResult:
        outcome = parse_defense(name)(self.images, self.labels, conditions or self.conditions())
        assert outcome is not None
        return outcome

    def benign(self) -> Tensor:
        with torch.no_grad():
            return self.embedder(self.images)  # type: ignore[no-any-return]

    def triplets(self, sampler: Sampler) -> Triplets:
        generator = torch.Generator().manual_seed(SEED)
        return draw_triplets(sampler, self.benign(), self.labels, generator=generator)


def make_case() -> DefenseCase:
    torch.manual_seed(0)
    embedder = build_embedder(Architecture(dimension=16, image_size=32)).double().eval()
    labels = torch.tensor([0, 1, 2, 0, 1, 3]).repeat_interleave(2)
    base = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    images = F.interpolate(base[labels] * 0.9 + 0.2 * torch.rand(12, 3, 8, 8) - 0.05, size=32).clamp(0, 1)
    return DefenseCase(embedder, images, labels, [])
