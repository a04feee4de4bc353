"""Bundles: written as a whole, verified by hash, refused with a reason."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from hardrank.models.bundle import (
    ONNX,
    WEIGHTS,
    BundleError,
    load_card,
    load_embedder,
    preprocessing_of,
    save_bundle,
    verify_bundle,
)
from hardrank.models.card import ArchitectureEntry, Card, FileEntry, PreprocessingEntry
from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.preprocessing import Fit, Interpolation, Preprocessing
from hardrank.trainer.export import export_onnx, save_weights

SMALL = Architecture(backbone="small-resnet", dimension=8, image_size=32)


def make_card(files: dict[str, FileEntry], *, run_id: str = "one") -> Card:
    return Card(
        name="test",
        run_id=run_id,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        command="python trainer/run.py",
        defense="regular[S]",
        recipe="demo",
        config={},
        seeds={"seed": 0},
        architecture=ArchitectureEntry(backbone=SMALL.backbone, dimension=SMALL.dimension, image_size=SMALL.image_size),
        preprocessing=PreprocessingEntry(resize=36, crop=32),
        data={},
        metrics={"recall@1": 0.5},
        robustness=None,
        parity={},
        versions={},
        hardware={},
        durations={},
        files=files,
    )


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    torch.manual_seed(0)
    return build_embedder(SMALL).eval()


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Callable[[Path], None]:
    """Writes the files of the embedder, exported once."""
    exported = tmp_path_factory.mktemp("exported")
    export_onnx(embedder, exported / ONNX)
    save_weights(embedder, exported / WEIGHTS)

    def copy(folder: Path) -> None:
        for name in (ONNX, WEIGHTS):
            shutil.copy(exported / name, folder)

    return copy


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, write: Callable[[Path], None]) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "test"
    save_bundle(folder, make_card, write)
    return folder


@pytest.fixture
def bundle(tmp_path: Path, saved: Path) -> Path:
    """A copy for each test, since some damage it."""
    return shutil.copytree(saved, tmp_path / "zoo" / "test")


def test_save_and_load(bundle: Path, embedder: Embedder) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == ["README.md", "card.json", ONNX, WEIGHTS]
    assert verify_bundle(bundle).files.keys() == {ONNX, WEIGHTS}
    assert preprocessing_of(load_card(bundle)) == Preprocessing(resize=36, crop=32)
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(load_embedder(bundle)(images), embedder(images))


def test_a_bundle_of_the_first_version_loads_as_before(bundle: Path, embedder: Embedder) -> None:
    """Its card lacks the fields that came later; the network subtracted the mean of ImageNet, whatever its weights."""

    def remove_later_fields(card: dict[str, Any]) -> None:
        del card["initial_weights"], card["training"]
        del card["architecture"]["mean"], card["architecture"]["std"]
        del card["preprocessing"]["fit"], card["preprocessing"]["interpolation"]

    _edit(bundle, remove_later_fields)
    card = verify_bundle(bundle)
    assert preprocessing_of(card) == Preprocessing(
        resize=36, crop=32, fit=Fit.SQUARE, interpolation=Interpolation.BILINEAR
    )
    assert card.architecture.mean == (0.485, 0.456, 0.406)
    assert card.architecture.std == (0.229, 0.224, 0.225)
    loaded = load_embedder(bundle)
    assert loaded.architecture == SMALL
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(loaded(images), embedder(images))


def test_a_failed_write_leaves_nothing(tmp_path: Path, embedder: Embedder) -> None:
    def fail(folder: Path) -> None:
        (folder / ONNX).write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_bundle(tmp_path / "test", make_card, fail)
    assert list(tmp_path.iterdir()) == []


def test_another_runs_bundle_is_replaced_only_with_overwrite(bundle: Path, write: Callable[[Path], None]) -> None:
    def other(files: dict[str, FileEntry]) -> Card:
        return make_card(files, run_id="two")

    with pytest.raises(BundleError, match=r"another run; give --overwrite"):
        save_bundle(bundle, other, write)
    assert load_card(bundle).run_id == "one"
    save_bundle(bundle, make_card, write)  # its own run replaces it
    save_bundle(bundle, other, write, overwrite=True)
    assert load_card(bundle).run_id == "two"
    assert len(list(bundle.parent.iterdir())) == 1


def test_a_bundle_whose_replacement_was_killed_is_restored_on_reading(bundle: Path, embedder: Embedder) -> None:
    bundle.rename(bundle.with_name(".test.former"))  # the state between the two renames
    assert load_card(bundle).run_id == "one"
    assert verify_bundle(bundle).files.keys() == {ONNX, WEIGHTS}


def test_a_failed_replacement_keeps_the_former_bundle(
    bundle: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def faulty(self: Path, target: Path) -> Path:
        if self.name.endswith(".unfinished"):
            raise OSError("no space")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", faulty)
        with pytest.raises(OSError, match="no space"):
            save_bundle(bundle, make_card, write)
    assert verify_bundle(bundle).run_id == "one"
    assert [path.name for path in bundle.parent.iterdir()] == ["test"]


@pytest.mark.parametrize("name", [ONNX, WEIGHTS])
def test_a_changed_file_is_detected(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} does not match"):
        verify_bundle(bundle)
    with pytest.raises(BundleError, match="does not match"):
        load_embedder(bundle)


def _edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((bundle / "card.json").read_text(encoding="utf-8"))
    change(card)
    (bundle / "card.json").write_text(json.dumps(card), encoding="utf-8")


def test_a_folder_that_does_not_exist_is_named_with_the_place_of_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="zoo/absent does not exist") as relative:
        load_card(Path("zoo/absent"))
    assert str(tmp_path) in str(relative.value)
    with pytest.raises(BundleError, match="absent does not exist;"):
        load_card(tmp_path / "absent")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda bundle: (bundle / "card.json").unlink(), "is not a bundle"),
        (lambda bundle: (bundle / "card.json").write_text("{"), "is damaged"),
        (lambda bundle: (bundle / "card.json").write_text("[]"), "has the schema None"),
        (
            lambda bundle: _edit(bundle, lambda card: card.update(schema_version="hardrank.card/9")),
            "hardrank.card/9",
        ),
        (lambda bundle: _edit(bundle, lambda card: card.update(extra=1)), "does not fit its schema: extra"),
        (lambda bundle: _edit(bundle, lambda card: card.pop("defense")), "does not fit its schema: defense"),
        (lambda bundle: _edit(bundle, lambda card: card["files"].pop(ONNX)), f"does not list {ONNX}"),
        (lambda bundle: (bundle / WEIGHTS).unlink(), f"lacks {WEIGHTS}"),
        (
            lambda bundle: _edit(bundle, lambda card: card["files"].update({"../x": card["files"][ONNX]})),
            r"lacks \.\./x",
        ),
    ],
)
def test_a_damaged_bundle_is_refused_with_the_reason(
    bundle: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(bundle)
    with pytest.raises(BundleError, match=message):
        verify_bundle(bundle)


def test_weights_of_another_architecture_are_refused(bundle: Path) -> None:
    _edit(bundle, lambda card: card["architecture"].update(dimension=9))
    with pytest.raises(BundleError, match="do not fit its architecture"):
        load_embedder(bundle)


def test_mean_and_interpolation_of_a_card_are_those_of_its_network(bundle: Path, embedder: Embedder) -> None:
    def change(card: dict[str, Any]) -> None:
        card["architecture"].update(mean=[0.5, 0.5, 0.5], std=[0.5, 0.25, 0.5])
        card["preprocessing"].update(fit="shortest", interpolation="bicubic")

    _edit(bundle, change)
    loaded = load_embedder(bundle)
    assert loaded.architecture.mean == (0.5, 0.5, 0.5)
    assert loaded.std.flatten().tolist() == [0.5, 0.25, 0.5]
    expected = Preprocessing(resize=36, crop=32, fit=Fit.SHORTEST, interpolation=Interpolation.BICUBIC)
    assert preprocessing_of(load_card(bundle)) == expected


def test_reading_a_card_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, hardrank.models.bundle, hardrank.models.preprocessing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_documented_schema_is_current() -> None:
    """`python -m hardrank.models.card > docs/card.schema.json` writes it."""
    documented = Path(__file__).parents[2] / "docs" / "card.schema.json"
    assert json.loads(documented.read_text(encoding="utf-8")) == Card.model_json_schema()
