"""The attacks written plainly, as the protocol reads: yardstick and oracle.

A loop over images for every loss, the gallery compared item by item, parameter gradients kept, no folding,
and no image that leaves the batch. Slow on purpose.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """What one image's loss and figures may look at."""

    gallery: Tensor
    """(N,D)."""
    labels: Tensor
    """(N,)."""
    own: int
    """The image's row."""
    targets: list[int]
    """Rows drawn for it."""


def _to_all(point: Tensor, scene: Scene) -> Tensor:
    return torch.stack([(scene.gallery - point).norm(dim=1)])[0]


def _each(point: Tensor, scene: Scene) -> list[Tensor]:
    return [(scene.gallery[t] - point).norm() for t in scene.targets]


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def candidate_loss(sign: int) -> Callable[[Tensor, Scene], Tensor]:
    """CA±: mean over q, x of max(0, ±(d(q,c̃) − d(q,x)))."""

    def loss(c: Tensor, scene: Scene) -> Tensor:
        return _mean(
            [
                (sign * ((scene.gallery[q] - c).norm() - _to_all(scene.gallery[q], scene))).clamp(min=0).mean()
                for q in scene.targets
            ]
        )

    return loss


def candidate_rank(c: Tensor, scene: Scene) -> list[float]:
    """Mean over q of the share of x with d(q,x) < d(q,c̃), in %."""
    shares = [
        (_to_all(scene.gallery[q], scene) < (scene.gallery[q] - c).norm()).double().mean().item() for q in scene.targets
    ]
    return [100 * sum(shares) / len(shares)]


def query_loss(sign: int) -> Callable[[Tensor, Scene], Tensor]:
    """QA±: mean over c, x of max(0, ±(d(q̃,c) − d(q̃,x)))."""

    def loss(q: Tensor, scene: Scene) -> Tensor:
        others = _to_all(q, scene)
        return _mean([(sign * (d - others)).clamp(min=0).mean() for d in _each(q, scene)])

    return loss


def query_rank(q: Tensor, scene: Scene) -> list[float]:
    """Mean rank / N of the candidates, in %."""
    order = _to_all(q, scene).argsort().tolist()
    return [100 * sum(order.index(t) for t in scene.targets) / len(scene.targets) / len(order)]


def mismatch_loss(q: Tensor, scene: Scene) -> Tensor:
    """TMA: 1 − cos(q̃, t)."""
    return 1 - torch.nn.functional.cosine_similarity(q, scene.gallery[scene.targets[0]], dim=0)


def mismatch_cosine(q: Tensor, scene: Scene) -> list[float]:
    """Compute cos(q̃, t)."""
    return [float(q @ scene.gallery[scene.targets[0]])]


def shift_loss(q: Tensor, scene: Scene) -> Tensor:
    """ES: −d(q̃, q)."""
    return -torch.nn.functional.pairwise_distance(q, scene.gallery[scene.own])


def shift_and_recall(q: Tensor, scene: Scene) -> list[float]:
    """Compute d(q̃, q) and Recall@1 in %."""
    return [float((q - scene.gallery[scene.own]).norm()), *recall(q, scene)]


def misrank_loss(q: Tensor, scene: Scene) -> Tensor:
    """LTM: max over unmatched of d(q̃,x) − min over matched of d(q̃,x), floored at 0."""
    d, matched = _to_all(q, scene), scene.labels == scene.labels[scene.own]
    return (d[~matched].max() - d[matched].min()).clamp(min=0)


def pull_loss(q: Tensor, scene: Scene) -> Tensor:
    """GTM: d(q̃, u)."""
    return torch.nn.functional.pairwise_distance(q, scene.gallery[scene.targets[0]])


