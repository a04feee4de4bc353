"""Models that mask their gradients fail the sanity checks; honest ones pass them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Gallery
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import SCORECARD, make_attack
from hardrank.trainer.attacks.runner import AttackOptions, run_attack
from hardrank.trainer.evaluation.diagnostics import (
    check_chance,
    check_determinism,
    check_gradient,
    check_large_budget,
    check_search,
    random_recall,
)
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.evaluation.sanity import SanityRuns, require_evaluation_mode
from hardrank.trainer.evaluation.scorecard import CheckKind, Scorecard
from tests.trainer.conftest import Small
from tests.trainer.evaluation import measuring
from tests.trainer.evaluation.masking import (
    jpeg_like,
    leaking_jpeg,
    noisy,
    random_signs,
    rounded,
    sine_phase,
    tiny_gradients,
    very_noisy,
)
from tests.trainer.evaluation.measuring import kinds

PROTOCOL = RobustnessOptions(bootstrap=20, seed_check=0)
MASKED = {
    CheckKind.BARELY_BEATS_NOISE,
    CheckKind.HARDLY_FALLS,
    CheckKind.SEARCH_BEATS_ATTACK,
    CheckKind.SURVIVES_LARGE_BUDGET,
    CheckKind.GRADIENT_MISMATCH,
}
"""What a network with useless gradients fails."""


def measure(
    small: Small, embed: Embed, *, names: tuple[str, ...] = ("TMA", "ES"), options: RobustnessOptions = PROTOCOL
) -> Scorecard:
    with torch.no_grad():
        gallery = embed(small.images)
    queries = torch.arange(0, 192, 6)
    return measuring.measure(
        small, options=options, queries=queries, names=names, embed=embed, gallery=gallery, batch=128
    )


@pytest.mark.parametrize(
    ("cheat", "expected"),
    [
        (sine_phase, MASKED),
        (random_signs, MASKED),
        (tiny_gradients, {CheckKind.GRADIENT_MISMATCH}),
        (rounded, {CheckKind.ZERO_GRADIENT, CheckKind.SEARCH_BEATS_ATTACK, CheckKind.SURVIVES_LARGE_BUDGET}),
        (jpeg_like, {CheckKind.ZERO_GRADIENT, CheckKind.SEARCH_BEATS_ATTACK, CheckKind.SURVIVES_LARGE_BUDGET}),
        (leaking_jpeg, {CheckKind.GRADIENT_MISMATCH}),
        (noisy, {CheckKind.RANDOM_NETWORK}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_masked_model_fails(small: Small, cheat: Callable[[Tensor], Tensor], expected: set[CheckKind]) -> None:
    torch.manual_seed(0)
    card = measure(small, lambda x: small.embed(cheat(x)))
    print(cheat.__name__, *card.checks, card.sanity, sep="\n  ")
    assert kinds(card) >= expected
    assert not card.trustworthy


def test_quantized_activations_fail(small: Small) -> None:
    """Activations rounded to multiples of a quarter have no gradient; with a small leak it does not match the loss."""

    def quantized(leak: float) -> Embed:
        def embed(x: Tensor) -> Tensor:
            hidden = small.network[:2](x - 0.5)
            steps = (4 * hidden).round() / 4 + leak * hidden
            return F.normalize(small.network[2:](steps), dim=1)

        return embed

    hidden = measure(small, quantized(0.0))
    assert kinds(hidden) >= {CheckKind.ZERO_GRADIENT, CheckKind.SURVIVES_LARGE_BUDGET}
    assert kinds(measure(small, quantized(0.01))) & MASKED


@pytest.mark.parametrize("scale", [1 / 255, 1.0, 255.0])
def test_a_wrong_input_scale_fails(scale: float, small: Small) -> None:
    """A network with saturating units retrieves at chance, or collapses, with pixels 255 times too large or small."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((768, 64), (64, 16)))

    def embed(x: Tensor) -> Tensor:
        hidden = torch.tanh(0.1 * (scale * x - 0.5).flatten(1) @ first)
        return F.normalize(hidden @ second, dim=1)

    assert bool(kinds(measure(small, embed)) & {CheckKind.CHANCE, CheckKind.COLLAPSE}) is (scale != 1)


