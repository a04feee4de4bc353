"""Whenever a writer is killed, the index holds what it acknowledged, and nothing incomplete."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.manifest import AnnKind, BackendOptions
from tests.serving.bundles import DIMENSION
from tests.serving.conftest import make_manifest, new_items, unit_vectors
from tests.serving.index.changing_process import vector_of

SCRIPT = Path(__file__).with_name("changing_process.py")


def _killed(folder: Path, seed: int, *, after: str, seconds: float) -> list[str]:
    """Let a process change the index, kill it some time after it first printed `after`; return what it printed."""
    command = [sys.executable, str(SCRIPT), str(folder), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert first.startswith("begin"), process.stderr.read()
        if after == "done":
            first += process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        said = first + process.stdout.read()
    return said.split("\n")[:-1]  # without a line that it had not finished, whose change had not begun


def _follow(held: dict[str, int], said: list[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Return id → turn after all acknowledged changes, and after the change in progress, had it been made."""
    for line, following in zip(said, [*said[1:], ""], strict=True):
        if not line.startswith("begin"):
            continue
        change = json.loads(line.removeprefix("begin "))
        after = {id: turn for id, turn in held.items() if id not in set(change["deleted"])}
        after |= dict.fromkeys(change["put"], change["turn"])
        if following != "done":
            return held, after
        held = after
    return held, held


def _check(folder: Path, either: tuple[dict[str, int], dict[str, int]]) -> dict[str, int]:
    """Check that the index holds one state or the other completely, and return it."""
    with SearchIndex.open(folder, maintenance=False) as index:
        ids = index.ids(count=100_000)
        held = {id: int(str(index.item(id).metadata["turn"])) for id in ids}
        assert held in either
        assert index.size == len(held)
        for id, turn in held.items():
            assert np.array_equal(index.vector(id), vector_of(id, turn, DIMENSION))
        for id in ids[:: max(1, len(ids) // 20)]:
            (best,) = index.search(index.vector(id)[None], 1)[0]
            assert best.score == pytest.approx(1, abs=1e-6)
            assert (best.item.id, best.item.label) == (id, f"turn-{held[id]}")
        assert sum(index.labels().values()) == len(held)
    return held


def _check_kills(folder: Path, structure: AnnKind, kills: int) -> None:
    options = BackendOptions(structure=structure, tail=100)
    SearchIndex.create(folder, manifest=make_manifest(backend=options)).close()
    generator = np.random.default_rng(7)
    held: dict[str, int] = {}
    made = 0
    for seed in range(1, kills + 1):
        # The first makes a change for certain, on the slowest disk; others may be killed before theirs is made.
        after = "done" if seed == 1 else "begin"
        said = _killed(folder, seed, after=after, seconds=float(generator.uniform(0.02, 0.5)))
        made += said.count("done")
        held = _check(folder, _follow(held, said))
    assert made
    with SearchIndex.open(folder, writable=True, maintenance=False) as index:
        index.compact(threads=1)
        names = {path.name for path in folder.iterdir()}
        assert sum(name.startswith(("vectors", ".vectors")) for name in names) <= 2
    _check(folder, (held, held))


@pytest.mark.parametrize("structure", [AnnKind.FLAT, AnnKind.IVF_SQ8])
def test_nothing_acknowledged_is_lost(tmp_path: Path, structure: AnnKind) -> None:
    _check_kills(tmp_path / "index", structure, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("structure", [AnnKind.FLAT, AnnKind.IVF_SQ8, AnnKind.HNSW])
def test_nothing_acknowledged_is_lost_by_a_hundred_kills(tmp_path: Path, structure: AnnKind) -> None:
    _check_kills(tmp_path / "index", structure, kills=100)


def test_an_unfinished_write_is_overwritten(tmp_path: Path) -> None:
    """Bytes past the last commit, and files of an unfinished compaction, written here by hand, do no harm."""
    index = SearchIndex.create(tmp_path / "index", manifest=make_manifest())
    vectors = unit_vectors(30)
    index.add(new_items(vectors[:10]))
    index.close()
    path = index.folder / "vectors.f32"
    whole = bytearray(path.read_bytes())
    whole[10 * 4 * DIMENSION :] = b"\xff" * (len(whole) - 10 * 4 * DIMENSION)
    path.write_bytes(whole)
    (index.folder / ".vectors-0002.f32.1.unfinished").write_bytes(b"half")
    (index.folder / "vectors-0002.f32").write_bytes(b"half")
    with SearchIndex.open(index.folder, writable=True, maintenance=False) as again:
        assert again.size == 10
        again.add(new_items(vectors[10:], start=10))
        for number in range(30):
            assert np.array_equal(again.vector(f"item-{number}"), vectors[number])
        again.delete(["item-0"])
        again.compact(threads=1)
        assert again.search(vectors[29:], 29)[0][0].item.id == "item-29"
    assert sorted(path.name for path in index.folder.glob("*vectors*")) == ["vectors-0002.f32", "vectors-0002.rows"]


def test_saving_beside_a_compaction_keeps_the_ann_index_in_use(tmp_path: Path) -> None:
    """Another process that has not yet seen the compaction saves an index of the former vectors: it is discarded."""
    manifest = make_manifest(backend=BackendOptions(structure=AnnKind.HNSW, tail=10))
    vectors = unit_vectors(1500)
    with SearchIndex.create(tmp_path / "index", manifest=manifest, maintenance=False) as index:
        index.add(new_items(vectors))
        with SearchIndex.open(index.folder, writable=True, maintenance=False) as other:
            index.delete(["item-0"])
            index.compact(threads=1)
            saved = {path.name for path in (index.folder / "ann").iterdir()}
            other.optimize(threads=1)
            assert {path.name for path in (index.folder / "ann").iterdir()} == saved
        with SearchIndex.open(index.folder, maintenance=False) as again:
            assert again.search(vectors[7:8], 1)[0][0].item.id == "item-7"
