"""Black-box attacks: estimated and true gradients, budgets, query counts, effect on a real ONNX file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.audit_app.blackbox import SEARCHES, make_search
from hardrank.audit_app.blackbox.estimate import EstimatedDescent
from hardrank.audit_app.blackbox.method import Search, SearchTask
from hardrank.audit_app.blackbox.oracle import Oracle
from hardrank.audit_app.blackbox.transfer import transfer_from
from hardrank.audit_app.errors import SubjectError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_galleries
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.subjects.loading import load_subjects
from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import victims_in
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackOptions, AttackProgress, run_attack
from hardrank.trainer.attacks.squares import square_side
from hardrank.trainer.attacks.starts import random_noise
from hardrank.trainer.metric.distances import RetrievalError
from tests.audit_app.galleries import OPTIONS, search_images, victims_and_images
from tests.audit_app.onnx_graphs import write_quantized

BUDGET = AttackOptions()
ESTIMATORS = pytest.mark.parametrize("name", ["nes", "spsa"])
ALL = pytest.mark.parametrize("name", list(SEARCHES))


@pytest.fixture(scope="module")
def black(stranger: ServedGallery) -> EmbeddedGallery:
    """A model that is only queried."""
    return stranger.embedded


class Counted:
    """A model that counts queries, and those outside [0,1]."""

    def __init__(self, model: Embed) -> None:
        self.model = model
        self.images = 0
        self.outside = False

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        self.outside |= bool((images < 0).any() or (images > 1).any())
        return self.model(images)


def fixed_oracle(loss: Callable[[Tensor], Tensor], images: int) -> Oracle:
    """An oracle whose loss is a function of the pixels; its embeddings only carry them."""
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return F.normalize(torch.ones(len(x), 2), dim=1)

    return Oracle(model, lambda e, rows, step: loss(seen[-1]), images=images, chunk=256, device=torch.device("cpu"))


def generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng([7, i]) for i in range(count)]


@ESTIMATORS
def test_estimates_of_a_linear_and_a_quadratic_function(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    slope = torch.randn(2, 3, 4, 4, generator=rng)
    curve = torch.rand(3, 4, 4, generator=rng)
    x = 0.4 + 0.2 * torch.rand(2, 3, 4, 4, generator=rng)
    search = make_search(name, pairs=10_000, queries=50_000, sigma=0.05, grain=1)
    assert isinstance(search, EstimatedDescent)
    for i in range(2):

        def linear(y: Tensor, i: int = i) -> Tensor:
            return (y * slope[i]).flatten(1).sum(1)

        def quadratic(y: Tensor) -> Tensor:
            return (curve * y.square()).flatten(1).sum(1)

        for loss, expected in ((linear, slope[i]), (quadratic, 2 * curve * x[i])):
            oracle = fixed_oracle(loss, images=1)
            found = search.estimate(oracle, x[i : i + 1], torch.tensor([0]), generators(1))[0]
            # Each coordinate is a mean over 10 000 pairs; its standard error is at most |gradient| · √2 / 100.
            assert (found - expected).abs().max() < 5 * expected.norm() * 2**0.5 / 100
            assert F.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.99
            assert int(oracle.queries) == 20_000


@ESTIMATORS
def test_squares_average_the_gradient_over_their_pixels(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    slope = torch.randn(3, 6, 6, generator=rng)
    search = make_search(name, pairs=10_000, queries=50_000, sigma=0.05, grain=4)
    assert isinstance(search, EstimatedDescent)
    oracle = fixed_oracle(lambda y: (y * slope).flatten(1).sum(1), images=1)
    found = search.estimate(oracle, torch.full((1, 3, 6, 6), 0.5), torch.tensor([0]), generators(1))[0]
    for rows in (slice(0, 4), slice(4, 6)):
        for columns in (slice(0, 4), slice(4, 6)):
            part = found[:, rows, columns]
            assert torch.equal(part, part[:, :1, :1].expand_as(part))
            expected = slope[:, rows, columns].sum((1, 2))
            torch.testing.assert_close(part[:, 0, 0], expected, atol=5 * slope.norm().item() * 4 / 100, rtol=0)


@ESTIMATORS
def test_directions_have_mean_0_and_variance_1_and_differ_by_image(name: str) -> None:
    search = make_search(name)
    assert isinstance(search, EstimatedDescent)
    drawn = search.draw(np.random.default_rng(0), (1000, 3, 4, 4))
    assert drawn.dtype == np.float32
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02


@ALL
def test_queries_are_counted_exactly_and_stay_within_the_budget(name: str, black: EmbeddedGallery) -> None:
    victims, images = victims_and_images(black, range(5))
    model = Counted(black.subject.judge)
    for budget in (120, 61):
        model.images = 0
        search = make_search(name, queries=budget)
        result = search(make_attack("TMA"), model, images, victims, black.tensors, BUDGET)
        lists = 5 if name == "ranks" else 0  # of the targets, each a query that the gallery answers
        assert model.images == result.passes - lists + 5  # the auditor's look at the result comes after the attack
        assert result.passes == int(result.queries.sum())
        assert int(result.queries.max()) <= budget
        assert result.queries.tolist() == [expected_queries(name, budget)] * 5
        assert not model.outside


def expected_queries(name: str, budget: int) -> int:
    """Whole steps of 15 pairs and the new image after the first query; other searches take one query at a time."""
    return 1 + 31 * ((budget - 1) // 31) if name in {"nes", "spsa"} else budget


@ALL
def test_the_budget_of_pixels_holds_and_the_loss_falls(name: str, black: EmbeddedGallery) -> None:
    rows = range(0, 40, 8)
    _, images = victims_and_images(black, rows)
    norms = [Norm.LINF, Norm.L2] if name in {"nes", "spsa"} else [Norm.LINF]
    for norm in norms:
        options = AttackOptions(epsilon=8 / 255 if norm is Norm.LINF else 0.5, norm=norm)
        seen: list[AttackProgress] = []
        search = make_search(name, queries=200, **({} if norm is Norm.LINF else {"alpha": 0.2}))
        result = search_images(search, "TMA", black, rows, options, on_step=seen.append)
        change = (result.images - images).flatten(1)
        size = change.abs().amax(1) if norm is Norm.LINF else change.norm(dim=1)
        assert size.max() <= options.epsilon * (1 + 1e-5)
        assert result.images.min() >= 0
        assert result.images.max() <= 1
        losses = torch.stack([progress.losses for progress in seen])
        assert bool((losses[1:] <= losses[:-1]).all())
        assert bool((losses[-1] < losses[0]).all())
        assert seen[-1].queries is not None
        assert torch.equal(seen[-1].queries, result.queries)
        assert torch.equal(result.first_loss, losses[0])
        assert bool((result.end_loss <= result.late_loss).all())
        torch.testing.assert_close(result.after, seen[-1].figures(), atol=1e-3, rtol=0)


@ALL
@pytest.mark.parametrize("attack", ["QA+", "ES"])
def test_ranks_of_an_onnx_file_change_more_than_with_noise(name: str, attack: str, black: EmbeddedGallery) -> None:
    """Paired by image: each attacked image against as much random noise within the same budget and queries."""
    victims, images = victims_and_images(black, range(0, 64, 8))
    method = make_attack(attack)
    result = make_search(name, queries=250)(method, black.subject.judge, images, victims, black.tensors, BUDGET)
    figure = method.figures[0]
    scores = figure.score(result.after[:, 0])
    luckiest = torch.full_like(scores, torch.inf)  # the best of ten random images, for each
    for seed in range(10):
        noisy = black.subject.judge(random_noise(images, BUDGET, victims.ids, seed=seed))
        found = figure.score(method.measure(noisy, victims, black.tensors, result.targets)[:, 0])
        luckiest = torch.minimum(luckiest, found)
    gap = (luckiest - scores).numpy()
    assert gap.mean() > 2 * gap.std(ddof=1) / len(gap) ** 0.5, (luckiest, scores)
    assert gap.mean() > 1


@ALL
def test_results_depend_only_on_seed_and_image(name: str, black: EmbeddedGallery) -> None:
    search = make_search(name, queries=70)

    def attacked(rows: range, seed: int = 3) -> Tensor:
        return search_images(search, "TMA", black, rows, BUDGET, seed=seed).images

    whole = attacked(range(6))
    assert torch.equal(whole, attacked(range(6)))
    torch.testing.assert_close(torch.cat([attacked(range(2)), attacked(range(2, 6))]), whole, atol=1e-6, rtol=0)
    assert not torch.equal(whole, attacked(range(6), seed=4))


@ALL
def test_a_cancelled_search_keeps_the_best_images(name: str, black: EmbeddedGallery) -> None:
    search, seen = make_search(name), list[AttackProgress]()
    result = search_images(search, "ES", black, range(3), BUDGET, on_step=seen.append, cancel=lambda: len(seen) == 3)
    assert result.cancelled
    assert len(seen) == 3
    assert int(result.queries.max()) < 100
    assert torch.equal(result.images, seen[-1].images)
    none = search_images(search, "ES", black, range(3), BUDGET, cancel=lambda: True)
    assert none.cancelled
    assert none.passes == 0
    assert torch.equal(none.images, victims_and_images(black, range(3))[1])


@ESTIMATORS
def test_a_finished_image_is_not_queried(name: str) -> None:
    def loss(x: Tensor) -> Tensor:  # the second image's loss is flat
        left = x[:, 0, 0, 0] < 0.5
        return torch.where(left, x.flatten(1).mean(1), torch.zeros(len(x)))

    images = torch.cat([torch.full((1, 3, 4, 4), 0.3), torch.full((1, 3, 4, 4), 0.7)])
    oracle = fixed_oracle(loss, images=2)
    search = make_search(name, queries=100, pairs=5)
    task = SearchTask(oracle=oracle, images=images, ids=torch.arange(2), budget=BUDGET, seed=0)
    found = list(search.steps(task))
    assert oracle.queries.tolist() == [100, 11]
    assert found[-1].moving == 1
    assert found[-1].losses[0] < 0.3 - 4 / 255


def test_squares_shrink_over_the_budget() -> None:
    sides = [square_side(0.3, spent, 64) for spent in (0.0, 0.01, 0.1, 0.5, 0.9)]
    assert sides[0] == 35
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] >= 1
    assert square_side(1.0, 0, 8) == 8
    assert square_side(0.001, 1, 8) == 1


def test_invalid_searches_are_refused(black: EmbeddedGallery) -> None:
    victims, images = victims_and_images(black, range(2))
    wrong: list[tuple[str, dict[str, float], str]] = [
        ("guess", {}, "search 'guess'; choose one of nes, spsa, square, ranks"),
        ("nes", {"speed": 3}, "has no option speed"),
        ("spsa", {"queries": 20}, "too few for a step"),
        ("nes", {"sigma": 2.0}, "sigma = 2"),
    ]
    for name, options, message in wrong:
        with pytest.raises(AttackError, match=message):
            make_search(name, **options)
    with pytest.raises(AttackError, match="needs an L∞ budget"):
        search_images(make_search("square"), "ES", black, range(2), AttackOptions(norm=Norm.L2))
    with pytest.raises(AttackError, match=r"\[0,1\]"):
        make_search("square")(make_attack("ES"), black.subject.judge, 2 * images, victims, black.tensors, BUDGET)
    with pytest.raises(RetrievalError, match="model's embeddings"):
        make_search("square")(
            make_attack("ES"), lambda x: 3 * black.subject.judge(x), images, victims, black.tensors, BUDGET
        )


def test_options_are_declared() -> None:
    for kind in SEARCHES.values():
        assert kind.options[0].name == "queries"
        assert all(option.help and option.minimum is not None for option in kind.options)
        built = make_search(next(name for name, one in SEARCHES.items() if one is kind))
        assert isinstance(built, Search)
        assert built.describe()["name"] in SEARCHES


def test_transfer_from_the_same_network_is_the_white_box_attack(
    embedded: EmbeddedGallery, black: EmbeddedGallery
) -> None:
    victims, images = victims_and_images(black, range(4))
    attack = make_attack("QA+")
    model = Counted(black.subject.judge)
    transfer = transfer_from(embedded.subject, black)
    moved = transfer(attack, model, images, victims, black.tensors, BUDGET)
    direct = run_attack(
        attack, embedded.subject.gradients, images, victims_in(embedded.tensors, victims.own), embedded.tensors, BUDGET
    )
    assert torch.equal(moved.targets, direct.targets)
    torch.testing.assert_close(moved.after, direct.after, atol=2.0, rtol=0)
    assert moved.after.mean() < moved.before.mean() - 10
    assert model.images == 4  # the judgment of the result is all that the target ever sees
    assert moved.queries.tolist() == [0] * 4
    assert transfer.describe()["surrogate"] == "tiny-benign"


def test_transfer_between_sizes_keeps_the_size_of_the_audited_model(
    tiny_zoo: list[Path], gratings: Path, tmp_path: Path
) -> None:
    surrogate, target = load_subjects([str(tiny_zoo[0]), str(write_quantized(tmp_path / "m.onnx"))], OPTIONS)
    embedded = embed_galleries([target], from_images(gratings))[0]
    transfer = transfer_from(surrogate, embedded)
    victims, images = victims_and_images(embedded, range(4))
    result = transfer(make_attack("ES"), target.judge, images, victims, embedded.tensors, BUDGET)
    assert result.images.shape == (4, 3, 16, 16)
    change = (result.images - images).abs()
    assert change.max() <= BUDGET.epsilon * (1 + 1e-5)
    assert change.mean() > BUDGET.epsilon / 10
    assert transfer.gallery.shape == (64, 16)
    with pytest.raises(SubjectError, match="no gradients"):
        transfer_from(target, embedded)
