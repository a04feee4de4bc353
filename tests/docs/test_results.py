"""The page of results says what the files of results say."""

import json
import re
from typing import Any

import pytest

from hardrank.trainer.runtime.launch import ROOT

TRIALS = ROOT / "docs" / "results" / "caltech101" / "trials"
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "path", "shown"),
    [
        ("hm_step", "plain_over_fast/fast float32", "{} times as fast"),
        ("hm_step", "plain_over_fast/fast bf16", "{} times as fast"),
        ("allocation", "keep_over_leave", "{} times as fast"),
        ("recipe_cost_caltech101", "ratio", "| {} of its time |"),
        ("recipe_cost_demo", "ratio", "| {} of its time |"),
        ("attacks", "cost_over_bare_passes/float32", "| {} |"),
        ("attacks", "plain_seconds_over/float32", "{} times as fast"),
        ("attacks", "bf16_against_float32/ers_difference", "{} apart"),
        ("attacks", "scale/GiB_beyond", "{} GiB"),
        ("serving", "query/p50_over_inference_and_decode", "{} ×"),
        ("serving", "soak/growth", "{} of it"),
        ("index_build", "ratio", "{} of its rate"),
        ("index_million", "unseen_queries/p50_ms", "median {} ms"),
        ("index_million", "changes_while_searching/queries", "0 of {} searches failed"),
        ("live_attack", "attack_paced_s/median", "| {} s at the pace"),
        ("live_attack", "attack_s/median", "{} s as fast"),
        ("live_attack", "redraws_a_second/median", "{} a second"),
        ("live_attack", "paint_s/median", "| {} s |"),
        ("suspicion", "ES on benign/auc", "{} for ES"),
        ("suspicion", "TMA on benign/auc", "{} for TMA"),
        ("suspicion", "QA+ on benign/auc", "{} for QA+"),
    ],
)
def test_figures_are_those_of_the_files(file: str, path: str, shown: str) -> None:
    content: Any = json.loads((ROOT / "benchmarks" / "results" / f"{file}.json").read_text(encoding="utf-8"))
    for key in path.split("/"):
        content = content[key]
    assert shown.format(content) in PAGE


