"""Other threat models: measured apart from the ten results, learnt and judged on different images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.evaluation.blocks import CancelledError, EvaluationPhase, EvaluationProgress
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.evaluation.threats import THREATS, ThreatOptions, ThreatResult, measure_threats
from tests.trainer.conftest import Small

OPTIONS = RobustnessOptions(steps=4, epsilon=16 / 255, bootstrap=20)
SETTINGS = {"universal": {"images": 40, "epochs": 2}, "patch": {"places": 1}, "hub": {"queries": 50}}
THREAT_OPTIONS = ThreatOptions(threats=tuple(THREATS), goals=("ES", "TMA", "CA+"), images=30, settings=SETTINGS)


def measure(
    small: Small, *, images: Callable[[Tensor], Tensor] | None = None, **changes: Any
) -> tuple[ThreatResult, ...]:
    given: dict[str, Any] = {"threats": THREAT_OPTIONS, "options": OPTIONS, **changes}
    return measure_threats(
        small.embed,
        images or (lambda rows: small.images[rows]),
        small.gallery.embeddings,
        small.gallery.labels,
        torch.arange(0, 200, 4),
        **given,
    )


def test_each_is_measured_on_its_own_with_intervals_and_without_ers(small: Small) -> None:
    universal, patch, hub = measure(small)
    assert [one.name for one in (universal, patch, hub)] == ["universal", "patch", "hub"]
    for one in (universal, patch):
        assert set(one.card.figures) == {"ES:D", "ES:R", "TMA", "CA+"}
        assert one.card.n == 30
    assert set(hub.card.figures) == {"HUB"}
    assert hub.options["queries"] == 50
    for one in (universal, patch, hub):
        for key, figure in one.card.figures.items():
            scale = one.card.scales[key]
            assert figure.low <= figure.value <= figure.high
            if key != "ES:R":
                assert abs(scale.attacked - figure.value) < abs(scale.attacked - figure.before)
        assert one.card.ers != one.card.ers  # NaN: the ten results are not measured
        assert one.card.strong is None


def test_the_perturbation_is_learnt_on_other_images_than_the_judged_ones(small: Small) -> None:
    seen: list[list[int]] = []

    def images(rows: Tensor) -> Tensor:
        seen.append(rows.tolist())
        return small.images[rows]

    options = ThreatOptions(threats=("universal",), goals=("ES",), images=30, settings=SETTINGS)
    [result] = measure(small, images=images, threats=options)
    learnt, judged = set(seen[0]), {row for rows in seen[1:] for row in rows}
    assert len(learnt) == 40
    assert judged == {4 * (i * 50 // 30) for i in range(30)}  # evenly spaced, as a gallery may be sorted by class
    assert not learnt & judged
    assert set(result.card.per_image.rows.tolist()) == judged


def test_at_most_half_of_the_gallery_is_attacked(small: Small) -> None:
    options = ThreatOptions(threats=("hub",), images=500)
    [result] = measure_threats(
        small.embed,
        lambda rows: small.images[rows],
        small.gallery.embeddings,
        small.gallery.labels,
        torch.arange(200),
        threats=options,
        options=OPTIONS,
    )
    assert result.card.n == 100


def test_it_reports_is_cancelled_and_continues(small: Small, tmp_path: Path) -> None:
    reports: list[tuple[str, EvaluationProgress]] = []

    def journal(name: str) -> Journal:
        return Journal(tmp_path / name)

    with pytest.raises(CancelledError):
        measure(
            small,
            progress=lambda name, state: reports.append((name, state)),
            cancel=lambda: bool(reports) and reports[-1][0] == "hub",
            resume=journal,
        )
    assert {name for name, _ in reports} == {"universal", "patch", "hub"}
    assert EvaluationPhase.LEARNING in {state.phase for _, state in reports}
    again, whole = measure(small, resume=journal), measure(small)
    for one, other in zip(again, whole, strict=True):
        for key, figure in one.card.figures.items():
            assert figure.value == pytest.approx(other.card.figures[key].value, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"threats": ("patches",)}, "unknown threat model 'patches'; available: universal, patch, hub"),
        ({"goals": ("HUB",)}, "unknown goal 'HUB'"),
        ({"goals": ()}, "none"),
        ({"images": 0}, "0 images"),
        ({"settings": {"path": {}}}, "path"),
        ({"threats": ("patch",), "settings": {"patch": {"area": 2.0}}}, "area = 2"),
        ({"threats": ("hub",), "settings": {"hub": {"depth": 2}}}, "no option depth"),
    ],
)
def test_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(AttackError, match=says):
        ThreatOptions(**wrong)
