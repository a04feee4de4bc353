"""The scorecard: ERS as published, intervals, resumption, worst cases, and checks whether it can be trusted."""

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.es import EmbeddingShift
from hardrank.trainer.attacks.gtm import Unmatched
from hardrank.trainer.attacks.options import AttackError, option
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackResult, run_attack
from hardrank.trainer.evaluation.blocks import CancelledError, EvaluationProgress
from hardrank.trainer.evaluation.diagnostics import compare_seeds
from hardrank.trainer.evaluation.journal import Journal, JournalError
from hardrank.trainer.evaluation.robustness import RobustnessOptions, bytes_provider
from hardrank.trainer.evaluation.scorecard import (
    ERS_KEYS,
    CheckKind,
    PerImage,
    Scorecard,
    bootstrap_interval,
    ers,
)
from tests.trainer.conftest import Small
from tests.trainer.evaluation import measuring
from tests.trainer.evaluation.measuring import EVERY_FIFTH, EVERY_TENTH, kinds
from tests.trainer.golden.cases import PAPER_TABLES
from tests.trainer.tables import read_csv

QUICK = RobustnessOptions(steps=6, bootstrap=200, seed_check=0, sanity_images=0, epsilon=24 / 255)


measure = partial(measuring.measure, options=QUICK, queries=EVERY_FIFTH, names=("CA+", "QA-", "TMA", "ES"))


def test_ers_of_every_published_row() -> None:
    rows = read_csv(PAPER_TABLES)
    assert len(rows) == 82
    for row in rows:
        found = ers({key: float(row[key]) for key in ERS_KEYS})
        assert found == pytest.approx(float(row["ERS"]), abs=0.1)


def test_ers_of_the_two_extremes() -> None:
    helpless = {
        "CA+": 0,
        "CA-": 100,
        "QA+": 0,
        "QA-": 100,
        "TMA": 1,
        "ES:D": 2,
        "ES:R": 0,
        "LTM": 0,
        "GTM": 0,
        "GTT": 0,
    }
    untouched = {"CA+": 50, "CA-": 0, "QA+": 50, "QA-": 0, "TMA": 0, "ES:D": 0}
    assert ers(helpless) == pytest.approx(0)
    assert ers(untouched | dict.fromkeys(("ES:R", "LTM", "GTM", "GTT"), 100)) == pytest.approx(100)


def test_full_scorecard(small: Small, tmp_path: Path) -> None:
    card = measure(small, queries=torch.arange(30), names=None)
    assert tuple(card.figures) == (*ERS_KEYS, "MARGIN")
    assert card.ers == pytest.approx(ers({key: result.value for key, result in card.figures.items()}))
    assert card.ers_low < card.ers < card.ers_high
    for key, result in card.figures.items():
        column = card.per_image.columns[key]
        assert result.value == pytest.approx(column.mean())
        assert result.low <= result.value <= result.high
    assert card.figures["TMA"].success > 20
    assert card.worst_recall <= min(card.recall_at_1, *(card.figures[k].value for k in ("ES:R", "LTM", "GTM")))
    survived = [card.per_image.columns[key] == 100 for key in ("R@1", "ES:R", "LTM", "GTM", "MARGIN")]
    assert card.worst_case_recall == card.worst_recall == pytest.approx(100 * np.all(survived, axis=0).mean())
    assert card.figures["MARGIN"].value < min(card.figures[key].value for key in ("ES:R", "LTM", "GTM"))
    assert card.worst_score <= card.ers
    assert card.n == 30
    assert card.gallery == 200
    assert card.seeds == (0,)
    content = json.loads(json.dumps(card.to_dict()))
    assert content["options"]["steps"] == 6
    assert content["attacks"]["QA+"]["m"] == 1
    card.per_image.write_csv(tmp_path / "table.csv")
    rows = read_csv(tmp_path / "table.csv")
    assert len(rows) == 30
    assert float(rows[3]["ES:D"]) == card.per_image.columns["ES:D"][3]


