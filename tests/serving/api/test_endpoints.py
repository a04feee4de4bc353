"""The endpoints of the real application: responses, statuses, headers."""

import asyncio
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient

from hardrank.models.preprocessing import prepare
from hardrank.serving import app
from hardrank.serving.api.auth import Caller, KeyRole
from hardrank.serving.api.bodies import ClientGoneError
from hardrank.serving.api.endpoints import Endpoints
from hardrank.serving.api.openapi import document
from hardrank.serving.engine import Engine
from hardrank.serving.settings import Access, Batching, Limits, Settings
from tests.serving.process import ROOT
from tests.serving.served import Painted, Served, encoded, make_keyring, new_item, picture, serve
from tests.waiting import until

BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, engine: Engine, robust_engine: Engine) -> Iterator[Served]:
    """Two models over 30 images; tests remove what they add."""
    with serve(tmp_path_factory.mktemp("served"), (engine, robust_engine)) as one:
        yield one


def test_results_are_the_items_of_highest_cosine_similarity(
    served: Served, engine: Engine, robust_engine: Engine
) -> None:
    answer = served.client.post("/v1/search?k=7", content=served.files[4].data, headers=BYTES)
    assert answer.status_code == 200
    body = answer.json()
    assert list(body["models"]) == ["benign", "robust"]
    for key, network in (("benign", engine), ("robust", robust_engine)):
        vectors = network.embed(np.stack([prepare(file.data, network.preprocessing) for file in served.files]))
        scores = vectors @ vectors[4]
        expected = np.argsort(-scores, kind="stable")[:7]
        found = body["models"][key]["matches"]
        assert [match["id"] for match in found] == [f"item-{number}" for number in expected]
        assert [match["score"] for match in found] == pytest.approx(scores[expected], abs=1e-5)
        assert [match["rank"] for match in found] == list(range(1, 8))
        assert found[0]["label"] == served.files[4].label
        assert found[0]["metadata"] == {"number": 4}
        assert (found[0]["width"], found[0]["height"]) == (60, 40)
        assert set(body["models"][key]["timings"]) == {"decode_ms", "queue_ms", "embed_ms", "search_ms"}


def test_raw_body_and_form_give_the_same_results(served: Served) -> None:
    data = encoded(picture(99), "JPEG", quality=90)
    raw = served.client.post("/v1/search", content=data, headers={"Content-Type": "image/jpeg"})
    form = served.client.post("/v1/search", files={"image": ("wrong.txt", data, "text/plain")})
    assert raw.status_code == form.status_code == 200
    assert [match["id"] for match in raw.json()["models"]["benign"]["matches"]] == [
        match["id"] for match in form.json()["models"]["benign"]["matches"]
    ]


def test_search_with_one_model_and_one_label(served: Served) -> None:
    answer = served.client.post("/v1/search?model=robust&label=green&k=10", content=served.files[0].data, headers=BYTES)
    body = answer.json()
    assert list(body["models"]) == ["robust"]
    assert {match["label"] for match in body["models"]["robust"]["matches"]} == {"green"}
    assert body["suspicion"] is None


def test_disagreement_is_reported_after_the_calibration_whatever_the_label(served: Served) -> None:
    def search(options: str = "") -> Any:
        return served.client.post(f"/v1/search?k=3{options}", content=served.files[0].data, headers=BYTES).json()

    until(lambda: search()["suspicion"] is not None)
    plain, labeled = search(), search("&label=red")
    assert 0 <= plain["suspicion"]["rbo"] <= 1
    assert plain["suspicion"]["level"] in {"usual", "unusual", "suspicious"}
    assert plain["suspicion"] == labeled["suspicion"]  # a filter does not change the rankings that are compared
    assert len(plain["models"]["benign"]["matches"]) == 3
    without = served.client.post("/v1/search?suspicion=false", content=served.files[0].data, headers=BYTES)
    assert without.json()["suspicion"] is None