def margin_loss(q: Tensor, scene: Scene) -> Tensor:
    """MARGIN: min over targets u of d(q̃,u) − min over positives of d(q̃,p) + 0.02, floored at 0; own copy left out."""
    d = _to_all(q, scene)
    positives = [x for x in range(len(d)) if scene.labels[x] == scene.labels[scene.own] and x != scene.own]
    return (torch.stack(_each(q, scene)).min() - d[positives].min() + 0.02).clamp(min=0)


def _ranking(q: Tensor, scene: Scene) -> list[int]:
    return [row for row in _to_all(q, scene).argsort().tolist() if row != scene.own]


def recall(q: Tensor, scene: Scene) -> list[float]:
    """Recall@1 in %, the own copy left out."""
    return [100.0 * float(scene.labels[_ranking(q, scene)[0]] == scene.labels[scene.own])]


def retained(q: Tensor, scene: Scene) -> list[float]:
    """GTT: 100 when t is among the first 4."""
    return [100.0 * float(scene.targets[0] in _ranking(q, scene)[:4])]


HUB_NEIGHBORS = 4
HUB_TEMPERATURE = 0.1


def _kth_neighbor(query: int, scene: Scene) -> Tensor:
    """Distance of a query to its fourth neighbor, itself and the candidate's own copy left out."""
    d = _to_all(scene.gallery[query], scene).tolist()
    return scene.gallery.new_tensor(
        sorted(d[x] for x in range(len(d)) if x not in (query, scene.own))[HUB_NEIGHBORS - 1]
    )


def hub_loss(c: Tensor, scene: Scene) -> Tensor:
    """HUB: mean over q of sigmoid((d(q,c̃) − δ_q) / T)."""
    gaps = [(scene.gallery[q] - c).norm() - _kth_neighbor(q, scene) for q in scene.targets]
    return _mean([1 / (1 + (-gap / HUB_TEMPERATURE).exp()) for gap in gaps])


def hub_share(c: Tensor, scene: Scene) -> list[float]:
    """Share of the queries not aimed at that have c̃ among their neighbors, in %."""
    judging = [q for q in range(len(scene.gallery)) if q != scene.own and q not in scene.targets]
    reached = [bool((scene.gallery[q] - c).norm() < _kth_neighbor(q, scene)) for q in judging]
    return [100 * sum(reached) / len(reached)]


PLAIN: dict[str, tuple[Callable[[Tensor, Scene], Tensor], Callable[[Tensor, Scene], list[float]]]] = {
    "CA+": (candidate_loss(1), candidate_rank),
    "CA-": (candidate_loss(-1), candidate_rank),
    "QA+": (query_loss(1), query_rank),
    "QA-": (query_loss(-1), query_rank),
    "TMA": (mismatch_loss, mismatch_cosine),
    "ES": (shift_loss, shift_and_recall),
    "LTM": (misrank_loss, recall),
    "GTM": (pull_loss, recall),
    "GTT": (query_loss(-1), retained),
    "MARGIN": (margin_loss, recall),
    "HUB": (hub_loss, hub_share),
}


def plain_attack(
    name: str,
    network: torch.nn.Module,
    images: Tensor,
    scenes: list[Scene],
    *,
    epsilon: float,
    alpha: float,
    steps: int,
) -> tuple[Tensor, list[list[float]]]:
    """Attack `images` (n,3,H,W), of `scenes` (n); gives the perturbed images and each one's figures."""
    loss_of, figures_of = PLAIN[name]
    x = images.clone()
    for _ in range(steps):
        x.requires_grad_(True)
        network.zero_grad()
        embeddings = network(x)
        loss = torch.stack([loss_of(z, scene) for z, scene in zip(embeddings, scenes, strict=True)]).mean()
        torch.autograd.backward(loss)
        assert x.grad is not None
        moved = x.detach() - alpha * x.grad.sign()
        x = torch.min(torch.max(moved, images - epsilon), images + epsilon).clamp(0, 1)
    with torch.no_grad():
        embeddings = network(x)
        return x, [figures_of(z, scene) for z, scene in zip(embeddings, scenes, strict=True)]
