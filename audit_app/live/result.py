"""What a live attack came to: the served models' rankings, the transfer between models, what survives a file."""

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
class Survival:
    """An adversarial image after something happened to its file."""

    title: str
    outcome: RankingOutcome
    """Against the rankings of the untouched benign image."""
    benign: RankingOutcome
    """The benign image after the same: how much of the movement is not the attack's doing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectResult:
    """What an attack did to one model, as that model is served."""

    name: str
    sha256: str
    """Of the model."""
    targets: tuple[int, ...]
    """Gallery rows that were aimed at."""
    tracked: tuple[tuple[int | None, int], ...]
    """What the ranks are of: query (gallery row, None: the attacked image) and item (gallery row, N: the attacked
    image), over all rankings."""
    outcome: RankingOutcome
    """Of the exact PNG: 8-bit pixels through the served model."""
    unquantized: RankingOutcome
    """Of the floats that the attack left, before they became 8-bit pixels."""
    noise: RankingOutcome
    """Of random noise at the edge of the same budget."""
    survival: Mapping[str, Survival]
    """By transform."""
    before: Mapping[str, float]
    """The attack's figures of the benign image."""
    benign: Uint8Image
    """(3,S,S)."""
    pixels: Uint8Image
    """(3,S,S): the attacked image."""
    png: bytes
    """It, within the border of the benign image: preprocessing gives exactly `pixels`."""
    benign_png: bytes
    """The benign image, made the same way."""
    prepared_sha256: str
    """Of `pixels`, which is what the network sees."""
    change: float
    """Norm of the perturbation of the PNG, in 255ths."""
    passes: int
    """Images that went through the network, forward and back where it gives gradients."""
    queries: int | None
    """Questions to the model about the image, by an attack that may only ask; None for gradients."""
    seconds: float
    """Of the attack on this model, side by side with the others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveResult:
    """All that a live attack came to."""

    subjects: Mapping[str, SubjectResult]
    """By model."""
    transfer: Mapping[tuple[str, str], RankingOutcome]
    """By model that was attacked, and model that is shown its image; the diagonal is the white-box result."""
    stopped: bool
    """Whether it was told to end early."""


def conclude(
    meter: RankingMeter,
    prepared: PreparedVictim,
    result: AttackResult,
    engine: AttackOptions,
    options: TransformOptions,
    *,
    seed: int,
    seconds: float,
) -> SubjectResult:
    """Judge what an attack reached with the served model."""
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
        survival={key: _survival(meter, kind, png, benign_png) for key, kind in kinds.items()},
        before=meter.measure(meter.benign).figures,
        benign=prepared.pixels,
        pixels=pixels,
        png=png,
        benign_png=benign_png,
        prepared_sha256=pixels_hash(pixels),
        change=perturbation_norm(pixels, prepared.pixels, norm=engine.norm),
        passes=result.passes,
        queries=int(result.queries[0]) if isinstance(result, BlackBoxResult) else None,
        seconds=seconds,
    )


def _survival(meter: RankingMeter, transform: Transform, png: bytes, benign_png: bytes) -> Survival:
    embed = meter.served.embed_file
    return Survival(
        title=transform.title,
        outcome=meter.measure(embed(transform.apply(png))),
        benign=meter.measure(embed(transform.apply(benign_png))),
    )


def _noisy(meter: RankingMeter, prepared: PreparedVictim, engine: AttackOptions, seed: int) -> np.ndarray:
    """Embed the image with random noise, in 8 bits like the attack."""
    images = torch.from_numpy(to_unit(prepared.pixels))[None]
    noisy = random_noise(images, engine, prepared.victims.ids, seed=seed)[0].numpy()
    rounded = quantize(noisy, prepared.pixels, epsilon=engine.epsilon, norm=engine.norm)
    return meter.served.embed(rounded)


def transfers(
    meters: Sequence[RankingMeter], victims: Sequence[PreparedVictim], subjects: Mapping[str, SubjectResult], *, k: int
) -> dict[tuple[str, str], RankingOutcome]:
    """Show each model the PNGs made against the others, aimed at the same items of the gallery."""
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