def test_search_by_id_leaves_out_the_item_itself(served: Served) -> None:
    by_id = served.client.get("/v1/search", params={"id": "item-4", "k": 6}).json()
    by_image = served.client.post("/v1/search?k=7", content=served.files[4].data, headers=BYTES).json()
    for key in ("benign", "robust"):
        assert [match["id"] for match in by_id["models"][key]["matches"]] == [
            match["id"] for match in by_image["models"][key]["matches"]
        ][1:]
    assert by_id["models"]["benign"]["timings"]["decode_ms"] == 0


def test_a_batch_has_results_and_errors_in_the_order_of_its_fields(served: Served) -> None:
    answer = served.client.post(
        "/v1/search/batch?k=2",
        files=[
            ("images", ("a", served.files[1].data)),
            ("ids", (None, "item-2")),
            ("images", ("b", b"no image")),
            ("ids", (None, "nobody")),
            ("images", ("c", served.files[3].data)),
        ],
    )
    assert answer.status_code == 200
    answers = answer.json()["answers"]
    assert [one["problem"] and one["problem"]["status"] for one in answers] == [None, None, 422, 404, None]
    assert answers[0]["answer"]["models"]["benign"]["matches"][0]["id"] == "item-1"
    assert answers[1]["answer"]["models"]["benign"]["matches"][0]["id"] != "item-2"
    assert answers[4]["answer"]["models"]["robust"]["matches"][0]["id"] == "item-3"
    assert "nobody" in answers[3]["problem"]["detail"]


def test_items_are_listed_page_by_page(served: Served) -> None:
    first = served.client.get("/v1/items?count=20").json()
    second = served.client.get(f"/v1/items?count=20&start={first['next']}").json()
    assert first["ids"] + second["ids"] == [file.id for file in served.files]
    assert second["next"] is None
    assert served.client.get("/v1/items?label=red&count=100").json()["ids"] == [
        file.id for file in served.files if file.label == "red"
    ]
    assert served.client.get("/v1/labels").json() == {"labels": {"blue": 10, "green": 10, "red": 10}}


def test_pages_by_row_skip_no_item_when_others_are_deleted(served: Served) -> None:
    """By `start`, deleting an item of the first page shifts the second by one."""
    added = [f"new-{number}" for number in range(4)]
    for number, id in enumerate(added):
        form: dict[str, Any] = {"image": ("x.png", encoded(picture(80 + number))), "label": (None, "new")}
        assert served.client.put(f"/v1/items/{id}", files=form).status_code == 201
    try:
        page = served.client.get("/v1/items?label=new&count=2&after=-1").json()
        assert (page["ids"], page["next"]) == (added[:2], None)
        assert served.client.delete(f"/v1/items/{added[0]}").status_code == 204
        by_start = served.client.get("/v1/items?label=new&count=9&start=2").json()
        by_row = served.client.get(f"/v1/items?label=new&count=9&after={page['next_after']}").json()
        assert by_start["ids"] == added[3:]  # one is skipped
        assert (by_row["ids"], by_row["next_after"]) == (added[2:], None)
    finally:
        for id in added:
            served.client.delete(f"/v1/items/{id}")


def test_the_image_of_an_item_is_its_file_or_the_thumbnail_if_the_file_changed(served: Served) -> None:
    file = served.files[8]
    assert file.path is not None
    item = served.client.get("/v1/items/item-8").json()
    assert item == {"id": "item-8", "label": "blue", "metadata": {"number": 8}, "width": 60, "height": 40}
    image = served.client.get("/v1/items/item-8/image")
    assert image.content == file.data
    assert image.headers["content-type"] == "image/png"
    assert image.headers["content-location"] == "/v1/items/item-8/image"
    thumbnail = served.client.get("/v1/items/item-8/thumbnail")
    assert max(Image.open(io.BytesIO(thumbnail.content)).size) <= 96
    file.path.write_bytes(encoded(picture(1234)))  # the same name, but another image
    try:
        changed = served.client.get("/v1/items/item-8/image")
        assert changed.content == thumbnail.content
        assert changed.headers["content-location"] == "/v1/items/item-8/thumbnail"
    finally:
        file.path.write_bytes(file.data)