def test_random_embeddings_are_at_chance_and_learnt_ones_are_not(small: Small) -> None:
    points = F.normalize(torch.randn(200, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    [check] = check_chance(Gallery(points, small.gallery.labels))
    assert check.kind is CheckKind.CHANCE
    assert "chance is 0.121" in check.message  # 24 of 199
    assert not check_chance(small.gallery)
    assert not check_chance(Gallery(points, torch.arange(200)))  # no class has two images
    assert not check_chance(Gallery(points, torch.zeros(200).long()))


def test_a_random_network_is_attacked_with_the_mean_gradient_of_several_passes(small: Small) -> None:
    def embed(x: Tensor) -> Tensor:
        return small.embed(very_noisy(x))

    torch.manual_seed(0)
    shifts = {}
    for eot in (1, 16):
        options = AttackOptions(steps=4, eot=eot, epsilon=8 / 255, alpha=2 / 255)
        result = run_attack(
            make_attack("TMA"), embed, small.images[:48], small.victims(48), small.gallery, options, judge=small.embed
        )
        shifts[eot] = result.after.mean().item()
        assert result.image_passes.unique().tolist() == [4 * eot]
    assert shifts[16] > shifts[1] + 0.01


def test_the_strong_search_averages_gradients_of_a_random_network(small: Small) -> None:
    options = RobustnessOptions(steps=1, bootstrap=20, seed_check=0, sanity_images=0, strong_images=2)
    searches = {}
    for name, embed in (("honest", small.embed), ("random", lambda x: small.embed(noisy(x)))):
        with torch.no_grad():
            gallery = embed(small.images)
        card = measuring.measure(
            small, options=options, queries=torch.arange(2), names=("TMA",), embed=embed, gallery=gallery
        )
        assert card.strong is not None
        searches[name] = [setting.name for setting in card.strong.settings[2:]]
    assert all("mean gradient of 8 passes" in name for name in searches["random"])
    assert not any("mean gradient" in name for name in searches["honest"])


@pytest.mark.parametrize("training", ["small", "small_robust"])
def test_an_honest_model_passes(training: str, request: pytest.FixtureRequest) -> None:
    small: Small = request.getfixturevalue(training)
    card = measure(small, small.embed, names=SCORECARD)
    print(training, card.ers, *card.checks, card.sanity, sep="\n  ")
    assert card.trustworthy, card.checks


@pytest.mark.parametrize("epsilon", [1 / 255, 32 / 255])
def test_an_honest_model_passes_with_other_budgets(small_robust: Small, epsilon: float) -> None:
    options = RobustnessOptions(bootstrap=20, seed_check=0, epsilon=epsilon, alpha=epsilon / 4)
    card = measure(small_robust, small_robust.embed, options=options)
    assert card.trustworthy, card.checks


def test_sanity_runs_with_an_l2_budget_search_only_with_gradients(small: Small) -> None:
    options = RobustnessOptions(bootstrap=20, seed_check=0, norm=Norm.L2, epsilon=0.5, alpha=0.1, steps=16)
    card = measure(small, small.embed, options=options)
    assert "search shift" not in card.sanity
    assert card.trustworthy, card.checks


def test_the_cost_of_the_checks_is_bounded_and_counted(small: Small) -> None:
    without = measure(small, small.embed, options=RobustnessOptions(bootstrap=20, seed_check=0, sanity_images=0))
    card = measure(small, small.embed)
    assert without.sanity == {}
    assert card.sanity["images"] == 32
    assert card.sanity["passes"] == card.passes - without.passes
    assert card.sanity["passes"] <= 32 * (20 + 64 + 3)
    assert card.to_dict()["sanity"] == card.sanity


def batch_norm_model(dimension: int = 16) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, 2, 1),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(16 * 64, dimension),
        )
    return network.double()


class Normalized(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.network(x), dim=1)


def test_a_module_in_training_mode_is_refused(small: Small) -> None:
    model = Normalized(batch_norm_model())
    with pytest.raises(AttackError, match="training mode"):
        measure(small, model)
    for layer in (torch.nn.Dropout(0.1), torch.nn.BatchNorm1d(4)):
        with pytest.raises(AttackError, match=type(layer).__name__):
            require_evaluation_mode(layer)
        require_evaluation_mode(layer.eval())
    require_evaluation_mode(torch.nn.Linear(2, 2))


def test_batch_norm_in_training_mode_is_found_behind_a_function(small: Small) -> None:
    model = Normalized(batch_norm_model())

    def embed(x: Tensor) -> Tensor:
        return torch.as_tensor(model(x))

    assert CheckKind.BATCH_DEPENDENT in kinds(measure(small, embed))


def runs(**changes: Any) -> SanityRuns:
    honest = {
        "attack_shift": np.full(8, 1.0),
        "search_shift": np.full(8, 0.4),
        "large_shift": np.full(8, 1.9),
        "large_recall": np.zeros(8),
        "predicted": np.full(8, 0.1),
        "actual": np.full(8, 0.09),
        "passes": 0,
    }
    return SanityRuns(**{**honest, **changes})


def test_random_recall_is_that_of_a_loop() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    mean = np.mean([sum(labels[j] == labels[i] for j in range(6) if j != i) / 5 for i in range(5)])
    assert random_recall(labels) == pytest.approx(float(mean), rel=1e-6)
    assert random_recall(torch.tensor([0, 1])) == 0


def test_thresholds_of_the_sanity_runs() -> None:
    assert not check_search(runs())
    assert not check_search(runs(search_shift=None))
    assert not check_search(runs(search_shift=np.full(8, 1.009)))
    assert check_search(runs(search_shift=np.full(8, 1.011)))
    assert not check_large_budget(runs(), pair_distance=1.4, chance=0.02)
    assert check_large_budget(runs(large_shift=np.full(8, 0.69)), pair_distance=1.4, chance=0.02)
    assert not check_large_budget(runs(large_shift=np.full(8, 0.71)), pair_distance=1.4, chance=0.02)
    assert check_large_budget(runs(large_recall=np.array([100.0] + 7 * [0.0])), pair_distance=1.4, chance=0.02)
    half = np.array(4 * [100.0] + 4 * [0.0])
    assert not check_large_budget(runs(large_recall=half), pair_distance=1.4, chance=0.25)  # 0.25 + 2 · 0.153
    assert check_large_budget(runs(large_recall=half), pair_distance=1.4, chance=0.15)
    assert not check_gradient(runs())
    assert not check_gradient(runs(actual=np.full(8, 0.011)))
    assert check_gradient(runs(actual=np.full(8, 0.009)))
    assert check_gradient(runs(actual=np.full(8, 1.1)))
    assert check_gradient(runs(actual=np.full(8, -0.1)))


def test_embeddings_that_depend_on_the_batch_are_told_from_rounding() -> None:
    first = np.eye(4)
    assert not check_determinism(first, first, first[:2] + 0.01)
    [check] = check_determinism(first, first, first[:2] + 0.1)
    assert check.kind is CheckKind.BATCH_DEPENDENT
    [check] = check_determinism(first, first + 1e-6, first[:2])
    assert check.kind is CheckKind.RANDOM_NETWORK
