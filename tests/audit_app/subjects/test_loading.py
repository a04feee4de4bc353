"""Models under audit: each kind embeds correctly, and anything else is refused."""

import dataclasses
import hashlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hardrank.audit_app.errors import SubjectError
from hardrank.audit_app.subjects.library_models import LibraryWeights, load_library_model
from hardrank.audit_app.subjects.loading import load_subject, load_subjects
from hardrank.audit_app.subjects.model_names import CHECKPOINTS, absolute_model, with_weights
from hardrank.audit_app.subjects.subject import Subject, SubjectKind, SubjectOptions
from hardrank.models.backbones import BackboneError, build_backbone
from hardrank.models.bundle import BundleError, load_embedder
from hardrank.models.network_input import network_input
from hardrank.models.weights_file import WeightsError
from hardrank.serving.engine import Device
from hardrank.trainer.runtime.environment import Precision
from tests.audit_app.onnx_graphs import write_linear

OPTIONS = SubjectOptions(device=Device.CPU, threads=1, precision=Precision.FLOAT32)
RANDOM = dataclasses.replace(OPTIONS, weights=LibraryWeights.RANDOM, size=32)


def some(subject: Subject, count: int = 4) -> torch.Tensor:
    shape = (count, 3, subject.size, subject.size)
    return torch.from_numpy(np.random.default_rng(0).random(shape, dtype=np.float32))


def assert_one_function(subject: Subject) -> None:
    """Check that `judge` and `serve` agree and have norm 1."""
    images = some(subject)
    with torch.no_grad():
        judged = subject.judge(images)
    served = subject.serve(images.numpy())
    assert judged.shape == (4, subject.dimension)
    np.testing.assert_allclose(judged.numpy(), served, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(served, axis=1), 1, atol=1e-5)