def test_add_find_add_again_and_delete(served: Served) -> None:
    data = encoded(picture(77), "JPEG")
    form: dict[str, Any] = {
        "image": ("x.jpg", data),
        "label": (None, "new"),
        "metadata": (None, '{"price": 3.5, "sold": false}'),
    }
    added = served.client.put("/v1/items/späte Blüte", files=form)
    assert added.status_code == 201
    assert added.json() == {
        "item": {
            "id": "späte Blüte",
            "label": "new",
            "metadata": {"price": 3.5, "sold": False},
            "width": 60,
            "height": 40,
        },
        "new": True,
    }
    found = served.client.post("/v1/search?k=1", content=data, headers=BYTES).json()
    assert [found["models"][key]["matches"][0]["id"] for key in ("benign", "robust")] == ["späte Blüte"] * 2
    assert found["models"]["benign"]["matches"][0]["score"] == pytest.approx(1, abs=1e-5)

    again = served.client.put("/v1/items/späte Blüte", files=form)
    assert (again.status_code, again.json()["new"]) == (200, False)
    other = served.client.put("/v1/items/späte Blüte", files={**form, "image": ("x.jpg", encoded(picture(78)))})
    assert other.status_code == 409
    retyped = served.client.put(
        "/v1/items/späte Blüte", files={**form, "metadata": (None, '{"price": 3.5, "sold": 0}')}
    )
    assert retyped.status_code == 409
    renamed = served.client.put("/v1/items/späte Blüte", files={**form, "label": (None, "other")})
    assert renamed.status_code == 409

    assert served.client.get("/v1/items/späte Blüte/image").headers["content-type"] == "image/png"
    deleted = served.client.delete("/v1/items/späte Blüte")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert served.client.delete("/v1/items/späte Blüte").status_code == 404
    assert served.client.get("/v1/items/späte Blüte").status_code == 404
    assert served.client.get("/v1/stats").json()["models"]["robust"]["index"]["size"] == len(served.files)


def test_stats_describe_the_models_without_paths(served: Served, engine: Engine) -> None:
    stats = served.client.get("/v1/stats").json()
    assert stats["models"]["benign"]["sha256"] == engine.model_sha256
    assert stats["models"]["benign"]["name"] == "tiny-benign"
    assert stats["models"]["robust"]["index"]["dimension"] == 16
    assert stats["limits"]["image_side"] == 16_384
    assert "/" not in json.dumps(stats).replace("application/", "")


@pytest.mark.parametrize(
    ("query", "cause"),
    [
        ("k=0", "k"),
        ("k=-3", "k"),
        ("k=31", "from 1 to 30"),
        ("k=NaN", "k"),
        ("k=1e400", "k"),
        ("k=99999999999999999999999", "from 1 to 30"),
        ("k=" + "9" * 5000, "k"),
        ("model=nobody", "benign, robust"),
        ("label=nothing", "nothing"),
        ("label=", "label"),
        ("suspicion=perhaps", "suspicion"),
    ],
)
def test_invalid_search_parameters_are_named(served: Served, query: str, cause: str) -> None:
    answer = served.client.post(f"/v1/search?{query}", content=served.files[0].data, headers=BYTES)
    _check_problem(answer, 422)
    assert cause in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "address", "status"),
    [
        ("GET", "/v1/items/nobody", 404),
        ("GET", "/v1/items/nobody/image", 404),
        ("GET", "/v1/items/nobody/thumbnail", 404),
        ("GET", "/v1/items/../../etc/passwd", 404),
        ("GET", "/v1/items/%2e%2e%2f%2e%2e%2fetc%2fpasswd/image", 404),
        ("GET", "/v1/items/" + "x" * 500, 422),
        ("GET", "/v1/items?start=-1", 422),
        ("GET", "/v1/items?count=0", 422),
        ("GET", "/v1/items?start=9999999999999999999999", 422),
        ("GET", "/v1/search", 422),
        ("GET", "/v1/search?id=nobody", 404),
        ("GET", "/v1/search?id=%00", 404),
        ("GET", "/v1/search?id=" + "x" * 500, 422),
        ("DELETE", "/v1/items/nobody", 404),
        ("DELETE", "/v1/search", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v2/search", 404),
        ("GET", "/docs/nothing.js", 422),
    ],
)
def test_unknown_addresses_and_items(served: Served, method: str, address: str, status: int) -> None:
    _check_problem(served.client.request(method, address), status)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"hello", "text/plain", 415),
        (b"hello", "application/x-www-form-urlencoded", 415),
        (b"hello", "image/png", 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 422),
        (b"hello", "multipart/form-data; boundary=x", 422),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 422),
        (
            b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\nabc\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            422,
        ),
    ],
)
def test_bodies_that_are_not_an_image(served: Served, content: bytes, kind: str, status: int) -> None:
    _check_problem(served.client.post("/v1/search", content=content, headers={"Content-Type": kind}), status)


