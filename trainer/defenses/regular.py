"""Regular training: the triplet loss of benign images."""

from dataclasses import dataclass

from torch import Tensor

from hardrank.trainer.defenses.defense import Conditions, Defense, DefenseResult, benign_measures, embed_benign
from hardrank.trainer.metric.losses import triplet_loss
from hardrank.trainer.metric.samplers import Sampler, draw_triplets


@dataclass(frozen=True, kw_only=True)
class Regular(Defense):
    """N/A[sampler] of the tables: no defense."""

    sampler: Sampler = Sampler.SOFTHARD

    @property
    def name(self) -> str:
        """`regular[S]`."""
        return f"regular[{self.sampler}]"

    def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult | None:
        """L_T of the triplets; each image of the batch is embedded once."""
        benign = embed_benign(images, conditions)
        triplets = draw_triplets(self.sampler, benign, labels, generator=conditions.generator, margin=conditions.margin)
        if len(triplets) == 0:
            return None
        loss = triplet_loss(*triplets.gather(conditions.network(images)), margin=conditions.margin)
        return DefenseResult(loss, loss.detach(), benign_measures(benign, labels, triplets))
