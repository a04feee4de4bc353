"""The HTML fragments, without a browser: every text is escaped and every figure is correct."""

import base64
import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardrank.serving.agreement.calibration import Disagreement, DisagreementLevel
from hardrank.serving.api.problems import ProblemDetails
from hardrank.serving.page.fragments import ModelColumn, SearchResults, examples, failure, header, results, welcome
from hardrank.serving.page.plot import legend, score_plot
from hardrank.serving.store.items import Item, Match

HOSTILE = "<script>x</script>\"'><img src=x onerror=y>&amp;{{a}}${b}"
VOID = {"img", "br", "circle", "line"}


class Outline(HTMLParser):
    """Tags, attributes and text of a piece of HTML; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def match(rank: int, *, text: str = "", label: str | None = None, score: float = 0.5) -> Match:
    metadata = json.dumps({text or "field": text or 1}).encode()
    item = Item(row=rank, id=f"{text}{rank}", label=label, metadata_json=metadata, width=1, height=1)
    return Match(item=item, score=score, rank=rank)


def found(matches: Sequence[Sequence[Match]], **options: object) -> SearchResults:
    columns = [
        ModelColumn(
            key=key, title=f"{key} model", note="a note", matches=own, timings={"decode": 1.234, "search": 123.4}
        )
        for key, own in zip(("benign", "robust"), matches, strict=False)
    ]
    return SearchResults(query="your image", columns=columns, thumbnails={}, **options)  # type: ignore[arg-type]


@given(st.text(max_size=30))
@settings(max_examples=30, deadline=None)
def test_texts_are_escaped(text: str) -> None:
    plain = Outline(results(found([[match(1, text="t", label="t")]] * 2, query_label="t", label_filter="t")))
    for hostile in (HOSTILE, HOSTILE + text):
        shown = results(
            SearchResults(
                query=hostile,
                columns=[
                    ModelColumn(
                        key=hostile,
                        title=hostile,
                        note=hostile,
                        matches=[match(1, text=hostile, label=hostile)],
                        timings={hostile: 1.0},
                    )
                ]
                * 2,
                thumbnails={},
                query_label=hostile,
                label_filter=hostile,
                agreement=None,
            )
        )
        outline = Outline(shown)
        assert outline.tags == plain.tags, "the tags do not depend on the texts"
        assert not [name for name, _ in outline.attributes if name.startswith("on") or name == "src"]
    for piece in (
        failure(ProblemDetails(type="", title=HOSTILE, status=500, detail=HOSTILE, request_id=HOSTILE)),
        examples([match(1, text=HOSTILE, label=HOSTILE).item], {}),
        legend([HOSTILE]),
    ):
        assert not {"script", "img"} & set(Outline(piece).tags)


def test_only_a_page_with_logins_has_a_button_to_sign_out() -> None:
    assert ("action", "logout") in Outline(header(sign_out=True)).attributes
    assert not {"form", "button"} & set(Outline(header(sign_out=False)).tags)


def test_cards_show_rank_score_label_metadata_and_the_rank_of_the_other_model() -> None:
    first = [match(1, label="cat", score=0.91234), match(2, score=0.5)]
    second = [match(1, label="cat", score=0.8), Match(item=first[1].item, score=0.4, rank=2)]
    shown = results(found([first, second[::-1]], query_label="cat"))
    texts = " ".join(Outline(shown).texts)
    for expected in ("1", "0.912", "cat", "field: 1", "no label", "#2 robust", "decode 1.2 · search 123 ms"):
        assert expected in texts
    assert shown.count("hr-same") == 2
    assert "2 most similar images" in texts


def test_thumbnails_are_embedded_unchanged() -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    shown = results(
        SearchResults(query="q", columns=found([[match(1)]]).columns, thumbnails={"1": png}, query_thumbnail=png)
    )
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    assert [base64.b64decode(data) for data in embedded] == [png, png]
    assert "hr-blank" in results(found([[match(1)]])), "an item without a thumbnail gets a placeholder"


@pytest.mark.parametrize("level", DisagreementLevel)
def test_the_agreement_shows_level_text_overlap_and_percentile(level: DisagreementLevel) -> None:
    agreement = Disagreement(rbo=0.123, percentile=4.56, level=level, text="Some words <b>.")
    shown = results(found([[match(1)], [match(1)]], agreement=agreement))
    assert f"hr-{level.value}" in shown
    texts = " ".join(Outline(shown).texts)
    for expected in (level.value.capitalize(), "Some words <b>.", "0.123", "percentile 4.6"):
        assert expected in texts
    assert 'left:4.56%"' in shown


def test_an_agreement_that_tells_little_is_not_called_usual() -> None:
    level = DisagreementLevel.USUAL
    agreement = Disagreement(rbo=0.26, percentile=40, level=level, text="Some words.", telling=False)
    shown = results(found([[match(1)], [match(1)]], agreement=agreement))
    assert "hr-usual" not in shown
    texts = Outline(shown).texts
    assert "Usual" not in texts
    assert {"Tells little", "less than usual", "more than usual"} <= set(texts)


def test_no_results_and_an_empty_gallery_have_a_message() -> None:
    assert "No results" in results(found([[]]))
    assert "empty" in examples([], {})
    assert "empty" in welcome(size=0, models=["a"])


def test_the_instructions_depend_on_the_models() -> None:
    assert "1,234 images" in welcome(size=1234, models=["a", "b"])
    assert "agreement" in welcome(size=2, models=["a", "b"])
    assert "agreement" not in welcome(size=2, models=["a"])


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.lists(st.floats(-1, 1), max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_plot_draws_every_score_at_its_height(first: list[float], second: list[float]) -> None:
    scores = [("one & <other>", sorted(first, reverse=True)), ("two", sorted(second, reverse=True))]
    drawn = ElementTree.fromstring(score_plot(scores))
    groups = list(drawn.iter("g"))
    assert len(groups) == 1 + bool(second)
    labels = {
        element.text: float(element.get("y", "nan")) for element in drawn.iter("text") if "." in (element.text or "")
    }
    (low, y_low), (high, y_high) = sorted((float(text or "nan"), y - 4) for text, y in labels.items())[
        :: len(labels) - 1
    ]
    for group, (_, values) in zip(groups, scores, strict=False):
        circles = list(group.iter("circle"))
        assert len(circles) == len(values)
        places = [float((circle.get("cx") or "").rstrip("%")) for circle in circles]
        assert places == sorted(places)
        assert all(0 <= place <= 100 for place in places)
        for circle, value in zip(circles, values, strict=True):
            expected = y_low + (value - low) / (high - low) * (y_high - y_low)
            assert math.isclose(float(circle.get("cy", "nan")), expected, abs_tol=0.7)


def test_there_is_no_plot_without_scores() -> None:
    assert score_plot([]) == score_plot([("a", [])]) == ""


def test_equal_scores_are_a_horizontal_line() -> None:
    drawn = ElementTree.fromstring(score_plot([("a", [0.5] * 3)]))
    assert len({circle.get("cy") for circle in drawn.iter("circle")}) == 1