@pytest.mark.parametrize(
    ("form", "cause"),
    [
        ({"label": (None, "x")}, "image"),
        ({"image": ("x", encoded(picture(1))), "color": (None, "x")}, "color"),
        ({"image": ("x", encoded(picture(1))), "label": (None, "")}, "label"),
        ({"image": ("x", encoded(picture(1))), "label": (None, "x" * 129)}, "label"),
        ({"image": ("x", encoded(picture(1))), "label": (None, b"\xff\xfe")}, "label"),
        ({"image": ("x", encoded(picture(1))), "metadata": (None, "[1]")}, "object"),
        ({"image": ("x", encoded(picture(1))), "metadata": (None, "{")}, "JSON"),
        ({"image": ("x", encoded(picture(1))), "metadata": (None, '{"a": NaN}')}, "JSON"),
        ({"image": ("x", encoded(picture(1))), "metadata": (None, f'{{"a": {2**64}}}')}, "64 bits"),
        ({"image": ("x", encoded(picture(1))), "metadata": (None, f'{{"a": {-(2**63) - 1}}}')}, "64 bits"),
        ({"image": ("x", encoded(picture(1))), "metadata": (None, '{"a": ' + 9 * "1000" * 1000 + "}")}, "JSON"),
        ({"image": ("x", encoded(picture(1))), "metadata": (None, "[" * 90_000)}, "JSON"),
        ({"image": ("x", encoded(picture(1))), "metadata": (None, '{"a": {"b": 1}}')}, "a"),
        ({"image": ("x", encoded(picture(1))), "metadata": (None, '{"a": "\\ud800"}')}, "Unicode"),
        ({"image": ("x", encoded(picture(1))), "metadata": (None, json.dumps({"a": "x" * 20_000}))}, "limit"),
        ({"image": ("x", b"no image")}, "image"),
    ],
)
def test_invalid_items_are_rejected(served: Served, form: dict[str, Any], cause: str) -> None:
    answer = served.client.put("/v1/items/new", files=form)
    _check_problem(answer, 422)
    assert cause in answer.json()["detail"]
    assert served.client.get("/v1/items/new").status_code == 404


def test_integers_of_64_bits_are_kept(served: Served) -> None:
    metadata = {"a": 2**64 - 1, "b": -(2**63), "c": 2**53 + 1}
    form: dict[str, Any] = {"image": ("x", encoded(picture(79))), "metadata": (None, json.dumps(metadata))}
    answer = served.client.put("/v1/items/numbers", files=form)
    assert json.loads(answer.text)["item"]["metadata"] == metadata
    assert json.loads(served.client.get("/v1/items/numbers").text)["metadata"] == metadata
    served.client.delete("/v1/items/numbers")


@pytest.mark.parametrize("id", ["%20", "a%0ab", "%20a", "%2e%2e", "a%5cb"])
def test_invalid_ids_are_rejected(served: Served, id: str) -> None:
    answer = served.client.put(f"/v1/items/{id}", files={"image": ("x", encoded(picture(1)))})
    assert answer.status_code in {404, 405, 422}  # a client may resolve the dots first


