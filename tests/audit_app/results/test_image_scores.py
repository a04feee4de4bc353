"""The weakest images and classes, and files that a report may not name."""

import json
from pathlib import Path

import numpy as np
import pytest

from hardrank.audit_app.results.image_scores import ImageScores
from hardrank.audit_app.results.schema import ReportError, read_report
from hardrank.audit_app.results.weakest import weakest_groups
from tests.audit_app.reports import make_made_up, make_model


def images(classes: list[str], scores: np.ndarray) -> ImageScores:
    """Return images of these classes (n) with the scores (n,F) of figures."""
    keys = ("QA+", "TMA")[: scores.shape[1]]
    ids = tuple(str(place) for place in range(len(classes)))
    return ImageScores(keys=keys, ids=ids, classes=tuple(classes), scores=scores)


def test_worst_classes_match_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    classes = [f"class-{number}" for number in generator.integers(0, 7, size=60)]
    scores = generator.integers(0, 5, size=60).astype(float)  # many ties
    means = {name: np.mean([s for c, s in zip(classes, scores, strict=True) if c == name]) for name in set(classes)}
    found = weakest_groups(classes, scores, 4)
    assert [one.label for one in found] == sorted(means, key=lambda name: (means[name], name))[:4]
    for one in found:
        assert one.score == pytest.approx(means[one.label], rel=1e-12)
        assert list(one.positions) == sorted(
            (place for place, name in enumerate(classes) if name == one.label), key=lambda place: (scores[place], place)
        )


def test_single_images_are_listed_only_without_larger_classes() -> None:
    larger = weakest_groups(["a", "b", "b"], np.array([0.0, 5.0, 5.0]), 5)
    assert [one.label for one in larger] == ["b"]
    single = weakest_groups(["b", "a"], np.array([3.0, 3.0]), 5)
    assert [one.label for one in single] == ["a", "b"]


def test_ties_of_a_figure_are_ordered_by_the_mean() -> None:
    scores = np.array([[0.0, 90.0], [0.0, 10.0], [50.0, 0.0]])
    found = images(["", "", ""], scores)
    assert found.worst("QA+", 2) == [1, 0]
    assert found.worst(None, 1) == [1]
    assert [found.weakest(place) for place in range(3)] == ["QA+", "QA+", "TMA"]


@pytest.mark.parametrize("name", ["../secret.csv", "/etc/passwd", "folder/robust.csv", ".."])
def test_a_report_names_files_of_its_own_folder_only(name: str, tmp_path: Path) -> None:
    content = json.loads(make_made_up(make_model()).model_dump_json())
    content["models"][0]["per_image"] = name
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ReportError, match=r"models\.0\.per_image"):
        read_report(path)
