"""Gradients of depthwise convolutions on small maps and in bf16, against those of PyTorch."""

import pytest
import torch
from torch import Tensor, nn

from hardrank.models.depthwise import DepthwiseGradients, has_own_gradients
from hardrank.models.embedder import Architecture, build_embedder

SMALL = [
    # batch, channels, height, width, kernel, stride, padding
    (3, 16, 4, 4, 5, 1, 2),
    (2, 8, 3, 6, 5, 1, 2),
    (1, 8, 2, 2, 3, 1, 1),
    (2, 8, 4, 4, 7, 2, 3),
    (2, 8, 1, 1, 3, 2, 1),
]


def _gradients(conv: nn.Conv2d, images: Tensor, *, wide: bool) -> tuple[list[Tensor], str]:
    images = images.clone(memory_format=torch.preserve_format).requires_grad_(True)
    conv.zero_grad()
    if wide:
        with DepthwiseGradients():
            output = conv(images)
    else:
        output = conv(images)
    torch.autograd.backward(output.square().sum())
    gradients = [images.grad, *(parameter.grad for parameter in conv.parameters())]
    assert output.grad_fn is not None
    return [one.clone() for one in gradients if one is not None], type(output.grad_fn).__name__


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("batch", "channels", "height", "width", "kernel", "stride", "padding"), SMALL)
def test_gradients_are_those_of_pytorch(
    batch: int, channels: int, height: int, width: int, kernel: int, stride: int, padding: int, bias: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=bias)
    images = torch.rand(batch, channels, height, width).to(memory_format=torch.channels_last)
    expected, _ = _gradients(conv, images, wide=False)
    found, made_by = _gradients(conv, images, wide=True)
    assert made_by == "_DepthwiseBackward"
    assert len(found) == len(expected) == 2 + bias
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["bf16", "autocast", "pixels alone"])
@pytest.mark.parametrize(("size", "kernel", "stride"), [(12, 3, 2), (12, 5, 1), (13, 5, 2), (3, 5, 1)])
def test_gradients_in_bf16_are_those_of_float32(size: int, kernel: int, stride: int, form: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=False)
    images = torch.rand(4, 8, size, size).to(memory_format=torch.channels_last)
    expected, _ = _gradients(conv, images, wide=False)
    if form != "autocast":
        conv, images = conv.bfloat16(), images.bfloat16()
    if form == "pixels alone":
        conv.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16, enabled=form == "autocast"):
        found, made_by = _gradients(conv, images, wide=True)
    assert made_by == "_DepthwiseBackward"
    assert len(found) == (1 if form == "pixels alone" else 2)
    for one, other in zip(found, expected, strict=False):
        assert one.dtype == (torch.float32 if form == "autocast" else torch.bfloat16)
        assert (one.float() - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # maps as large as the window
        nn.Conv2d(8, 8, 5, padding=2),  # not depthwise
        nn.Conv2d(8, 8, 5, padding=2, groups=8).double(),
        nn.Conv2d(8, 8, 5, padding=2, groups=8).requires_grad_(False),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 8, 5, padding="same", groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8).bfloat16(),
        nn.Conv2d(8, 8, 3, 2, padding=1).bfloat16(),  # not depthwise
    ],
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    images = torch.rand(2, 8, 4, 4, dtype=conv.weight.dtype, requires_grad=True)
    with DepthwiseGradients():
        output = conv(images)
    assert type(output.grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize(("height", "width", "stride"), [(8, 8, 2), (7, 5, 2), (9, 6, (3, 1))])
def test_a_strided_point_of_few_channels_has_the_gradients_of_the_contiguous_layout(
    height: int, width: int, stride: int | tuple[int, int]
) -> None:
    """In the channels-last layout the library writes outside its memory instead."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 48, 1, stride)
    images = torch.rand(4, 3, height, width)
    expected, _ = _gradients(conv, images, wide=False)
    conv.to(memory_format=torch.channels_last)
    found, _ = _gradients(conv, images.to(memory_format=torch.channels_last), wide=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [("small-resnet", False), ("resnet18", False), ("timm/efficientnet_lite0", True), ("timm/repvgg_a0", True)],
)
def test_only_networks_with_such_convolutions_pay_for_the_mode(backbone: str, expected: bool) -> None:
    embedder = build_embedder(Architecture(backbone=backbone, dimension=8, image_size=64))
    assert has_own_gradients(embedder) is expected
