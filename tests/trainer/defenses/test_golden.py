"""HM and ACT against the reference implementation, in float64."""

import pytest
import torch

from hardrank.trainer.attacks.pgd import PGDOptions, pgd
from hardrank.trainer.defenses.act import collapse_pair
from hardrank.trainer.defenses.destinations import DestinationInput, Gradual
from hardrank.trainer.defenses.hm import TowardsHardness
from hardrank.trainer.metric.losses import hardness, ics_loss, triplet_loss
from tests.trainer.golden.cases import GoldenManipulation

OPTIONS = PGDOptions(epsilon=8 / 255, alpha=1 / 255, steps=8)
CASES = ("softhard_lga_0.05", "softhard_lga_0.15", "random_lga_0.10", "distance_lga_0.00")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("leave_out_finished", [True, False])
def test_hm_reproduces_every_pixel(golden_hm: GoldenManipulation, case: str, leave_out_finished: bool) -> None:
    facts = golden_hm.facts["cases"][case]
    rows = golden_hm.triplets(case)
    benign = golden_hm.embed(golden_hm.images)
    before = hardness(*(benign[row] for row in rows))
    destination = Gradual()(
        DestinationInput(embeddings=benign, labels=torch.zeros(len(benign)), previous_loss=facts["previous_loss"])
    )
    moved = pgd(
        golden_hm.embed,
        torch.stack([golden_hm.images[row] for row in rows], dim=1),
        TowardsHardness(destination),
        OPTIONS,
        moving=before < destination if leave_out_finished else None,
    )
    adversarial = moved.transpose(0, 1).flatten(0, 1)
    embedded = golden_hm.embed(adversarial).chunk(3)
    torch.testing.assert_close(destination[0].item(), facts["destination_hardness"])
    torch.testing.assert_close(before, golden_hm.tensor(f"{case}.hardness_before"), rtol=0, atol=1e-9)
    kept, expected = golden_hm.adversarial(case, rows)
    torch.testing.assert_close(moved[kept], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(hardness(*embedded), golden_hm.tensor(f"{case}.hardness_after"), rtol=0, atol=1e-9)
    assert triplet_loss(*embedded).item() == pytest.approx(facts["triplet_loss_margin_0.2"], abs=1e-9)
    ics = ics_loss(anchor=benign[rows[0]], adversarial_anchor=embedded[0], positive=benign[rows[1]])
    assert ics.item() == pytest.approx(facts["ics_loss_margin_0_lambda_1"], abs=1e-9)


def test_act_reproduces_every_pixel(golden_hm: GoldenManipulation) -> None:
    rows = golden_hm.triplets(golden_hm.facts["act"]["triplets"])[1:]
    pair = torch.stack([golden_hm.images[row] for row in rows], dim=1)
    moved = pgd(golden_hm.embed, pair, collapse_pair, OPTIONS)
    kept, expected = golden_hm.adversarial("act", rows)
    torch.testing.assert_close(moved[kept], expected, rtol=0, atol=1e-9)