def test_a_wrong_method_gets_the_allowed_ones(served: Served) -> None:
    assert served.client.post("/v1/items/item-1").headers["allow"] == "DELETE, GET, PUT"
    assert served.client.patch("/v1/search").headers["allow"] == "GET, POST"


def test_wrong_media_types_and_form_fields(served: Served) -> None:
    _check_problem(served.client.put("/v1/items/new", content=served.files[0].data, headers=BYTES), 415)
    _check_problem(served.client.post("/v1/search/batch", content=served.files[0].data, headers=BYTES), 415)
    two = [("image", ("a", served.files[0].data)), ("image", ("b", served.files[0].data))]
    _check_problem(served.client.post("/v1/search", files=two), 422)
    _check_problem(served.client.put("/v1/items/new", files=two), 422)
    many = [("ids", (None, "item-1"))] * 65
    _check_problem(served.client.post("/v1/search/batch", files=many), 422)
    long = served.client.post("/v1/search/batch", files=[("ids", (None, "x" * 100_000))])
    _check_problem(long, 422)
    assert len(long.content) < 1000
    compressed = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    _check_problem(served.client.post("/v1/search", content=b"x", headers=compressed), 415)


def test_response_headers(served: Served) -> None:
    answer = served.client.post("/v1/search", content=served.files[0].data, headers={**BYTES, "X-Request-ID": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert re.fullmatch(
        r"decode;dur=[\d.]+, queue;dur=[\d.]+, embed;dur=[\d.]+, search;dur=[\d.]+", answer.headers["server-timing"]
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    assert "server" not in answer.headers
    forged = served.client.get("/healthz", headers={"X-Request-ID": "a b\tc" * 40})
    assert re.fullmatch(r"[0-9a-f]{16}", forged.headers["x-request-id"])


def test_unknown_host_names_are_rejected_on_the_loopback(served: Served) -> None:
    for host in ("localhost", "localhost:7860", "127.0.0.1:7860", "[::1]:80", "LOCALHOST"):
        assert served.client.get("/healthz", headers={"Host": host}).status_code == 200
    for host in ("example.org", "localhost.example.org", "127.0.0.1.nip.io:7860", ""):
        _check_problem(served.client.get("/v1/stats", headers={"Host": host}), 421)


def test_the_docs_page_loads_nothing_from_other_hosts(served: Served) -> None:
    page = served.client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(loaded) >= 3
    for address in loaded:
        assert address.startswith("/docs/")
        assert served.client.get(address).status_code == 200
    assert "https://" not in page.text
    assert "connect-src 'self'" in page.headers["content-security-policy"]


def test_metrics(served: Served) -> None:
    served.client.post("/v1/search", content=served.files[0].data, headers=BYTES)
    text = served.client.get("/metrics").text
    for stage in ("decode", "queue", "embed", "search"):
        count = re.search(rf'hardrank_stage_seconds_count{{stage="{stage}"}} ([\d.]+)', text)
        assert count is not None
        assert float(count[1]) >= 1
    assert 'hardrank_index_items{model="robust"} 30.0' in text
    assert "hardrank_pending 0.0" in text
    assert "hardrank_ready 1.0" in text
    assert 'hardrank_requests_total{method="POST",route="/v1/search",status="200"}' in text
    assert "hardrank_batch_images_bucket" in text
    assert 'hardrank_rejections_total{reason="overload"}' in text
    served.client.request("BREW", "/v1/search")
    assert "BREW" not in served.client.get("/metrics").text


def test_metrics_can_be_switched_off(tmp_path: Path, engine: Engine) -> None:
    with serve(tmp_path, (engine,), settings=Settings(metrics=False)) as served:
        assert served.client.get("/metrics").status_code == 404


def test_limits_of_bodies_images_and_queries(tmp_path: Path, engine: Engine) -> None:
    limits = Limits(
        body_bytes=20_000, image_bytes=15_000, image_side=100, image_pixels=5_000, batch_queries=3, results=5
    )
    with serve(tmp_path, (engine,), settings=Settings(limits=limits)) as served:
        client, small = served.client, served.files[0].data

        def search(content: Any) -> Any:
            return client.post("/v1/search?k=1", content=content, headers=BYTES)

        _check_problem(search(b"x" * 20_001), 413)
        _check_problem(search(b"x" * 1000 for _ in range(30)), 413)  # streamed, without Content-Length
        _check_problem(search(small + b"\0" * 15_000), 413)
        _check_problem(search(encoded(Image.new("L", (101, 2)))), 413)
        _check_problem(search(encoded(Image.new("L", (80, 80)))), 413)
        _check_problem(client.post("/v1/search?k=6", content=small, headers=BYTES), 422)
        four = [("ids", (None, f"item-{n}")) for n in range(4)]
        _check_problem(client.post("/v1/search/batch", files=four), 422)
        assert client.post("/v1/search/batch?k=1", files=four[:3]).status_code == 200
        assert 'hardrank_rejections_total{reason="too_large"} 5.0' in client.get("/metrics").text


@pytest.mark.parametrize(("results", "most"), [(5, 5), (1000, 8)])
def test_every_text_states_the_limit_of_k(
    results: int, most: int, tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results are limited by an option and by the items of the smallest index."""
    with serve(tmp_path, (engine,), count=8, settings=Settings(limits=Limits(results=results))) as served:
        data = served.files[0].data
        assert served.client.post(f"/v1/search?k={most}", content=data, headers=BYTES).status_code == 200
        refused = served.client.post(f"/v1/search?k={most + 1}", content=data, headers=BYTES)
        assert f"from 1 to {most}" in refused.json()["detail"]
        assert served.client.get("/v1/stats").json()["limits"]["results"] == results
    [k] = [one for one in document()["paths"]["/v1/search"]["post"]["parameters"] if one["name"] == "k"]
    assert "maximum" not in json.dumps(k)
    [row] = [line for line in (ROOT / "docs/api.md").read_text("utf-8").splitlines() if line.startswith("| `k` |")]
    with pytest.raises(SystemExit):
        app.main(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    option = re.search(r"--results .*?\(default: (\d+)\)", shown)
    assert option is not None
    assert int(option[1]) == Limits().results
    assert f"`--results`, {Limits().results})" in row
    for text in (k["description"], row):
        assert "number of items of the smallest index" in text
        assert "`limits.results` of `/v1/stats`" in text
    assert "smallest index" in option[0]


@pytest.mark.parametrize(("pixels", "status"), [(80 * 80 - 1, 413), (80 * 80, 200)])
def test_the_limit_of_pixels_lets_larger_images_in(pixels: int, status: int, tmp_path: Path, engine: Engine) -> None:
    with serve(tmp_path, (engine,), count=3, settings=Settings(limits=Limits(image_pixels=pixels))) as served:
        answer = served.client.post("/v1/search", content=encoded(Image.new("RGB", (80, 80))), headers=BYTES)
        assert answer.status_code == status
        assert str(pixels) in answer.text or status == 200


def test_too_many_bytes_in_memory_get_a_429(tmp_path: Path, engine: Engine) -> None:
    with serve(tmp_path, (engine,), settings=Settings(limits=Limits(held_bytes=1000))) as served:
        answer = served.client.post("/v1/search", content=b"x" * 1001, headers=BYTES)
        _check_problem(answer, 429)
        assert answer.headers["retry-after"] == "1"
        # The rejected body is no longer counted.
        _check_problem(served.client.post("/v1/search", content=b"x" * 1000, headers=BYTES), 422)


def test_a_batch_that_is_never_admitted_gets_a_422(tmp_path: Path, engine: Engine) -> None:
    settings = Settings(batching=Batching(pending=4), access=Access(rate=1000, burst=3))
    with serve(tmp_path, (engine,), settings=settings) as served:
        three = [("images", ("x", file.data)) for file in served.files[:3]]
        answer = served.client.post("/v1/search/batch?k=1", files=three)
        _check_problem(answer, 422)
        assert "2 pending queries" in answer.json()["detail"]
        answer = served.client.post("/v1/search/batch?k=1", files=[*three, three[0]])
        _check_problem(answer, 422)
        assert "burst" in answer.json()["detail"]
        assert served.client.post("/v1/search/batch?k=1", files=three[:2]).status_code == 200


def test_roles_of_keys(tmp_path: Path, engine: Engine) -> None:
    keyring, (reader, writer) = make_keyring(reader=KeyRole.READ, writer=KeyRole.WRITE)
    key, other_key = reader["X-API-Key"], writer["X-API-Key"]
    form = {"image": ("x", encoded(picture(5)))}
    with serve(tmp_path, (engine,), keyring=keyring) as served:
        client = served.client
        for address in ("/healthz", "/readyz"):
            assert client.get(address).status_code == 200
            head = client.head(address)
            assert (head.status_code, head.content) == (200, b"")
        for address in ("/metrics", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
            _check_problem(client.get(address), 401)
            assert client.get(address, headers=reader).status_code == 200
        anonymous = client.get("/v1/stats")
        _check_problem(anonymous, 401)
        assert anonymous.headers["www-authenticate"].startswith("Bearer")
        for wrong in ("Bearer wrong", f"Basic {key}", "Bearer ", "Bearer", key):
            _check_problem(client.get("/v1/stats", headers={"Authorization": wrong}), 401)
        for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer {other_key}"}, reader):
            assert client.get("/v1/stats", headers=headers).status_code == 200
        _check_problem(client.put("/v1/items/new", files=form), 401)
        _check_problem(client.put("/v1/items/new", files=form, headers=reader), 403)
        _check_problem(client.delete("/v1/items/item-1", headers=reader), 403)
        assert client.put("/v1/items/new", files=form, headers=writer).status_code == 201
        assert client.delete("/v1/items/new", headers=writer).status_code == 204


def test_the_rate_limit_counts_queries_per_key(tmp_path: Path, engine: Engine) -> None:
    keyring, (one, other) = make_keyring(one=KeyRole.READ, other=KeyRole.READ)
    settings = Settings(access=Access(rate=0.01, burst=4))
    with serve(tmp_path, (engine,), settings=settings, keyring=keyring) as served:
        client = served.client
        ids = [("ids", (None, f"item-{n}")) for n in range(3)]
        assert client.post("/v1/search/batch?k=1", files=ids, headers=one).status_code == 200
        assert client.get("/v1/stats", headers=one).status_code == 200
        answer = client.get("/v1/stats", headers=one)
        _check_problem(answer, 429)
        assert 90 <= int(answer.headers["retry-after"]) <= 101
        assert client.get("/v1/stats", headers=other).status_code == 200
        statuses = [client.get("/v1/stats", headers={"X-API-Key": f"guess {n}"}).status_code for n in range(6)]
        assert statuses == [401, 401, 401, 401, 429, 429]
        assert client.get("/healthz").status_code == 200


def test_cors_only_for_allowed_origins(tmp_path: Path, engine: Engine) -> None:
    preflight = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization",
    }
    with serve(tmp_path, (engine,), settings=Settings(access=Access(cors_origins=("https://example.org",)))) as served:
        answer = served.client.options("/v1/items/x", headers=preflight)
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        other = served.client.options("/v1/items/x", headers={**preflight, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def _check_problem(answer: Any, status: int) -> None:
    """Check that a response is a problem with a detail and without a path."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert len(problem["detail"]) > 20
    assert not re.search(r"/(tmp|home|usr|root|var|opt|srv)/", problem["detail"])


def _add_large_items(client: TestClient, headers: dict[str, str]) -> None:
    for number in range(20):
        files = {"image": encoded(picture(number))}
        form = {"metadata": json.dumps({"text": "x" * 15_000})}
        answer = client.put(f"/v1/items/large-{number}", files=files, data=form, headers=headers)
        assert answer.status_code == 201


def test_large_responses_count_for_the_rate_limit(tmp_path: Path, engine: Engine) -> None:
    keyring, (writer, searcher, reader) = make_keyring(writer=KeyRole.WRITE, searcher=KeyRole.READ, reader=KeyRole.READ)
    noise = Image.effect_noise((600, 600), 99)
    large = Painted(id="item-99", label="red", data=encoded(noise, compress_level=0), path=tmp_path / "large.png")
    (tmp_path / "large.png").write_bytes(large.data)
    with serve(tmp_path, (engine,), settings=Settings(access=Access(rate=0.01, burst=30)), keyring=keyring) as served:
        client = served.client
        served.service.models["benign"].index.add([new_item(large, engine)])
        _add_large_items(client, writer)
        # 300 KB each, two requests; the batch of two queries is three.
        two = [("ids", (None, "large-1")), ("ids", (None, "no"))]
        batch = client.post("/v1/search/batch?k=50", files=two, headers=searcher)
        answer, unknown = batch.json()["answers"]
        assert len(answer["answer"]["models"]["benign"]["matches"]) == 50
        assert unknown["problem"]["status"] == 404
        assert int(batch.headers["content-length"]) == len(batch.content) > 2**18
        searches = [client.get("/v1/search?id=large-1&k=50", headers=searcher) for _ in range(15)]
        assert [answer.status_code for answer in searches] == [200] * 14 + [429]
        images = [client.get("/v1/items/item-99/image", headers=reader) for _ in range(16)]
        assert images[0].content == large.data
        assert [answer.status_code for answer in images] == [200] * 15 + [429]  # 360 KB each


def test_an_answer_beyond_the_space_for_responses_gets_a_429(tmp_path: Path, engine: Engine) -> None:
    settings = Settings(limits=Limits(body_bytes=2**17, held_bytes=2**17))
    with serve(tmp_path, (engine,), settings=settings) as served:
        client = served.client
        _add_large_items(client, {})
        assert client.get("/v1/search?id=large-1&k=5").status_code == 200
        _check_problem(client.get("/v1/search?id=large-1&k=50"), 429)


def test_pending_queries_and_deletions_are_counted_by_key(tmp_path: Path, engine: Engine) -> None:
    keyring, headers = make_keyring(one=KeyRole.WRITE, other=KeyRole.WRITE)
    settings = Settings(batching=Batching(pending=2))
    with serve(tmp_path, (engine,), settings=settings, keyring=keyring) as served:
        client, data = served.client, served.files[0].data
        with served.service.admission.enter(caller="key one"):
            searches = [client.post("/v1/search?k=1", content=data, headers={**BYTES, **own}) for own in headers]
            deletions = [client.delete("/v1/items/item-1", headers=own) for own in headers]
    assert [answer.status_code for answer in searches + deletions] == [429, 200, 429, 204]


@pytest.mark.parametrize("name", ["delete", "image"])
@pytest.mark.anyio
async def test_the_work_of_a_client_that_is_gone_leaves_the_queue(name: str) -> None:
    cancelled: list[str] = []

    class WaitingService:
        async def delete(self, id: str, *, caller: str = "") -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(id)
                raise

        image = delete

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    unused: Any = None
    endpoints = Endpoints(cast(Any, WaitingService()), unused, unused, unused, unused, version="1")
    request = Request({"type": "http", "state": {"caller": Caller(name="key one", role=KeyRole.WRITE)}}, receive)
    with pytest.raises(ClientGoneError):
        await getattr(endpoints, name)("item-1", request)
    await asyncio.sleep(0)
    assert cancelled == ["item-1"]


def test_many_labels_count_for_the_rate_limit(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"label-{number:0>120}": number for number in range(10_000)}
    with serve(tmp_path, (engine,), settings=Settings(access=Access(rate=0.01, burst=12))) as served:
        monkeypatch.setattr(served.service.models["benign"].index, "labels", lambda: many)
        answers = [served.client.get("/v1/labels") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]  # 1.3 MB each, six requests
    assert answers[0].json() == {"labels": many}
