"""The result of a live attack: rankings of the served models, transfer between models, and effect of transforms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hardrank.audit_app.blackbox.method import BlackBoxResult
from hardrank.audit_app.images.exact_png import Uint8Image, exact_png, pixels_hash
from hardrank.audit_app.images.quantization import perturbation_norm, quantize
from hardrank.audit_app.images.transforms import Transform, TransformOptions, transforms
from hardrank.audit_app.live.outcome import RankingMeter, RankingOutcome
from hardrank.audit_app.live.victim import PreparedVictim
from hardrank.models.preprocessing import to_unit
from hardrank.trainer.attacks.runner import AttackOptions, AttackResult
from hardrank.trainer.attacks.starts import random_noise


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformResult:
    """An adversarial image after a transform of its file."""

    title: str
    outcome: RankingOutcome
    """Compared with the rankings of the benign image."""
    benign: RankingOutcome
    """The benign image after the same transform: the part of the movement that is not due to the attack."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectResult:
    """The result of an attack on one model, as it is served."""

    name: str
    sha256: str
    """SHA-256 of the model."""
    targets: tuple[int, ...]
    """Gallery rows that the attack aimed at."""
    tracked: tuple[tuple[int | None, int], ...]
    """Whose ranks are measured: query (gallery row; None: the attacked image) and item (gallery row; N: the attacked
    image), over all rankings."""
    outcome: RankingOutcome
    """Of the exact PNG: 8-bit pixels, through the served model."""
    unquantized: RankingOutcome
    """Of the attack's floats, before quantization."""
    noise: RankingOutcome
    """Of random noise with the same budget."""
    survival: Mapping[str, TransformResult]
    """By key of the transform."""
    before: Mapping[str, float]
    """The attack's figures of the benign image."""
    benign: Uint8Image
    """(3,S,S)."""
    pixels: Uint8Image
    """(3,S,S): the attacked image."""
    png: bytes
    """The attacked image with the border of the benign one; preprocessing returns exactly `pixels`."""
    prepared_sha256: str
    """SHA-256 of `pixels`, the input of the network."""
    change: float
    """Norm of the perturbation, in 255ths."""
    passes: int
    """Images that went through the network."""
    queries: int | None
    """Queries of a black-box attack; None for white-box."""
    seconds: float
    """Duration of the attack on this model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveResult:
    """The result of a live attack."""

    subjects: Mapping[str, SubjectResult]
    """By model."""
    transfer: Mapping[tuple[str, str], RankingOutcome]
    """By attacked model and by model that the image is shown to; on the diagonal, the result of the attack itself."""
    stopped: bool
    """Whether it was stopped early."""


def judge_result(
    meter: RankingMeter,
    prepared: PreparedVictim,
    result: AttackResult,
    engine: AttackOptions,
    options: TransformOptions,
    *,
    seed: int,
    seconds: float,
) -> SubjectResult:
    """Measure what an attack found with the served model."""
    served, pre = meter.served, meter.served.subject.preprocessing
    floats = result.images[0].float().cpu().numpy()
    pixels = quantize(floats, prepared.pixels, epsilon=engine.epsilon, norm=engine.norm)
    png = exact_png(pixels, prepared.canvas, pre)
    benign_png = exact_png(prepared.pixels, prepared.canvas, pre)
    kinds = transforms(options)
    return SubjectResult(
        name=served.name,
        sha256=served.subject.sha256,
        targets=meter.targets,
        tracked=tuple((view.query, row) for view in meter.views for row in view.tracked),
        outcome=meter.measure(served.embed_file(png)),
        unquantized=meter.measure(served.embed_floats(floats)),
        noise=meter.measure(_noisy(meter, prepared, engine, seed)),
        survival={key: _transformed(meter, kind, png, benign_png) for key, kind in kinds.items()},
        before=meter.measure(meter.benign).figures,
        benign=prepared.pixels,
        pixels=pixels,
        png=png,
        prepared_sha256=pixels_hash(pixels),
        change=perturbation_norm(pixels, prepared.pixels, norm=engine.norm),
        passes=result.passes,
        queries=int(result.queries[0]) if isinstance(result, BlackBoxResult) else None,
        seconds=seconds,
    )


def _transformed(meter: RankingMeter, transform: Transform, png: bytes, benign_png: bytes) -> TransformResult:
    embed = meter.served.embed_file
    return TransformResult(
        title=transform.title,
        outcome=meter.measure(embed(transform.apply(png))),
        benign=meter.measure(embed(transform.apply(benign_png))),
    )


def _noisy(meter: RankingMeter, prepared: PreparedVictim, engine: AttackOptions, seed: int) -> np.ndarray:
    """Embed the image with random noise, quantized like the attack."""
    images = torch.from_numpy(to_unit(prepared.pixels))[None]
    noisy = random_noise(images, engine, prepared.victims.ids, seed=seed)[0].numpy()
    rounded = quantize(noisy, prepared.pixels, epsilon=engine.epsilon, norm=engine.norm)
    return meter.served.embed(rounded)


def transfer_outcomes(
    meters: Sequence[RankingMeter], victims: Sequence[PreparedVictim], subjects: Mapping[str, SubjectResult], *, k: int
) -> dict[tuple[str, str], RankingOutcome]:
    """Show each model the PNGs made for the others, with the same targets."""
    found: dict[tuple[str, str], RankingOutcome] = {}
    for source in meters:
        for target, prepared in zip(meters, victims, strict=True):
            name, other = source.served.name, target.served.name
            if name == other:
                found[name, other] = subjects[name].outcome
                continue
            rows = torch.tensor([source.targets], dtype=torch.long).view(1, -1)
            meter = RankingMeter(
                target.served, target.attack, prepared.victims, rows, target.benign, own=prepared.own, k=k
            )
            found[name, other] = meter.measure(target.served.embed_file(subjects[name].png))
    return found