@pytest.mark.parametrize(
    ("study", "title", "measure", "shown"),
    [
        ("caltech101", "HM[S,g_LGA]&ICS", "ers", "({:.1f} against 12.0)"),
        ("caltech101", "ACT[S]", "ers", "(18.0 against {:.1f})"),
        ("caltech101", "HM[S,g_LGA]&ICS", "recall_at_1", "({:.1f} % against 24.7 %)"),
        ("caltech101", "ACT[R]", "recall_at_1", "(44.5 % against {:.1f} %)"),
        ("caltech101", "minmax[S]", "recall_at_1", "Recall@1 with it ({:.1f} %)"),
        ("caltech101", "HM[S,0]", "recall_at_1", "HM[S,0] does not ({:.1f} %)"),
        ("caltech101", "minmax[S]", "mean_cosine", "a mean cosine of {:.2f}. Min-max"),
        ("caltech101", "HM[S,0]", "mean_cosine", "a mean cosine of {:.2f}. Min-max"),
        ("caltech101", "EST[R]", "ers", "HM[S,g_LGA]&ICS ({:.1f}), at"),
        ("caltech101", "EST[R]", "mean_cosine", "at a mean cosine of {:.2f}, and"),
        ("caltech101", "minmax[S]", "ers", "has an ERS of {:.1f}, for"),
        ("caltech101", "ACT[R]", "ers", "(an ERS of {:.1f}, a mean cosine of 0.73)"),
        ("caltech101", "ACT[R]", "mean_cosine", "(an ERS of 41.8, a mean cosine of {:.2f})"),
        ("caltech101", "HM[R,M]", "ers", "({:.1f} and 0.90)"),
        ("caltech101", "HM[R,M]", "mean_cosine", "(51.7 and {:.2f})"),
        ("caltech101", "HM[S,g_LGA]", "ers", "without it has an ERS of {:.1f}, within"),
        ("caltech101", "HM[S,g_LGA]", "ers", "g_LGA ({:.1f}) is above"),
        ("caltech101", "HM[S,M]", "ers", "above HM[S,M] ({:.1f})"),
        ("caltech101", "HM[S,-gamma/2]", "ers", "above both ({:.1f})"),
        ("caltech101", "HM[S,g_B(M)]", "ers", "g_B ({:.1f}) adds"),
        ("caltech101", "HM[S,g_LGA]&ICS, adversarial start", "ers", "has an ERS of {:.1f} and"),
        ("caltech101", "HM[S,g_LGA]&ICS, adversarial start", "recall_at_1", "a Recall@1 of {:.1f} %, both"),
        ("caltech101", "EST[R], a tenth of the rate", "ers", "has an ERS of {:.1f}. Against"),
        ("caltech101", "EST[R], a tenth of the rate", "recall_at_1", "keeps its Recall@1 ({:.1f} %)"),
        ("caltech101", "EST[R], a tenth of the rate", "mean_cosine", "(a mean cosine of {:.2f}), keeps"),
        ("caltech101", "HM[S,g_LGA]&ICS", "ers", "better in both, ERS ({:.1f})"),
        ("caltech101", "HM[S,g_LGA]&ICS", "recall_at_1", "and Recall@1 ({:.1f} %). At the same"),
        ("caltech101", "HM[S,g_LGA]&ICS, a tenth of the rate", "ers", "it is not: an ERS of {:.1f}, at"),
        ("caltech101", "HM[S,g_LGA]&ICS, a tenth of the rate", "recall_at_1", "at a Recall@1 of {:.1f} %."),
        ("caltech101", "HM[S,g_LGA]&ICS, a tenth of the rate", "ers", "ERS rises from {:.1f} to 12.7"),
        ("caltech101", "HM[S,g_LGA]&ICS(u=2.2), a tenth of the rate", "ers", "from 8.6 to {:.1f} at"),
        ("caltech101", "HM[S,g_LGA]&ICS(u=2.2), a tenth of the rate", "recall_at_1", "Recall@1 ({:.1f} %), near"),
        ("caltech101", "HM[S,g_LGA]&ICS(u=2.2)", "ers", "1.00, an ERS of {:.1f})"),
        ("caltech101", "HM[S,g_LGA]&ICS(u=2.2)", "mean_cosine", "(a mean cosine of {:.2f}, an ERS of 19.1)"),
        ("demo", "HM[S,g_LGA]&ICS", "ers", "ERS is 49.9 against {:.1f} and"),
        ("demo", "HM[S,g_LGA]&ICS", "recall_at_1", "87.6 % against {:.1f} %, both"),
        ("demo", "HM[S,g_LGA]&ICS, adversarial start", "ers", "ERS is {:.1f} against 38.1 and"),
        ("demo", "HM[S,g_LGA]&ICS, adversarial start", "recall_at_1", "Recall@1 {:.1f} % against 85.1 %"),
        ("demo", "HM[S,g_LGA]&ICS, larger steps", "ers", "(an ERS of {:.1f}, a Recall@1 of 84.3 %)"),
        ("demo", "HM[S,g_LGA]&ICS, larger steps", "recall_at_1", "(an ERS of 36.7, a Recall@1 of {:.1f} %)"),
    ],
)
def test_figures_are_those_of_the_study(study: str, title: str, measure: str, shown: str) -> None:
    content = json.loads((ROOT / "docs" / "results" / study / "study.json").read_text(encoding="utf-8"))
    (row,) = (row for row in content["rows"] if row["title"] == title)
    value = 100 * row["metrics"][measure]["mean"] if measure == "recall_at_1" else row[measure]["mean"]
    text = re.sub(r"\s+", " ", PAGE)
    assert shown.format(value) in text


def test_the_destinations_are_those_of_the_logs() -> None:
    """What the page says of u: with u = γ the destination stays at −γ, with u = 2.2 it starts near 0."""
    trials = [json.loads(path.read_text(encoding="utf-8")) for path in TRIALS.glob("hm-s-g-lga*.json")]
    paper = [trial for trial in trials if trial["config"]["robust"]["warmup_epsilon"] == 0]
    weak = [value for one in paper if "u=2.2" not in one["defense"] for value in one["log"]["destination"]]
    strong = [value for one in paper if "u=2.2" in one["defense"] for value in one["log"]["destination"][10:]]
    assert -0.2 <= min(weak) <= max(weak) < -0.188
    assert -0.03 < min(strong) <= max(strong) < -0.015


def test_every_command_and_file_is_there() -> None:
    for script in re.findall(r"python (benchmarks/\S+?\.py)", PAGE):
        assert (ROOT / script).is_file()
    for name in re.findall(r"`(\w+\.json)`", PAGE):
        assert (ROOT / "benchmarks" / "results" / name).is_file()
