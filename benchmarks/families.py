"""Which networks of timm and torchvision work as backbones?

    nice python benchmarks/families.py                      # all of them; hours; continues where it stopped
    python benchmarks/families.py --only timm/lcnet_050     # some of them
    python benchmarks/families.py --page                    # write the list in docs/networks.md again
    python benchmarks/families.py --tiny                    # a try, in a minute

Every network is built with random weights and passes five checks in float32: the folded copy has its embeddings within
1e-5, the folded update its gradients, a step of hardness manipulation is finite and changes the weights, and the export
to ONNX passes the gate of every export. The result of each network goes to benchmarks/results/families.json at once.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from benchmarks.command import ROOT, BenchmarkOptions, parse_options
from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.files import write_json
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.attacks.pgd import PGDOptions
from hardrank.trainer.defenses import Conditions, parse_defense
from hardrank.trainer.export import export
from hardrank.trainer.runtime.environment import versions

FAST = (
    "timm/lcnet_050@64",  # depthwise convolutions, batch norm that brings its activation
    "timm/repvgg_a0@32",  # several branches, batch norms without a convolution
    "timm/vit_tiny_patch16_224@64",  # tokens
    "timm/swin_tiny_patch4_window7_224@32",  # tokens in four dimensions
    "squeezenet1_1@64",  # no linear classifier
    "googlenet@64",  # classifiers for training
)
SLOW = (
    *("alexnet@64", "convnext_tiny@64", "densenet121@64", "efficientnet_b0@64", "inception_v3@96", "maxvit_t@224"),
    *("mnasnet0_5@64", "mobilenet_v3_small@64", "regnet_y_400mf@64", "resnet18@64", "resnext50_32x4d@64"),
    *("shufflenet_v2_x1_0@64", "swin_t@64", "vit_b_16@64", "wide_resnet50_2@64"),
    *("timm/beit_base_patch16_224@64", "timm/cait_xxs24_224@64", "timm/coatnet_nano_rw_224@64"),
    *("timm/convnext_atto@64", "timm/convnextv2_atto@64", "timm/cspdarknet53@64", "timm/cspresnet50@64"),
    *("timm/deit_tiny_patch16_224@64", "timm/densenet121@64", "timm/dla34@64", "timm/dpn68@64"),
    *("timm/ecaresnet26t@64", "timm/efficientformer_l1@224", "timm/efficientformerv2_s0@224"),
    *("timm/efficientnet_b0@64", "timm/efficientnet_lite0@64", "timm/eva02_tiny_patch14_224@56"),
    *("timm/fastvit_t8@64", "timm/ghostnet_100@64", "timm/ghostnetv2_100@64", "timm/gmlp_ti16_224@224"),
    *("timm/hardcorenas_a@64", "timm/hrnet_w18_small@64", "timm/inception_resnet_v2@96", "timm/inception_v3@96"),
    *("timm/inception_v4@96", "timm/levit_128s@224", "timm/maxvit_nano_rw_256@64", "timm/mixer_s32_224@224"),
    *("timm/mobilenetv2_100@64", "timm/mobilenetv3_large_100@64", "timm/mobilenetv4_conv_small@64"),
    *("timm/mobileone_s0@64", "timm/mobilevit_xxs@64", "timm/mobilevitv2_050@64", "timm/nasnetalarge@96"),
    *("timm/nfnet_l0@64", "timm/poolformer_s12@64", "timm/pvt_v2_b0@64", "timm/regnety_004@64"),
    *("timm/res2net50_26w_4s@64", "timm/resmlp_12_224@224", "timm/resnest14d@64", "timm/resnetv2_50@64"),
    *("timm/rexnet_100@64", "timm/selecsls42@64", "timm/seresnet18@64", "timm/skresnet18@64", "timm/tinynet_e@64"),
    *("timm/twins_pcpvt_small@64", "timm/vgg11@64", "timm/vit_small_patch14_dinov2@224", "timm/vovnet39a@64"),
    *("timm/xception41@64", "timm/xcit_nano_12_p16_224@64"),
    *("timm/resnet50_clip@64", "timm/vit_base_patch32_clip_224@224", "timm/vit_base_patch16_siglip_224@224"),
)

LIMIT: Final = 1e-5
"""Largest difference of a coordinate between the folded copy and the network."""
PAGE: Final = ROOT / "docs" / "networks.md"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"


class FamilyError(Exception):
    """A network that fails a check."""


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"only": ("timm/lcnet_050",)}

    only: tuple[str, ...] = ()
    """Names of networks, with or without @SIZE; all by default."""
    again: bool = False
    """Check networks that have a result."""
    page: bool = False
    """Only write the list in docs/networks.md from the result."""


def build(spec: str) -> tuple[Embedder, Tensor]:
    """An embedder with random weights and statistics, and four images that it takes. `spec` is NAME@SIZE."""
    name, _, size = spec.partition("@")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        embedder = build_embedder(Architecture(backbone=name, dimension=16, image_size=int(size))).eval()
        for module in embedder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return embedder, torch.rand(4, 3, int(size), int(size))


def check_folding(embedder: Embedder, images: Tensor) -> float:
    """The copy equals the network, before and after an update; return the largest difference."""
    folded = FoldedEmbedder(embedder)
    before = largest_difference(folded, embedder, images)
    with torch.no_grad():
        for parameter in embedder.parameters():
            parameter.mul_(1.01)
    folded.refresh()
    after = largest_difference(folded, embedder, images)
    require(max(before, after) <= LIMIT, f"the folded copy differs by {max(before, after):.1e}")
    pixels = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(folded(pixels)[:, 0].sum(), pixels)
    require(bool(gradient.isfinite().all()), "the gradient of the pixels is not finite")
    require(bool(gradient.abs().amax(dim=(1, 2, 3)).min() > 0), "an image has no gradient")
    require(not any(p.requires_grad for p in folded.parameters()), "the folded copy has trainable parameters")
    return max(before, after)


@torch.no_grad()
def largest_difference(folded: FoldedEmbedder, embedder: Embedder, images: Tensor) -> float:
    """The largest difference of a coordinate."""
    return float((folded(images) - embedder(images)).abs().max())


def check_step(embedder: Embedder, images: Tensor) -> None:
    """A step of hardness manipulation is finite, and changes the weights."""
    folded = FoldedEmbedder(embedder)
    conditions = Conditions(
        network=folded.embed_for_update,
        frozen=folded,
        attack=PGDOptions(epsilon=8 / 255, alpha=2 / 255, steps=2),
        previous_loss=0.05,
        generator=torch.Generator().manual_seed(0),
    )
    labels = torch.tensor([0, 0, 1, 1])
    result = parse_defense("HM[S,2]&ICS")(images, labels, conditions)
    assert result is not None
    embedder.zero_grad()
    torch.autograd.backward(result.loss)
    gradients = [p.grad for p in embedder.parameters() if p.grad is not None]
    require(bool(result.loss.isfinite()), "the loss is not finite")
    require(all(bool(one.isfinite().all()) for one in gradients), "a gradient is not finite")
    require(any(bool(one.any()) for one in gradients), "no weight has a gradient")


def check_export(embedder: Embedder, folder: Path) -> float:
    """The export passes its gate; return the largest difference."""
    size = embedder.architecture.image_size
    images = torch.rand(16, 3, size, size, generator=torch.Generator().manual_seed(0))
    return export(embedder, folder, lambda rows: images[rows], torch.arange(16) % 4).largest_difference


def require(condition: bool, problem: str) -> None:
    """Raise `FamilyError` unless the condition holds."""
    if not condition:
        raise FamilyError(problem)


def check(spec: str) -> dict[str, Any]:
    """Run all checks of a network."""
    began = time.perf_counter()
    try:
        embedder, images = build(spec)
        found: dict[str, Any] = {"folding": check_folding(embedder, images)}
        check_step(embedder, images)
        with tempfile.TemporaryDirectory() as folder:
            found["export"] = check_export(embedder, Path(folder))
        found["passed"] = True
    except Exception as error:  # libraries raise errors of every kind, and each is a result
        found = {"passed": False, "error": f"{type(error).__name__}: {error}"[:300]}
    return {**found, "seconds": round(time.perf_counter() - began, 1)}


def listing(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """The list for the page."""
    passed = [spec for spec, result in networks.items() if result["passed"]]
    failed = [spec for spec, result in networks.items() if not result["passed"]]
    lines = [
        f"{len(passed)} of the {len(networks)} networks tried pass (`python benchmarks/families.py`, random weights; "
        "`@` is the image size):",
        "",
        ", ".join(f"`{spec}`" for spec in sorted(passed)) + ".",
    ]
    if failed:
        reasons = (f"`{spec}` ({networks[spec]['error']})" for spec in sorted(failed))
        lines += ["", f"Failed: {', '.join(reasons)}."]
    return "\n".join(lines)


def write_page(networks: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the list in the page."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n{listing(networks)}\n{END}{tail}", encoding="utf-8")


def main() -> None:
    """Check the networks, and write the result and the page."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    path = options.file("families")
    networks: dict[str, Any] = options.known("families").get("networks", {})
    for spec in () if options.page else chosen(options.only):
        if options.again or spec not in networks:
            networks[spec] = check(spec)
            print(spec, networks[spec], flush=True)
            if path is not None:
                content = {"command": "python benchmarks/families.py", "networks": networks, "versions": versions()}
                write_json(path, content)
    if not options.tiny:
        write_page(networks)


def chosen(only: Sequence[str]) -> list[str]:
    """The networks with these names; all if there are none."""
    known = [*FAST, *SLOW]
    if unknown := set(only) - {name for spec in known for name in (spec, spec.partition("@")[0])}:
        raise SystemExit(f"not among the networks of this benchmark: {', '.join(sorted(unknown))}")
    return [spec for spec in known if not only or {spec, spec.partition("@")[0]} & set(only)]


if __name__ == "__main__":
    main()