def assert_embeds_by_features(subject: Subject, backbone: nn.Module) -> None:
    """Check that embeddings are the normalized features of images with ImageNet's mean and deviation."""
    images = some(subject)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        features = backbone.eval()((images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
        torch.testing.assert_close(subject.judge(images), F.normalize(features, dim=1), atol=1e-4, rtol=1e-4)


def test_a_bundle(tiny_zoo: list[Path]) -> None:
    subject = load_subject(str(tiny_zoo[0]), OPTIONS)
    assert (subject.name, subject.kind, subject.size, subject.dimension) == ("tiny-benign", SubjectKind.BUNDLE, 32, 16)
    assert_one_function(subject)
    images = some(subject).requires_grad_(True)
    (gradient,) = torch.autograd.grad(subject.gradients(images)[:, 0].sum(), images)
    plain = load_embedder(tiny_zoo[0])
    (expected,) = torch.autograd.grad(plain(images)[:, 0].sum(), images)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)
    assert subject.card is not None
    assert subject.describe()["defense"] == "regular[S]"
    assert load_subject(str(tiny_zoo[0] / "card.json"), OPTIONS).sha256 == subject.sha256


def test_bf16_gives_gradients_and_float32_judges(tiny_zoo: list[Path]) -> None:
    subject = load_subject(str(tiny_zoo[0]), dataclasses.replace(OPTIONS, precision=Precision.BF16))
    exact = load_subject(str(tiny_zoo[0]), OPTIONS)
    images = some(subject)
    with torch.no_grad():
        assert not torch.equal(subject.gradients(images), exact.gradients(images))
        assert torch.equal(subject.judge(images), exact.judge(images))
    assert subject.precision.startswith("bf16")


def test_the_default_precision_follows_the_processor(tiny_zoo: list[Path], bf16: bool) -> None:
    subject = load_subject(str(tiny_zoo[0]), dataclasses.replace(OPTIONS, precision=Precision.AUTO))
    stated = dataclasses.replace(OPTIONS, precision=Precision.BF16 if bf16 else Precision.FLOAT32)
    expected = load_subject(str(tiny_zoo[0]), stated)
    images = some(subject)
    with torch.no_grad():
        assert torch.equal(subject.gradients(images), expected.gradients(images))
        assert torch.equal(subject.judge(images), expected.judge(images))
    assert subject.precision == expected.precision


@pytest.mark.parametrize("name", ["timm/resnet10t", "resnet18"])
def test_a_network_of_a_library_embeds_by_its_features(name: str) -> None:
    subject = load_subject(name, RANDOM)
    assert (subject.name, subject.kind, subject.size) == (name, SubjectKind.BACKBONE, 32)
    assert_one_function(subject)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone, width = build_backbone(name, image_size=32)
    assert_embeds_by_features(subject, backbone)
    assert subject.dimension == width
    assert any("random" in note for note in subject.notes)
    assert load_subject(name, RANDOM).sha256 == subject.sha256


def test_weights_of_a_library_come_from_its_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("resnet18", "timm/resnet10t"):
        with pytest.raises(WeightsError, match="not in the cache") as refused:
            load_subject(name, OPTIONS)
        assert re.search(r"--weights random.*--weights FILE", str(refused.value))


def test_cached_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = torchvision.models.get_model("mobilenet_v3_small", weights=None).eval()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(model.state_dict(), cache / weights.url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("the network was asked"))
    loaded = load_library_model("mobilenet_v3_small", weights=LibraryWeights.IMAGENET, size=64)
    assert (loaded.preprocessing.resize, loaded.preprocessing.crop) == (73, 64)
    model.classifier[-1] = torch.nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = model((images - loaded.embedder.mean) / loaded.embedder.std)
        torch.testing.assert_close(loaded.embedder(images), F.normalize(features, dim=1), atol=1e-5, rtol=1e-4)


def test_a_plain_onnx_file(tmp_path: Path) -> None:
    subject = load_subject(str(write_linear(tmp_path / "stranger.onnx")), OPTIONS)
    assert (subject.name, subject.kind, subject.size) == ("stranger", SubjectKind.ONNX, 16)
    assert (subject.preprocessing.resize, subject.preprocessing.crop) == (18, 16)
    assert subject.white_box
    assert subject.precision == "float32"
    assert_one_function(subject)


def test_labels_rename_models_and_names_must_differ(tiny_zoo: list[Path], tmp_path: Path) -> None:
    pair = load_subjects([str(tiny_zoo[0]), f"mine={tiny_zoo[0]}"], OPTIONS)
    assert [subject.name for subject in pair] == ["tiny-benign", "mine"]
    with pytest.raises(SubjectError, match=r"two models are called 'tiny-benign'; rename one: LABEL="):
        load_subjects([str(tiny_zoo[0]), str(tiny_zoo[0])], OPTIONS)
    with pytest.raises(SubjectError, match="no model"):
        load_subjects([], OPTIONS)
    odd = shutil.copytree(tiny_zoo[0], tmp_path / "a=b")
    assert load_subject(str(odd), OPTIONS).name == "tiny-benign"


def test_what_is_not_a_model_is_refused(tiny_zoo: list[Path], tmp_path: Path) -> None:
    for text, error, message in (
        ("models/zoo/nowhere", SubjectError, "does not exist"),
        ("resnet-eighteen", BackboneError, "unknown backbone 'resnet-eighteen'"),
        ("timm/nothing", BackboneError, "timm has no model"),
        (str(tmp_path), BundleError, "is not a bundle"),
    ):
        with pytest.raises(error, match=message):
            load_subject(text, RANDOM)
    changed = shutil.copytree(tiny_zoo[0], tmp_path / "changed")
    with (changed / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="SHA-256"):
        load_subject(str(changed), OPTIONS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is available")
def test_an_unavailable_device_is_refused(tiny_zoo: list[Path], tmp_path: Path) -> None:
    for text in (str(tiny_zoo[0]), str(write_linear(tmp_path / "m.onnx"))):
        with pytest.raises(Exception, match="no CUDA device"):
            load_subject(text, SubjectOptions(device=Device.CUDA))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of resnet10t with a classifier of 7 classes, in a training checkpoint."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = timm.create_model("resnet10t", num_classes=7)
    path = tmp_path_factory.mktemp("checkpoint") / "tuned.pt"
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, path)
    return path


def test_a_checkpoint_is_audited_with_the_input_of_its_network(checkpoint: Path) -> None:
    subject = load_subject(f"mine=timm/resnet10t@{checkpoint}", dataclasses.replace(OPTIONS, size=32))
    assert (subject.name, subject.kind, subject.white_box) == ("mine", SubjectKind.BACKBONE, True)
    assert_one_function(subject)
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    backbone, _ = build_backbone("timm/resnet10t", image_size=32)
    backbone.load_state_dict({k.removeprefix("module."): v for k, v in stored.items() if "fc." not in k})
    assert_embeds_by_features(subject, backbone)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert any(digest in note for note in subject.notes)
    own = load_subject(f"timm/resnet10t@{checkpoint}", OPTIONS)
    assert own.name == "timm/resnet10t@tuned.pt"
    assert own.preprocessing == network_input("timm/resnet10t").preprocessing()


def test_checkpoints_with_code_or_of_other_networks_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    hostile = tmp_path / "hostile.pt"
    torch.save({"state_dict": Hostile()}, hostile)
    with pytest.raises(WeightsError, match="execute code"):
        load_subject(f"timm/resnet10t@{hostile}", OPTIONS)
    assert not marker.exists()
    with pytest.raises(WeightsError, match="do not fit resnet18"):
        load_subject(f"resnet18@{checkpoint}", OPTIONS)
    with pytest.raises(WeightsError, match="cannot read"):
        load_subject(f"resnet18@{tmp_path / 'none.pt'}", OPTIONS)


@pytest.mark.parametrize("ending", CHECKPOINTS)
def test_a_file_of_weights_needs_the_name_of_its_network(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"my_resnet18{ending}"
    path.write_bytes(b"weights")
    with pytest.raises(SubjectError, match=f"resnet18@{re.escape(str(path))}"):
        load_subject(str(path), OPTIONS)


def test_one_file_of_weights_belongs_to_one_network(tiny_zoo: list[Path]) -> None:
    models = with_weights([str(tiny_zoo[0]), "mine=timm/resnet10t"], Path("w.pt"))
    assert models == (str(tiny_zoo[0]), "mine=timm/resnet10t@w.pt")
    assert absolute_model(models[1]) == f"mine=timm/resnet10t@{Path('w.pt').absolute()}"
    for given in ([str(tiny_zoo[0])], ["resnet18", "a=resnet18"], ["resnet18@v.pt"]):
        with pytest.raises(SubjectError, match="NAME@FILE"):
            with_weights(given, Path("w.pt"))


def test_weights_without_classifier_are_resampled_to_another_size(tmp_path: Path) -> None:
    import timm

    network = timm.create_model("test_vit", num_classes=0)
    path = tmp_path / "headless.pt"
    torch.save(network.state_dict(), path)
    options = dataclasses.replace(OPTIONS, size=64)
    assert load_subject(f"timm/test_vit@{path}", options).size == 64
    torch.save({k: v for k, v in network.state_dict().items() if k != "norm.bias"}, path)
    with pytest.raises(WeightsError, match="do not fit"):
        load_subject(f"timm/test_vit@{path}", options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm/vit_small_patch14_dinov2", 98),
        ("timm/vit_base_patch16_clip_224", 64),
        ("timm/vit_base_patch16_siglip_224", 64),
    ],
)
def test_image_towers_are_audited_from_a_file_at_another_size(name: str, size: int, tmp_path: Path) -> None:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(name.removeprefix("timm/"), num_classes=0).eval()
    path = tmp_path / "tower.pt"
    torch.save(network.state_dict(), path)
    subject = load_subject(f"{name}@{path}", dataclasses.replace(OPTIONS, size=size))
    assert_one_function(subject)
    known = network_input(name)
    assert (subject.size, subject.preprocessing.interpolation) == (size, known.interpolation)
