"""The options of `hardrank audit`, in groups as `--help` shows them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro

from hardrank.audit_app.audit.arguments import arguments_of
from hardrank.audit_app.audit.options import CertificateOptions, budget_options
from hardrank.audit_app.blackbox import SEARCHES
from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.results.gate import MEASURES
from hardrank.audit_app.subjects.library_models import LibraryWeights
from hardrank.audit_app.subjects.model_names import with_weights
from hardrank.audit_app.subjects.onnx_file import PixelScale
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.models.cores import usable_cores
from hardrank.serving.engine import Device
from hardrank.trainer.attacks.registry import SCORECARD, offered_attacks
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.evaluation.threats import GOALS, THREATS, ThreatOptions
from hardrank.trainer.runtime.environment import Precision

ALL: Final = "all"
ATTACKED: Final = 500
_NONE: Final = "(default: none)"
_SEARCH_OPTIONS: Final = "; ".join(
    f"{name}: {', '.join(option.name for option in kind.options)}" for name, kind in SEARCHES.items()
)
_THREAT_OPTIONS: Final = "; ".join(
    f"{name}: {', '.join(option.name for option in kind.options)}" for name, kind in THREATS.items()
)
_PLACE = tyro.conf.create_mutex_group(required=False, title="gallery")

if TYPE_CHECKING:
    BudgetArguments = RobustnessOptions
else:
    BudgetArguments = arguments_of(RobustnessOptions, budget_options(), doc="Budget and engine of the attacks.")


@dataclass(frozen=True, kw_only=True)
class GalleryArguments:
    """The images; give one of --gallery, --index, --run and --images."""

    gallery: Annotated[tuple[str, ...] | None, _PLACE, tyro.conf.arg(metavar="PLACE [PLACE ...]")] = None
    """Any of the following; its kind is detected."""
    index: Annotated[tuple[str, ...] | None, _PLACE, tyro.conf.arg(metavar="DIR [DIR ...]")] = None
    """An index; several: the same images, indexed with each model."""
    run: Annotated[str | None, _PLACE, tyro.conf.arg(metavar="DIR")] = None
    """The test images of a run, or of a bundle's run."""
    images: Annotated[str | None, _PLACE, tyro.conf.arg(metavar="DIR")] = None
    """A folder of class folders, or a CSV of path,label."""
    data_root: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """With --run: folder of the images, if they have moved."""


@dataclass(frozen=True, kw_only=True)
class AttackArguments:
    """The attacks, and the images that are attacked."""

    attacks: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME [NAME ...]",
            help=f"`all` (those of the scorecard: {', '.join(SCORECARD)}; the first nine give the ten results of ERS), "
            f"or some of {', '.join(offered_attacks())}.",
        ),
    ] = (ALL,)
    attacked: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: 500)")] = None
    """Number of attacked images, a seeded sample; 0 for all."""
    time_budget: Annotated[str | None, tyro.conf.arg(metavar="10m")] = None
    """Attack fewer images, then with fewer queries, so that the attacks take at most this long (90s, 10m, 2h). The
    report states what was reduced. By default 10m if a model is attacked by queries and none of --attacked,
    --search queries=N and --baseline is given."""
    seed: int = 0
    """Seed of the sample, the targets and the random starts."""
    batch: int = 128
    """Images attacked at a time. Results depend on it only by rounding."""
    worst: int = 6
    """Number of weakest images and classes in the report."""
    transforms: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also measure whether attacks survive PNG, JPEG and resizing, and whether rankings survive edits that people make
    (JPEG, resizing, cropping, blur, brightness, rotation, screenshots, watermarks)."""
    transform_images: int = 100
    """With --transforms: number of attacked images that are transformed and edited."""


@dataclass(frozen=True, kw_only=True)
class SearchArguments:
    """Attacks on models without gradients."""

    method: SearchMethod = SearchMethod.AUTO
    """auto: white-box if the model gives gradients, else the square search (L∞) or NES (L2)."""
    search: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME=VALUE [NAME=VALUE ...]",
            help=f"Options of the search. {_SEARCH_OPTIONS}.",
            help_behavior_hint=_NONE,
        ),
    ] = ()
    surrogate: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """With --method transfer: the model whose gradients are used."""


@dataclass(frozen=True, kw_only=True)
class CurveArguments:
    """Budget curves: the score as a function of what the attacker may spend."""

    curve: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], tyro.conf.arg(metavar="PARAMETER VALUE [VALUE ...]")
    ] = ()
    """A curve over epsilon, steps or queries. May be repeated."""
    curve_attacked: int = 50
    """Number of attacked images at each point."""


@dataclass(frozen=True, kw_only=True)
class CertificateArguments:
    """Certified Recall@1 of a smoothed version of each model (randomized smoothing), apart from the attacks."""

    certify: int = 0
    """Number of attacked images to certify; 0: none. Each takes samples + 100 forward passes for each σ."""
    sigma: tuple[float, ...] = CertificateOptions().sigmas
    """Standard deviations of the noise, for pixels in [0,1]. A larger one certifies larger radii, of fewer images."""
    samples: int = CertificateOptions().samples
    """Noisy copies of each image. More of them certify larger radii."""


@dataclass(frozen=True, kw_only=True)
class ThreatArguments:
    """Other threat models than a small perturbation of each image, apart from ERS. They need gradients."""

    threats: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME [NAME ...]",
            help=f"{'; '.join(f'{name}: {kind.title}' for name, kind in THREATS.items())}.",
            help_behavior_hint=_NONE,
        ),
    ] = ()
    threat_goals: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ATTACK [ATTACK ...]")] = GOALS
    """Attacks whose goals universal perturbations and patches pursue."""
    threat_images: int = ThreatOptions().images
    """Number of attacked images, at most half of the gallery."""
    threat_options: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="THREAT.NAME=VALUE [...]",
            help=f"Options of the threat models. {_THREAT_OPTIONS}.",
            help_behavior_hint=_NONE,
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class LimitArguments:
    """Limits for continuous integration: exit status 1 if one is violated."""

    fail_under: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="MEASURE=NUMBER [...]",
            help=f"Lower limits of {', '.join(MEASURES)}, or of an attack result's score by its name (QA+=40).",
            help_behavior_hint=_NONE,
        ),
    ] = ()
    accept_upper_bound: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let --fail-under judge upper bounds, the scores of models attacked without their gradients."""
    fail_drop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NUMBER [...]", help_behavior_hint=_NONE)] = ()
    """Largest loss against the baseline: points of ERS, or MEASURE=NUMBER."""
    baseline: Annotated[Path | None, tyro.conf.arg(metavar="JSON")] = None
    """The earlier report.json to compare with."""


