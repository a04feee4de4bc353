"""Every golden case of the ranking attacks, in float64: images to 1e-6 where comparable, results to 0.005."""

from typing import Any

import pytest
import torch

from hardrank.trainer.attacks.gtm import GreedyTopMisranking, Unmatched
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackOptions, run_attack
from tests.trainer.attacks.conftest import Ranking

# case → attack, options, and where the golden file keeps the results that ours are compared with.
CASES: dict[str, tuple[str, dict[str, Any], tuple[tuple[str, float], ...]]] = {
    "CA+": ("CA+", {}, (("CA+:prank", 100),)),
    "CA-": ("CA-", {}, (("CA-:prank", 100),)),
    "CA+_W3": ("CA+", {"w": 3}, (("CA+:prank", 100),)),
    "QA+": ("QA+", {}, (("QA+:prank", 100),)),
    "QA-": ("QA-", {}, (("QA-:prank", 100),)),
    "QA-_M3": ("QA-", {"m": 3}, (("QA-:prank", 100),)),
    "TMA": ("TMA", {}, (("Cosine-SIM", 1),)),
    # The golden loss is the sum of −d over 48 queries at the last iterate.
    "ES": ("ES", {}, (("loss", -1 / 48), ("r@1", 1))),
    "LTM": ("LTM", {}, (("r@1", 100),)),
    "GTM": ("GTM", {}, (("r@1", 100),)),
    "GTT": ("GTT", {}, (("retain@4", 100),)),
}


@pytest.mark.parametrize("steps", [4, 32])
@pytest.mark.parametrize("case", CASES)
def test_reproduces(case: str, steps: int, golden: Ranking) -> None:
    name, options, results = CASES[case]
    attack = make_attack(name, **options)
    result = run_attack(
        attack,
        golden.embed,
        golden.attacked,
        golden.victims,
        golden.gallery,
        AttackOptions(epsilon=0.03137, alpha=0.011764, steps=steps),
        targets=golden.targets(case),
    )
    suffix, stage = ("", "after") if steps == 32 else ("_4", "after_4")
    expected = torch.from_numpy(golden.arrays[f"{case}.adversarial{suffix}"]).double()
    comparable = torch.from_numpy(golden.arrays[f"{case}.comparable"])
    assert (result.images - expected).abs()[comparable].max() < 1e-6
    for i, (key, unit) in enumerate(results):
        figure = attack.figures[i]
        share = 100.0 if figure.unit == "%" else 1.0
        for moment, values in ((stage, result.after), ("before", result.before)):
            assert values[:, i].mean().item() == pytest.approx(
                golden.results[case][moment][key] * unit, abs=0.005 * share
            )


def test_top_1_item_and_unmatched_item_are_those_of_the_reference(golden: Ranking) -> None:
    top_1 = make_attack("GTT").draw(golden.victims, golden.gallery, seed=0)[:, 0]
    assert top_1.tolist() == golden.arrays["GTT.targets"].tolist()
    u = GreedyTopMisranking(unmatched=Unmatched.REFERENCE).draw(golden.victims, golden.gallery, seed=0)
    assert u[:, 0].tolist() == golden.arrays["GTM.targets"].tolist()
