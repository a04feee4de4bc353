"""Attacks on the demo models: the models disagree more about attacked images than about benign ones."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BENIGN, ROBUST = (ROOT / "models/zoo" / name for name in ("demo-benign", "demo-robust"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BENIGN.exists() and ROBUST.exists()), reason="no demo models: `python trainer/run.py` makes them"
    ),
]


def test_attacks_raise_the_disagreement_and_clean_images_are_rarely_flagged() -> None:
    from benchmarks.suspicion import measure, scene_of

    with scene_of(BENIGN, ROBUST, queries=50) as scene:
        found = measure(scene, steps=12, attacks=("ES", "TMA"))
    benign = found["benign"]
    # At a rate of 5 %, more than 14 % of 50 images have a probability below 1 %.
    assert benign["share_unusual_or_worse"] <= 0.14
    for attack in ("ES on benign", "TMA on benign"):
        assert found[attack]["auc"] > 0.9
        assert found[attack]["share_unusual_or_worse"] > 0.8
        assert found[attack]["mean_overlap"] < benign["mean_overlap"] / 2
    for attack in ("ES on robust", "TMA on robust"):
        assert found[attack]["auc"] > 0.6, "the ranking of the robust model changes less, but it changes"
