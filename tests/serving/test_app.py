"""The command `serve`: its output, access rules, errors and shutdown."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import sleep

import httpx
import pytest

from hardrank.serving import app
from hardrank.serving.api.auth import KeyRole, key_entry, new_key, write_keys
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.settings import Access, Anonymous, Network, Settings
from tests.serving.process import ROOT, announced, running, start
from tests.serving.raw_clients import read_status, search_counts, send_search, slow_image
from tests.serving.served import Painted, encoded, make_source, new_item, paint, picture
from tests.waiting import PATIENCE_S, patient_client, until

BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def files() -> list[Painted]:
    return paint(20)


@pytest.fixture(scope="module")
def sources(
    tmp_path_factory: pytest.TempPathFactory,
    engine: Engine,
    robust_engine: Engine,
    benign_bundle: Path,
    robust_bundle: Path,
    files: list[Painted],
) -> list[str]:
    """Values of --model for two models."""
    folder = tmp_path_factory.mktemp("indexes")
    return [
        make_source(folder / "benign", benign_bundle, engine, files),
        make_source(folder / "robust", robust_bundle, robust_engine, files),
    ]


def test_announces_models_shows_changes_by_other_processes_and_ends_on_ctrl_c(
    sources: list[str], engine: Engine, files: list[Painted]
) -> None:
    newcomer = paint(21)[20]
    folder = Path(sources[0].partition("=")[2])
    with running(sources, "--no-page") as server:
        assert "benign: tiny-benign (regular[S]), 20 items" in server.output
        assert "robust: tiny-robust (HM[S,g_LGA]&ICS), 20 items" in server.output
        assert f"{server.url}/docs" in server.output
        assert "http://127.0.0.1:" in server.output
        answer = server.client.post("/v1/search", content=files[3].data, headers=BYTES)
        assert answer.json()["models"]["robust"]["matches"][0]["id"] == "item-3"

        def first() -> str:
            found = server.client.post("/v1/search?k=1&model=benign", content=newcomer.data, headers=BYTES).json()
            return str(found["models"]["benign"]["matches"][0]["id"])

        with SearchIndex.open(folder, writable=True) as index:
            index.add([new_item(newcomer, engine)])
            until(lambda: first() == newcomer.id)
            index.delete([newcomer.id])
            until(lambda: first() != newcomer.id)
        assert server.stop(signal.SIGINT) == 0
        rest = server.process.stdout.read() if server.process.stdout else ""
        assert "Traceback" not in rest


def test_sigterm_answers_accepted_requests(sources: list[str]) -> None:
    patience = ["--drain-seconds", str(PATIENCE_S)]
    slow = slow_image()
    with running(sources, "--no-page", "--rate", "0", "--decoders", "1", *patience) as server:
        callers = [send_search(server.url, slow) for _ in range(6)]
        until(lambda: search_counts(server.client).arrived == len(callers))
        unanswered = search_counts(server.client).pending
        assert server.stop() == 0
        assert [read_status(connection) for connection in callers] == [200] * len(callers)
        assert unanswered > 1  # else the test saw nothing


def test_the_page_needs_a_key_if_the_api_does_and_does_not_block_the_shutdown(
    sources: list[str],
) -> None:
    key = new_key()
    with (
        running(sources, "--drain-seconds", "3600", environment={"HARDRANK_READ_KEYS": key}) as server,
        patient_client(server.url) as client,
    ):
        assert "page  http://127.0.0.1:" in server.output
        assert client.get("/").status_code == 200
        assert client.get("/config").status_code == 401
        assert client.post("/login", data={"username": "anna", "password": "guess"}).status_code == 400
        assert client.post("/login", data={"username": "anna", "password": key}).status_code == 200
        [(name, token)] = client.cookies.items()
        seen = server.client.get("/config", headers={"Cookie": f"{name}={token}"})
        assert seen.status_code == 200
        assert client.get("/v1/nothing").headers["content-type"] == "application/problem+json"
        headers = {"Cookie": f"{name}={token}"}
        # The page has no sessions to keep alive, so it holds no stream open.
        assert server.client.get("/gradio_api/heartbeat/abc", headers=headers).status_code == 404
        assert server.stop() == 0


def test_ready_only_when_searches_are_answered(sources: list[str], files: list[Painted]) -> None:
    process = start("--model", sources[0], "--port", "0", "--no-page")
    try:
        url, _ = announced(process)
        seen: list[tuple[int, int]] = []
        with patient_client(url) as client:
            while not seen or seen[-1][0] != 200:
                try:
                    ready = client.get("/readyz").status_code
                    search = client.post("/v1/search?k=1", content=files[0].data, headers=BYTES).status_code
                    seen.append((ready, search))
                except httpx.TransportError:
                    sleep(0.001)
        assert set(seen) <= {(503, 503), (503, 200), (200, 200)}
        assert seen[-1] == (200, 200)
    finally:
        process.kill()
        process.wait()


def test_keys_of_a_read_only_server_come_from_the_file_and_the_environment(sources: list[str], tmp_path: Path) -> None:
    reader, writer = new_key(), new_key()
    write_keys(tmp_path / "keys.json", [key_entry("anna", KeyRole.READ, reader)])
    with running(
        sources[:1],
        "--no-page",
        "--read-only",
        "--api-keys",
        str(tmp_path / "keys.json"),
        environment={"HARDRANK_WRITE_KEYS": writer},
    ) as server:
        statuses = [
            server.client.get("/v1/stats", headers=headers).status_code
            for headers in ({}, {"X-API-Key": reader}, {"Authorization": f"Bearer {writer}"})
        ]
        assert statuses == [401, 200, 200]
        image = {"image": ("x", encoded(picture(1)))}
        answer = server.client.put("/v1/items/new", files=image, headers={"X-API-Key": writer})
        assert answer.status_code == 403
        assert answer.json()["type"] == "urn:hardrank:problem:read-only"
        assert str(ROOT.parent) not in answer.text


def test_without_keys_off_the_loopback_it_warns_and_is_read_only(sources: list[str]) -> None:
    with running(sources[:1], "--no-page", "--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert server.client.get(f"{url}/v1/stats", headers={"Host": "any.example"}).status_code == 200
        assert server.client.delete(f"{url}/v1/items/item-1").status_code == 401
        server.process.terminate()
        assert server.process.stdout is not None
        assert "warning" in server.output + server.process.stdout.read()


@pytest.mark.parametrize(
    ("network", "access", "role"),
    [
        (Network(), Access(), KeyRole.WRITE),
        (Network(host="localhost"), Access(), KeyRole.WRITE),
        (Network(host="::1"), Access(), KeyRole.WRITE),
        (Network(host="0.0.0.0"), Access(), KeyRole.READ),
        (Network(host="::"), Access(), KeyRole.READ),
        (Network(host="example.org"), Access(), KeyRole.READ),
        (Network(host="0.0.0.0"), Access(anonymous=Anonymous.WRITE), KeyRole.WRITE),
        (Network(), Access(anonymous=Anonymous.NOTHING), KeyRole.NOTHING),
    ],
)
def test_role_of_callers_without_a_key(network: Network, access: Access, role: KeyRole) -> None:
    assert app.keyring_of(Settings(network=network, access=access)).anonymous is role


def test_callers_without_a_key_have_no_role_if_there_are_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDRANK_READ_KEYS", new_key())
    assert app.keyring_of(Settings()).anonymous is KeyRole.NOTHING


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([], "--model BUNDLE=INDEX"),
        (["--model", "nothing"], "BUNDLE=INDEX"),
        (["--model", "nothing=nowhere"], "nothing does not exist"),
        (["--model", "new [old] x[/]=nowhere"], "new [old] x[/]"),
        (["--model", "{0}", "--model", "{0}"], "KEY:BUNDLE=INDEX"),
        (["--model", "{0}", "--api-keys", "nothing.json"], "keys.py add"),
        (["--model", "{wrong}"], "model"),
        (["--model", "{bundle}=nowhere"], "nowhere"),
        (["--model", "{0}", "--port", "70000"], "65535"),
        (["--model", "{0}", "--batch", "0"], "batch"),
        (["--model", "{0}", "--body-bytes", "0"], "body_bytes"),
        (["--model", "{0}", "--rate", "nan"], "rate"),
    ],
)
def test_invalid_arguments_are_named_without_a_traceback(
    sources: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], cause: str
) -> None:
    bundles, indexes = zip(*(source.split("=") for source in sources), strict=True)
    values = {"wrong": f"{bundles[0]}={indexes[1]}", "bundle": bundles[0]}
    assert app.main([argument.format(*sources, **values) for argument in [*arguments, "--no-page"]]) == 2
    captured = capsys.readouterr()
    assert cause in captured.err
    assert "Traceback" not in captured.err


def test_a_port_in_use_is_named_before_models_load(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert app.main(["--model", "missing=missing", "--no-page", "--port", str(port)]) == 2
    assert str(port) in capsys.readouterr().err


def test_the_help_has_examples_and_explains_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        app.main(["--help"])
    shown = capsys.readouterr().out
    for words in ("Examples:", "--model", "--host", "--api-keys", "curl", "429"):
        assert words in shown


def test_serving_imports_no_torch() -> None:
    code = (
        "import json, sys, hardrank.serving.app, hardrank.serving.build, hardrank.serving.page.mount\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [name for name in json.loads(shown.splitlines()[-1]) if name.partition(".")[0] == "torch"]