@dataclass(frozen=True, kw_only=True)
class LoadingArguments:
    """How models are loaded."""

    device: Device = Device.AUTO
    """auto: a GPU if there is one."""
    precision: Precision = Precision.AUTO
    """Precision of the passes that give gradients; auto uses bf16 if the hardware is faster with it.
    Results are measured in float32."""
    exact: tyro.conf.FlagCreatePairsOff[bool] = False
    """The same as --precision float32."""
    threads: int = field(default_factory=usable_cores)
    """CPU threads; by default HARDRANK_THREADS if set, else one per usable core."""
    input_size: Annotated[int | None, tyro.conf.arg(metavar="PX")] = None
    """Side of the input of timm, torchvision and ONNX models that do not fix it."""
    resize: Annotated[int | None, tyro.conf.arg(metavar="PX")] = None
    """Side of the square that images are resized to before the center crop."""
    weights: Annotated[str, tyro.conf.arg(metavar="imagenet|random|FILE")] = str(LibraryWeights.IMAGENET)
    """Weights of timm and torchvision networks: imagenet, from their cache (nothing is downloaded); random; or a file
    for the only such network, safetensors or a state dict of PyTorch. NAME@FILE names a file for each."""
    scale: PixelScale = PixelScale.UNIT
    """Pixel values that an ONNX file expects."""
    output: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Output of an ONNX file that is the embedding."""

    def models(self, given: tuple[str, ...]) -> tuple[str, ...]:
        """Return the models with the file of weights, if there is one."""
        return given if self.weights in list(LibraryWeights) else with_weights(given, Path(self.weights))

    def options(self) -> SubjectOptions:
        """Return them as `SubjectOptions`."""
        return SubjectOptions(
            device=self.device,
            precision=Precision.FLOAT32 if self.exact else self.precision,
            threads=self.threads,
            size=self.input_size,
            resize=self.resize,
            weights=LibraryWeights(self.weights) if self.weights in list(LibraryWeights) else LibraryWeights.IMAGENET,
            scale=self.scale,
            output=self.output,
        )


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of the command."""

    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL [MODEL ...]")]
    """Models under audit."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the report and the journal."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the results of another audit in --out."""
    entry: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="JSON [JSON ...]", help_behavior_hint=_NONE)] = ()
    """Also write an entry of a leaderboard for each model. One file for each, in their order, says what its authors
    know about it: name, link, authors, venue, architecture, additional_data, split."""
    images: GalleryArguments
    attack: AttackArguments = field(default_factory=AttackArguments)
    budget: BudgetArguments = field(default_factory=BudgetArguments)
    blackbox: SearchArguments = field(default_factory=SearchArguments)
    curves: CurveArguments = field(default_factory=CurveArguments)
    certificates: CertificateArguments = field(default_factory=CertificateArguments)
    threats: ThreatArguments = field(default_factory=ThreatArguments)
    limits: LimitArguments = field(default_factory=LimitArguments)
    loading: LoadingArguments = field(default_factory=LoadingArguments)
