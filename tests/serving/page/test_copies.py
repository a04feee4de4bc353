"""Near-duplicates are folded by their thumbnails; the results can be saved as JSON and CSV."""

import base64
import csv
import io
import json
import re
from typing import Literal

import pytest
from PIL import Image

from hardrank.serving.page.copies import fold
from hardrank.serving.page.downloads import csv_url, json_url
from hardrank.serving.store.items import Item, Match
from hardrank.serving.store.thumbnails import make_thumbnail
from tests.serving.served import encoded, picture


def matches(*ids: str) -> list[Match]:
    return [
        Match(
            item=Item(row=rank, id=id, label=None, metadata_json=b'{"n": %d}' % rank, width=4, height=3),
            score=1 / rank,
            rank=rank,
        )
        for rank, id in enumerate(ids, start=1)
    ]


def thumbnails() -> dict[str, bytes]:
    """Two pictures, and copies of the first in another size and quality."""
    first, second = picture(1, width=120, height=80), picture(2, width=120, height=80)
    small = first.resize((90, 60))
    coarse = Image.open(io.BytesIO(encoded(first, "JPEG", quality=60)))
    images = {"a": first, "b": second, "small": small, "coarse": coarse}
    return {id: make_thumbnail(image) for id, image in images.items()}


def ids(found: list[Match]) -> list[str]:
    return [match.item.id for match in found]


def test_copies_are_folded_into_the_first() -> None:
    kept, copies = fold(matches("a", "b", "small", "coarse"), thumbnails(), 10)
    assert ids(kept) == ["a", "b"]
    assert {id: ids(found) for id, found in copies.items()} == {"a": ["small", "coarse"]}


def test_copies_of_kept_results_are_folded_beyond_the_number_of_results() -> None:
    kept, copies = fold(matches("coarse", "b", "a"), thumbnails(), 1)
    assert (ids(kept), ids(copies["coarse"])) == (["coarse"], ["a"])


def test_items_without_a_thumbnail_are_kept() -> None:
    kept, copies = fold(matches("x", "y"), {}, 5)
    assert (ids(kept), copies) == (["x", "y"], {})


def content(url: str) -> str:
    return base64.b64decode(url.partition("base64,")[2]).decode("utf-8-sig")


def test_results_as_json() -> None:
    found = json.loads(content(json_url("my <query>", {"robust": matches("é", "b")})))
    assert found["query"] == "my <query>"
    assert [(one["id"], one["rank"], one["metadata"]) for one in found["models"]["robust"]] == [
        ("é", 1, {"n": 1}),
        ("b", 2, {"n": 2}),
    ]


def test_results_as_csv_without_formulas() -> None:
    rows = list(csv.DictReader(io.StringIO(content(csv_url({"robust": matches("a,b", '=1+"1')})))))
    assert [(row["model"], row["rank"], row["id"]) for row in rows] == [
        ("robust", "1", "a,b"),
        ("robust", "2", "'=1+\"1"),
    ]
    assert json.loads(rows[0]["metadata"]) == {"n": 1}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_NONE])
@pytest.mark.parametrize(
    "text", ["x;=1+cmd|' C calc'!A0", ";=1", 'x;"=1', "a; +1", "a;;@b", "\t=1", "a\t-1", " =1", "-1"]
)
def test_no_cell_of_the_csv_is_a_formula_whatever_the_separator(
    text: str, quoting: Literal[0, 3], separator: str
) -> None:
    item = Item(row=1, id=text, label=text, metadata_json=json.dumps({"a": text}).encode(), width=4, height=3)
    written = content(csv_url({"robust": [Match(item=item, score=-0.5, rank=1)]}))
    rows = csv.reader(io.StringIO(written), delimiter=separator, quoting=quoting)
    cells = [cell for row in rows for cell in row]
    if quoting == csv.QUOTE_NONE and separator == ",":
        cells = [cell.strip('"') for cell in cells]
    assert not [cell for cell in cells if re.match(r'[ "]*[=+@-]', cell) and cell.strip('"') != "-0.500000"]


def test_all_fields_of_the_csv_are_quoted() -> None:
    assert content(csv_url({"m": matches("a")})).splitlines()[1] == '"m","1","1.000000","a","","4","3","{""n"": 1}"'