def test_part_of_the_attacks_gives_no_ers(small: Small) -> None:
    card = measure(small)
    assert np.isnan(card.ers)
    assert set(card.figures) == {"CA+", "QA-", "TMA", "ES:D", "ES:R"}


def test_the_batch_does_not_matter(small: Small) -> None:
    whole, parts = measure(small, batch=40), measure(small, batch=7)
    for key, result in whole.figures.items():
        assert parts.figures[key].value == pytest.approx(result.value, abs=1e-6)
        assert parts.figures[key].noise == pytest.approx(result.noise, abs=1e-9)


def test_threads_do_not_matter(small: Small) -> None:
    before, cards = torch.get_num_threads(), []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            cards.append(measure(small, queries=EVERY_TENTH))
    finally:
        torch.set_num_threads(before)
    for key, result in cards[0].figures.items():
        assert cards[1].figures[key].value == pytest.approx(result.value, abs=1e-6)


def test_a_killed_evaluation_goes_on_and_ends_alike(small: Small, tmp_path: Path) -> None:
    expected = measure(small)
    calls = 0

    def fragile(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise KeyboardInterrupt
        return small.embed(x)

    with pytest.raises(KeyboardInterrupt):
        measure(small, embed=fragile, resume=Journal(tmp_path))
    finished = len(list(tmp_path.glob("*.npz")))
    assert 0 < finished < 12
    seen: list[str] = []
    card = measure(small, resume=Journal(tmp_path), progress=lambda p: seen.append(f"{p.attack}/{p.queries_done}"))
    assert len(set(seen)) == 12 - finished
    assert card.to_dict() == expected.to_dict()
    assert card.passes > 0
    for name, column in expected.per_image.columns.items():
        np.testing.assert_array_equal(card.per_image.columns[name], column)
    calls = -10_000
    assert measure(small, embed=fragile, resume=Journal(tmp_path)).passes == expected.passes
    assert calls < -9_990  # nothing was attacked again


def test_passes_of_a_finished_measurement_include_the_check_with_another_seed(small: Small, tmp_path: Path) -> None:
    options = replace(QUICK, seed_check=8)
    whole = measure(small, options=options)
    assert whole.passes > measure(small).passes
    for _ in range(2):
        assert measure(small, options=options, resume=Journal(tmp_path)).passes == whole.passes


class Shout(StrEnum):
    LOUD = "loud"


@dataclass(frozen=True, kw_only=True)
class Renamed(EmbeddingShift):
    """ES with options of every kind, and a representation that differs in every process."""

    volume: Shout = option(Shout.LOUD, help="an enum")  # noqa: RUF009
    weight: float = option(0.5, help="a number")

    def __repr__(self) -> str:
        return f"<Renamed at {id(self):#x}>"


def test_identity_of_the_journal_is_made_of_declared_names_and_values(small: Small, tmp_path: Path) -> None:
    def run(attack: Attack) -> Scorecard:
        attacks = {"ES": attack, "QA+": make_attack("QA+", m=2)}
        return measure(small, queries=torch.arange(4), names=None, attacks=attacks, resume=Journal(tmp_path))

    first = run(Renamed())
    settings = json.loads((tmp_path / "settings.json").read_text(encoding="utf-8"))
    assert settings["attacks"] == {
        "ES": {"name": "ES", "volume": "loud", "weight": 0.5},
        "QA+": {"name": "QA+", "direction": "+", "m": 2, "share": 0.01},
    }
    assert settings["options"]["norm"] == "linf"
    assert run(Renamed()).to_dict() == first.to_dict()
    with pytest.raises(JournalError, match="attacks differ"):
        run(Renamed(weight=0.25))
    settings["attacks"] = {name: f"{name}Attack(direction=<Direction.RAISE: '+'>)" for name in settings["attacks"]}
    (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(JournalError, match="attacks differ"):
        run(Renamed())


def test_an_attack_whose_options_cannot_be_recorded_is_refused(small: Small) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Opaque(EmbeddingShift):
        callback: Any = print

    with pytest.raises(AttackError, match="callback"):
        measure(small, queries=torch.arange(2), names=None, attacks={"ES": Opaque()})


def test_the_unmatched_item_of_gtm_is_chosen_by_option_and_recorded_with_the_attack(small: Small) -> None:
    cards = {}
    for unmatched in Unmatched:
        options = replace(QUICK, unmatched=unmatched, steps=2)
        cards[unmatched] = measure(small, options=options, queries=torch.arange(12), names=None)
        assert cards[unmatched].attacks["GTM"] == {"unmatched": str(unmatched)}
        assert "unmatched" not in cards[unmatched].options
        expected = make_attack("GTM", unmatched=unmatched).draw(small.victims(12), small.gallery, seed=0)
        np.testing.assert_array_equal(cards[unmatched].per_image.columns["GTM targets"], expected)
    nearest, reference = (cards[one].per_image.columns["GTM targets"] for one in Unmatched)
    assert not np.array_equal(nearest, reference)
    assert RobustnessOptions().unmatched is Unmatched.REFERENCE


def test_cancel(small: Small) -> None:
    seen: list[EvaluationProgress] = []
    with pytest.raises(CancelledError):
        measure(small, progress=seen.append, cancel=lambda: len(seen) == 9)
    assert seen[-1].attack == "QA-"
    assert seen[-1].attacks_done == 1
    assert seen[-1].attacks == 4
    inside = seen[-1].inside
    assert inside is not None
    assert inside.step == 3


def test_progress_never_goes_back_where_a_block_is_attacked_in_parts(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardrank.trainer.evaluation.blocks.MOST_DISTANCES", 6 * len(small.gallery))
    done: list[float] = []
    options = replace(QUICK, seed_check=0, sanity_images=0, strong_images=0)
    measure(
        small,
        options=options,
        names=("ES",),
        queries=EVERY_TENTH,
        progress=lambda p: done.append(p.done(16, QUICK.steps)),
    )
    assert done == sorted(done)
    assert len(set(done)) > 2 * QUICK.steps
    assert done[-1] == len(EVERY_TENTH)


def test_interval_covers_the_mean_of_a_known_distribution() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        sample = rng.normal(size=(60, 1))
        low, high = bootstrap_interval(sample, seed=seed, resamples=300)
        hits += int(low[0] < 0 < high[0])
    assert 88 <= hits <= 99


def test_an_honest_evaluation_passes_every_check(small: Small) -> None:
    card = measure(small, options=RobustnessOptions(steps=32, bootstrap=50, seed_check=20))
    assert card.trustworthy, card.checks
    assert card.seeds == (0, 1)


def test_a_hidden_gradient_is_found(small: Small) -> None:
    def hides(x: Tensor) -> Tensor:
        return small.embed((x * 255).round() / 255 + 0 * x)

    gallery = hides(small.images)
    card = measure(small, embed=hides, gallery=gallery, queries=torch.arange(200), names=("TMA", "ES"), batch=128)
    assert CheckKind.ZERO_GRADIENT in kinds(card)
    assert CheckKind.NOISE_BEATS_ATTACK in kinds(card)
    assert not card.trustworthy


def test_a_random_network_is_found(small: Small) -> None:
    generator = torch.Generator().manual_seed(0)

    def shaky(x: Tensor) -> Tensor:
        return small.embed(x + 0.01 * torch.rand(x.shape, generator=generator, dtype=x.dtype))

    assert CheckKind.RANDOM_NETWORK in kinds(measure(small, embed=shaky))


def test_too_few_steps_are_found(small: Small) -> None:
    card = measure(small, options=RobustnessOptions(steps=6, alpha=0.5 / 255, bootstrap=50, seed_check=0))
    assert {check.where for check in card.checks if check.kind is CheckKind.STILL_FALLING} >= {"TMA", "ES"}


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_an_attack_that_wins_early_has_no_falling_loss(small: Small, batch: int) -> None:
    names, options = ("LTM", "MARGIN"), RobustnessOptions(epsilon=48 / 255, bootstrap=20, seed_check=0)
    card = measure(small, names=names, options=options, queries=EVERY_TENTH, batch=batch)
    for name in names:
        assert card.figures[name].value == 0
        np.testing.assert_array_equal(card.per_image.columns[f"{name} end loss"], 0)
    assert CheckKind.STILL_FALLING not in kinds(card)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_loss_that_still_falls_is_found_in_any_batch(small: Small, batch: int) -> None:
    options = RobustnessOptions(steps=6, alpha=0.5 / 255, bootstrap=50, seed_check=0)
    card = measure(small, names=("TMA", "LTM"), options=options, queries=EVERY_TENTH, batch=batch)
    assert {check.where for check in card.checks if check.kind is CheckKind.STILL_FALLING} == {"TMA", "LTM"}


def test_a_collapsed_model_is_found(small: Small) -> None:
    pole = torch.nn.functional.one_hot(torch.tensor(0), 16).double()

    def collapsed(x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(3 * pole + small.embed(x), dim=1)

    card = measure(small, embed=collapsed, gallery=collapsed(small.images), queries=torch.arange(20), names=("ES",))
    assert CheckKind.COLLAPSE in kinds(card)
    assert card.mean_cosine > 0.5


def test_seeds_that_disagree_are_found() -> None:
    figures = {figure.key: figure for figure in make_attack("ES").figures}
    rng = np.random.default_rng(0)

    def table(shift: float) -> PerImage:
        columns = {"ES:D": rng.normal(0.5 + shift, 0.02, 200), "ES:R": rng.choice([0.0, 100.0], 200)}
        return PerImage(rows=np.arange(200), labels=np.zeros(200), columns=columns)

    assert compare_seeds([table(0), table(0)], figures) == []
    [check] = compare_seeds([table(0), table(0.1)], figures)
    assert check.kind is CheckKind.SEED_VARIANCE
    assert check.where == "ES:D"


def test_bytes_become_pixels() -> None:
    stored = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 2, 2)
    given = bytes_provider(stored)(torch.tensor([1]))
    assert given.dtype == torch.float32
    torch.testing.assert_close(given[0], stored[1] / 255)


def test_invalid_measurements_are_refused(small: Small) -> None:
    with pytest.raises(AttackError, match="nothing to attack"):
        measure(small, queries=torch.arange(0))
    with pytest.raises(AttackError, match="duplicate"):
        measure(small, queries=torch.tensor([1, 1]))
    with pytest.raises(AttackError, match="rows 0 … 199"):
        measure(small, queries=torch.tensor([200]))
    with pytest.raises(AttackError, match="do not belong together"):
        measure(small, embed=lambda x: -small.embed(x))
    with pytest.raises(AttackError, match=r"\[0,1\]"):
        measure(replace(small, images=255 * small.images))


def test_another_method_replaces_gradient_descent(small: Small, tmp_path: Path) -> None:
    class Unmoved:
        """Leaves every image where it is."""

        calls = 0

        def describe(self) -> dict[str, Any]:
            return {"name": "unmoved"}

        def __call__(self, *arguments: Any, **options: Any) -> AttackResult:
            self.calls += 1
            attack, embed, images, victims, gallery, budget = arguments
            return run_attack(attack, embed, images, victims, gallery, replace(budget, epsilon=0.0), **options)

    method = Unmoved()
    ten = partial(measure, small, names=("ES",), queries=torch.arange(10), batch=5, resume=Journal(tmp_path))
    card = ten(method=method)
    assert method.calls == 2
    assert card.figures["ES:D"].value == pytest.approx(0, abs=1e-6)
    assert card.options["method"] == {"name": "unmoved"}
    with pytest.raises(JournalError, match="method"):
        ten()
