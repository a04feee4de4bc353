"""From the arguments of `hardrank audit` to a checked request."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from hardrank.audit_app.audit.arguments import read_duration, read_pairs
from hardrank.audit_app.audit.options import AuditOptions, CertificateOptions, Curve, CurveParameter
from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.blackbox import SEARCHES
from hardrank.audit_app.blackbox.choice import search_name
from hardrank.audit_app.command.arguments import (
    ALL,
    ATTACKED,
    CertificateArguments,
    Command,
    GalleryArguments,
    ThreatArguments,
)
from hardrank.audit_app.entries.entry import AboutModel, read_about
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.source import GallerySource, SourceKind
from hardrank.audit_app.results.gate import GateLimits, parse_limits
from hardrank.models.home import typed
from hardrank.trainer.attacks.registry import SCORECARD
from hardrank.trainer.config import pixels
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.evaluation.threats import THREATS, ThreatOptions


@dataclass(frozen=True, kw_only=True)
class AuditCommandOptions:
    """Options of the command, checked."""

    request: AuditRequest
    limits: GateLimits
    baseline: Path | None
    out: Path
    overwrite: bool
    entries: tuple[AboutModel, ...]
    """What the authors say about each model; empty if no entries are written."""
    default_budget: bool
    """Whether black-box audits have a time budget by default."""


def read_job(arguments: Sequence[str], *, description: str) -> AuditCommandOptions:
    """Read the arguments; raises subclasses of `HardrankError` for invalid ones.

    `description` is the text of `--help` above the options.
    """
    command = tyro.cli(
        Command,
        prog=typed("audit"),
        description=description,
        args=list(arguments),
        config=(tyro.conf.EnumChoicesFromValues, tyro.conf.OmitArgPrefixes),
    )
    attack, blackbox = command.attack, command.blackbox
    robustness = RobustnessOptions(**vars(command.budget))
    search = search_name(blackbox.method, robustness.norm)
    options = AuditOptions(
        attacks=SCORECARD if attack.attacks == (ALL,) else attack.attacks,
        attacked=ATTACKED if attack.attacked is None else attack.attacked or None,
        seed=attack.seed,
        batch=attack.batch,
        worst=attack.worst,
        transform_images=attack.transform_images if attack.transforms else 0,
        certificates=_certificates(command.certificates),
        threats=_threats(command.threats),
        robustness=robustness,
        method=blackbox.method,
        search=read_pairs(blackbox.search, SEARCHES[search].options, of=f"the search {search}"),
        curves=tuple(_curve(texts) for texts in command.curves.curve),
        curve_attacked=command.curves.curve_attacked,
    )
    return AuditCommandOptions(
        request=AuditRequest(
            models=command.loading.models(command.models),
            gallery=_gallery(command.images),
            options=options,
            loading=command.loading.options(),
            surrogate=blackbox.surrogate,
            time_budget=None if attack.time_budget is None else read_duration(attack.time_budget),
        ),
        limits=GateLimits(
            under=parse_limits(command.limits.fail_under),
            drop=parse_limits(command.limits.fail_drop, default="ERS"),
            accept_upper_bound=command.limits.accept_upper_bound,
        ),
        baseline=command.limits.baseline,
        out=command.out,
        entries=_entries(command.entry, command.models, options),
        default_budget=attack.attacked is None and command.limits.baseline is None,
        overwrite=command.overwrite,
    )


def _entries(files: Sequence[Path], models: Sequence[str], options: AuditOptions) -> tuple[AboutModel, ...]:
    """Read what the authors say about the models, and check that the audit measures what entries need."""
    if not files:
        return ()
    if len(files) != len(models):
        raise AuditError(f"--entry has {len(files)} files for {len(models)} models; give one for each, in their order")
    if not set(SCORECARD) <= set(options.attacks) or not options.robustness.strong_images:
        raise AuditError("--entry needs ERS and the strong ERS: use --attacks all and --strong-images 32")
    return tuple(map(read_about, files))


def _certificates(given: CertificateArguments) -> CertificateOptions | None:
    if given.certify < 0:
        raise AuditError(f"--certify is {given.certify}; give the number of images, or 0 for none")
    options = CertificateOptions(images=max(1, given.certify), sigmas=given.sigma, samples=given.samples)
    return options if given.certify else None


def _threats(given: ThreatArguments) -> ThreatOptions:
    settings: dict[str, dict[str, Any]] = {}
    for text in given.threat_options:
        name, dot, pair = text.partition(".")
        if not dot or name not in THREATS:
            raise AuditError(f"--threat-options: {text!r}; write THREAT.NAME=VALUE with {', '.join(THREATS)}")
        settings.setdefault(name, {}).update(read_pairs([pair], THREATS[name].options, of=f"the threat model {name}"))
    return ThreatOptions(threats=given.threats, goals=given.threat_goals, images=given.threat_images, settings=settings)


def _gallery(given: GalleryArguments) -> GallerySource:
    if given.data_root is not None and given.run is None:
        raise AuditError("--data-root names the images of a run that have moved; use it with --run")
    if given.gallery is not None:
        return GallerySource.at(*given.gallery)
    if given.run is not None:
        return GallerySource(kind=SourceKind.RUN, paths=(given.run,), data_root=given.data_root)
    if given.images is not None:
        return GallerySource(kind=SourceKind.IMAGES, paths=(given.images,))
    if given.index is None:
        raise AuditError(
            "no images are given; use --run RUN (the test images of a run or bundle), --images FOLDER, --index INDEX "
            "or --gallery with any of these"
        )
    if not given.index:
        raise AuditError("--index needs the folder of an index")
    return GallerySource(kind=SourceKind.INDEX, paths=given.index)


def _curve(texts: Sequence[str]) -> Curve:
    """Read `epsilon 1/255 2/255 …`."""
    name, *values = texts or ("",)
    if name not in list(CurveParameter):
        raise AuditError(f"--curve: unknown parameter {name!r}; choose one of {', '.join(CurveParameter)}")
    try:
        return Curve(parameter=CurveParameter(name), values=tuple(float(pixels(value)) for value in values))
    except ValueError as error:
        raise AuditError(f"--curve {name}: {error}") from error
