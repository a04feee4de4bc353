"""Attacks by ids alone: a model in the process and a live server give the same, queries are counted, runs continue."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardrank.audit_app import probe
from hardrank.audit_app.blackbox.ranks import RankSearch
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.rank_only.block import square_pixels
from hardrank.audit_app.rank_only.figures import RANK_FIGURES, measure_lists
from hardrank.audit_app.rank_only.http_client import ApiClient, ClientOptions, check_address
from hardrank.audit_app.rank_only.http_system import HttpSystem, hardrank_api
from hardrank.audit_app.rank_only.result import read_result
from hardrank.audit_app.rank_only.runner import RankOnlyOptions, run_rank_only
from hardrank.audit_app.rank_only.systems import LocalSystem
from hardrank.models.progress import StageProgress
from hardrank.serving.engine import Device, Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.models import Model
from hardrank.serving.settings import Access, Settings
from tests.audit_app.indexed import make_index
from tests.serving.page_server import PageServer, page_server

OPTIONS = RankOnlyOptions(
    search=RankSearch(queries=40, explored=10), images=4, side=36, block=3, epsilon=16 / 255, seed=1
)


@pytest.fixture(scope="module")
def local(served: list[ServedGallery]) -> LocalSystem:
    return LocalSystem(served=served[0])


@pytest.fixture(scope="module")
def server(tiny_zoo: list[Path], gratings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """The API on a real port, without the page."""
    folder = make_index(tmp_path_factory.mktemp("index") / "benign", tiny_zoo[0], gratings)
    with SearchIndex.open(folder) as index:
        engine = Engine(tiny_zoo[0], threads=1, device=Device.CPU)
        model = Model(key="benign", engine=engine, index=index)
        with page_server([model], Settings(page=False, access=Access(rate=0))) as one:
            yield one


def live(server: PageServer) -> HttpSystem:
    client = ApiClient(address=check_address(server.url, owned_host=None), options=ClientOptions(rate=0))
    return HttpSystem(client=client, adapter=hardrank_api(client, model=None))


class Counted:
    """A system that keeps the files."""

    def __init__(self, system: LocalSystem) -> None:
        self.system, self.files = system, list[bytes]()
        self.size, self.most_results = system.size, system.most_results

    def search(self, files: Sequence[bytes], k: int) -> list[list[str]]:
        self.files += files
        return self.system.search(files, k)

    def describe(self) -> dict[str, Any]:
        return self.system.describe()


@pytest.mark.parametrize("visible", [0, 8])
def test_a_live_server_gives_what_the_model_gives(
    visible: int, server: PageServer, local: LocalSystem, tmp_path: Path
) -> None:
    options = replace(OPTIONS, search=replace(OPTIONS.search, visible=visible))
    gallery = local.served.gallery
    server.service.searches.clear()
    counted = Counted(local)
    here = run_rank_only(counted, gallery, options, tmp_path / "here.json", command="a test")
    there = run_rank_only(live(server), gallery, options, tmp_path / "there.json", command="a test")
    assert there.images == here.images
    assert there.summary == here.summary
    arrived = server.service.images()  # those of single searches; batches are not recorded
    assert arrived
    assert set(arrived) <= set(counted.files)
    assert there.system["adapter"] == "hardrank benign"
    assert here.system["model"] == "tiny-benign"


@pytest.mark.parametrize("attack", list(RANK_FIGURES))
def test_queries_are_counted_exactly_and_the_budgets_hold(attack: str, local: LocalSystem, tmp_path: Path) -> None:
    system, gallery = Counted(local), local.served.gallery
    options = replace(OPTIONS, attack=attack, targets=3, search=replace(OPTIONS.search, visible=8))
    result = run_rank_only(system, gallery, options, tmp_path / "out.json", command="a test")
    measured = 4 * (3 if attack == "TMA" else 2)  # benign, attacked, and the list of TMA's target
    assert sum(one.queries for one in result.images) == len(system.files) - measured
    assert max(one.queries for one in result.images) <= 40
    benign = [square_pixels(gallery.read(gallery.row(one.id)), 36).astype(int) for one in result.images]
    for data in system.files:
        pixels = square_pixels(data, 36).astype(int)
        away = min(np.abs(pixels - one).max() for one in benign)
        assert away <= 16 or any(np.array_equal(pixels, square_pixels(gallery.read(row), 36)) for row in range(64))
    assert result.finished
    assert read_result(tmp_path / "out.json") == result


def test_the_figures_move_towards_the_goal(local: LocalSystem, tmp_path: Path) -> None:
    for attack in RANK_FIGURES:
        options = replace(OPTIONS, attack=attack, targets=2, images=4, search=RankSearch(queries=80))
        result = run_rank_only(local, local.served.gallery, options, tmp_path / f"{attack}.json", command="a test")
        assert result.summary is not None
        moved = result.summary.mean_after - result.summary.mean_before
        assert (moved < 0) == (attack in {"QA+", "ES"}), (attack, moved)
        assert all(one.loss_after <= one.loss_before for one in result.images)


def test_without_a_budget_nothing_changes(local: LocalSystem, tmp_path: Path) -> None:
    system = Counted(local)
    result = run_rank_only(
        system, local.served.gallery, replace(OPTIONS, epsilon=0.0), tmp_path / "out.json", command="a test"
    )
    assert all(one.before == one.after and one.queries == 1 for one in result.images)
    assert len(set(system.files)) == 4


def test_an_interrupted_run_continues_to_the_same_result(local: LocalSystem, tmp_path: Path) -> None:
    gallery = local.served.gallery
    whole = run_rank_only(local, gallery, OPTIONS, tmp_path / "whole.json", command="a test")
    path, system = tmp_path / "parts.json", Counted(local)

    def stop(progress: StageProgress) -> None:
        if len(read_result(path).images) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rank_only(system, gallery, OPTIONS, path, command="a test", on_progress=stop)
    assert not read_result(path).finished
    sent = len(system.files)
    assert run_rank_only(system, gallery, OPTIONS, path, command="a test") == whole
    assert len(system.files) - sent <= 42
    with pytest.raises(AuditError, match="seed differ"):
        run_rank_only(local, gallery, replace(OPTIONS, seed=2), path, command="a test")
    path.write_text("{}")
    with pytest.raises(AuditError, match="not a result"):
        run_rank_only(local, gallery, OPTIONS, path, command="a test")


def test_ids_that_the_gallery_lacks_are_kept_when_a_run_continues(local: LocalSystem, tmp_path: Path) -> None:
    class Renamed(Counted):
        def search(self, files: Sequence[bytes], k: int) -> list[list[str]]:
            return [["renamed", *ids[1:]] for ids in super().search(files, k)]

    options, path = replace(OPTIONS, images=1), tmp_path / "out.json"
    result = run_rank_only(Renamed(local), local.served.gallery, options, path, command="a test")
    assert result.unknown_ids == ("renamed",)
    assert run_rank_only(Renamed(local), local.served.gallery, options, path, command="a test") == result


def test_ranks_of_hidden_targets_are_lower_bounds() -> None:
    lists = torch.tensor([[3, 1, 9, 9], [5, 6, 7, 8]])
    found = measure_lists(lists, torch.tensor([[1, 3], [5, 2]]), lists, attack="QA+", size=40)
    assert found.values.tolist() == pytest.approx([100 * 0.5 / 40, 100 * 2 / 40])
    assert found.hidden.tolist() == [False, True]


def test_the_command_attacks_a_model_and_a_server(
    server: PageServer,
    tiny_zoo: list[Path],
    gratings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["--gallery", str(gratings), "--images", "3", "--queries", "20", "--threads", "1", "--seed", "1"]
    out = tmp_path / "here.json"
    assert probe.main(["--model", str(tiny_zoo[0]), "--out", str(out), *common]) == 0
    assert "3 images, mean rank of the targets" in capsys.readouterr().out
    there = ["--url", server.url, "--out", str(tmp_path / "there.json"), *common, "--side", "36", "--rate", "0"]
    assert probe.main(there) == 0
    first, second = json.loads(out.read_text()), json.loads((tmp_path / "there.json").read_text())
    assert first["images"] == second["images"]
    assert first["settings"]["search"]["queries"] == 20
    assert probe.main([*there[:-1], "-1"]) == 2
    refused = ["--url", "http://search.example.org", "--out", str(tmp_path / "x.json"), *common]
    assert probe.main(refused) == 2
    assert "--owned-host search.example.org" in capsys.readouterr().err
