"""Real attacks on the demo models: attacked images look more suspicious than clean ones, on average."""

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


def test_attacked_images_agree_less_and_clean_ones_are_rarely_suspected() -> None:
    from benchmarks.suspicion import measure, scene_of

    with scene_of(BENIGN, ROBUST, queries=50) as scene:
        found = measure(scene, steps=12, attacks=("ES", "TMA"))
    clean = found["clean"]
    # With 50 images, 5 % is exceeded by 14 % with a chance below 1 %.
    assert clean["share_unusual_or_worse"] <= 0.14
    for attack in ("ES on benign", "TMA on benign"):
        assert found[attack]["auc"] > 0.9
        assert found[attack]["share_unusual_or_worse"] > 0.8
        assert found[attack]["mean_overlap"] < clean["mean_overlap"] / 2
    for attack in ("ES on robust", "TMA on robust"):
        assert found[attack]["auc"] > 0.6, "the robust model's ranking moves less, but it moves"
