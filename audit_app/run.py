"""Audit models: attack their rankings, measure the scorecard, write a report, and check limits.

A MODEL is the folder of a bundle, an ONNX file, timm/NAME or a torchvision name; NAME@FILE loads a checkpoint of such a
network. LABEL=MODEL names it in the report.
OUT receives report.json, report.html (one page without other files), a CSV for each model, and request.json, with
which the audit app finds models and images. An interrupted audit continues with the same command. The same seed gives
the same figures.

Examples:
  The two models of the demo, on the images that they were tested with:
    {command} --models models/zoo/demo-benign models/zoo/demo-robust --run runs/demo --out audits/demo
  A quick look: 50 images, 8 steps, three attacks:
    {command} --models models/zoo/demo-robust --run runs/demo --out audits/look --attacks ES QA+ TMA \\
        --attacked 50 --steps 8
  Your own images (a folder for each class), with budget curves:
    {command} --models models/zoo/photos-robust --images photos --out audits/photos \\
        --curve epsilon 1/255 2/255 4/255 8/255 16/255 --curve steps 4 8 16 32 64
  A checkpoint of a timm network:
    {command} --models timm/resnet18 --weights resnet18.safetensors --images photos --out audits/mine
  A plain ONNX file; its gradients come from a conversion to PyTorch, which is checked:
    {command} --models model.onnx --images photos --out audits/onnx
  The same without gradients, by a black-box search with 2000 queries per image and attack:
    {command} --models model.onnx --images photos --out audits/black-box --method square --search queries=2000
  The same model, attacked with images made for a bundle:
    {command} --models model.onnx --images photos --out audits/transfer --method transfer \\
        --surrogate models/zoo/photos-benign
  In at most ten minutes, with as many images as fit:
    {command} --models models/zoo/photos-robust --images photos --out audits/short --time-budget 10m
  Continuous integration: exit status 1 if a model scores below a limit, or loses points:
    {command} --models models/zoo/demo-robust --run runs/demo --out audit \\
        --fail-under ERS=30 R@1=0.4 --fail-drop 2 --baseline previous.json

Exit status: 0 done and all limits hold, 1 a limit is violated, 2 invalid arguments, 130 interrupted.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hardrank.audit_app.audit.arguments import arguments_of, read_duration, read_pairs
from hardrank.audit_app.audit.chance import chance_warning
from hardrank.audit_app.audit.estimate import LONG_S, describe_reduction
from hardrank.audit_app.audit.identity import settings_of
from hardrank.audit_app.audit.options import AuditOptions, Curve, CurveParameter, budget_options
from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.audit.sequence import PreparedAudit, prepare_audit
from hardrank.audit_app.blackbox import SEARCHES
from hardrank.audit_app.blackbox.choice import SearchMethod, method_name, search_name
from hardrank.audit_app.drawing.formatting import format_score
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.gallery.source import GallerySource, SourceKind
from hardrank.audit_app.report.files import HTML, JSON, write_report
from hardrank.audit_app.results.gate import (
    MEASURES,
    GateLimits,
    LimitResult,
    check_comparable,
    check_limits,
    check_models,
    judge,
    parse_limits,
)
from hardrank.audit_app.results.schema import AuditReport, ModelEntry, read_report
from hardrank.audit_app.results.scores import effort_text
from hardrank.audit_app.subjects.library_models import LibraryWeights
from hardrank.audit_app.subjects.loading import Subject, SubjectOptions, with_weights
from hardrank.audit_app.subjects.onnx_file import PixelScale
from hardrank.models.cores import usable_cores
from hardrank.models.errors import HardrankError
from hardrank.models.home import typed
from hardrank.models.progress import ConsoleProgress
from hardrank.serving.engine import Device
from hardrank.trainer.attacks.gtm import Unmatched
from hardrank.trainer.attacks.registry import ATTACKS, SCORECARD
from hardrank.trainer.config import pixels
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.runtime.environment import Precision
from hardrank.trainer.runtime.malloc import keep_freed_memory

_ALL: Final = "all"
_ATTACKED: Final = 500
_NONE: Final = "(default: none)"
_SEARCH_OPTIONS: Final = "; ".join(
    f"{name}: {', '.join(option.name for option in kind.options)}" for name, kind in SEARCHES.items()
)
_PLACE = tyro.conf.create_mutex_group(required=True, title="gallery")

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
            f"or some of {', '.join(ATTACKS)}.",
        ),
    ] = (_ALL,)
    attacked: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: 500)")] = None
    """Number of attacked images, a seeded sample; 0 for all."""
    time_budget: Annotated[str | None, tyro.conf.arg(metavar="10m")] = None
    """Attack fewer images, then with fewer queries, so that the attacks take at most this long (90s, 10m, 2h). The
    report states what was reduced. By default 10m if a model is attacked by queries and neither --attacked nor
    --search queries=N is given."""
    seed: int = 0
    """Seed of the sample, the targets and the random starts."""
    batch: int = 128
    """Images attacked at a time. Results depend on it only by rounding."""
    worst: int = 6
    """Number of weakest images and classes in the report."""


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
class LimitArguments:
    """GateLimits for continuous integration: exit status 1 if one is violated."""

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
    images: GalleryArguments
    attack: AttackArguments = field(default_factory=AttackArguments)
    budget: BudgetArguments = field(default_factory=BudgetArguments)
    blackbox: SearchArguments = field(default_factory=SearchArguments)
    curves: CurveArguments = field(default_factory=CurveArguments)
    limits: LimitArguments = field(default_factory=LimitArguments)
    loading: LoadingArguments = field(default_factory=LoadingArguments)


@dataclass(frozen=True, kw_only=True)
class AuditCommandOptions:
    """Options of the command, checked."""

    request: AuditRequest
    limits: GateLimits
    baseline: Path | None
    out: Path
    overwrite: bool
    default_budget: bool
    """Whether black-box audits have a time budget by default."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 passed, 1 a limit is violated, 2 error, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console, errors = Console(), Console(stderr=True)
    try:
        job = read_job(arguments)
        keep_freed_memory()
        with ConsoleProgress(console) as progress:
            report, checked = carry_out(
                job, arguments, progress, say=lambda text: console.print(_plain(text), highlight=False, soft_wrap=True)
            )
    except HardrankError as error:
        errors.print(f"[bold red]error[/]: {_plain(error)}", highlight=False, soft_wrap=True)
        return 2
    except OSError as error:  # such as a full disk or missing rights; the message names the file
        errors.print(f"[bold red]error[/]: {_plain(error)}; finished parts are kept", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted; finished parts are kept, and the same command continues from there")
        return 130
    _print_summary(console, report, job.out)
    for limit in checked:
        mark = "[green]passed[/]" if limit.passed else "[bold red]FAILED[/]"
        console.print(f"{mark} {_plain(limit.line)}", highlight=False, soft_wrap=True)
    return 0 if all(limit.passed for limit in checked) else 1


def read_job(arguments: Sequence[str]) -> AuditCommandOptions:
    """Read the arguments; raises subclasses of `HardrankError` for invalid ones."""
    command = tyro.cli(
        Command,
        prog=typed("audit"),
        description=(__doc__ or "").format(command=typed("audit")),
        args=list(arguments),
        config=(tyro.conf.EnumChoicesFromValues, tyro.conf.OmitArgPrefixes),
    )
    attack, blackbox = command.attack, command.blackbox
    robustness = RobustnessOptions(**vars(command.budget))
    search = search_name(blackbox.method, robustness.norm)
    options = AuditOptions(
        attacks=SCORECARD if attack.attacks == (_ALL,) else attack.attacks,
        attacked=_ATTACKED if attack.attacked is None else attack.attacked or None,
        seed=attack.seed,
        batch=attack.batch,
        worst=attack.worst,
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
        default_budget=attack.attacked is None and command.limits.baseline is None,
        overwrite=command.overwrite,
    )


def carry_out(
    job: AuditCommandOptions,
    arguments: Sequence[str],
    progress: ConsoleProgress,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[AuditReport, list[LimitResult]]:
    """Audit, write the report, and check the limits; `say` receives what will be done, and how long it takes."""
    request = job.request
    check_limits(job.limits, [f.key for attack in request.options.build().values() for f in attack.figures])
    if job.limits.drop and job.baseline is None:
        raise AuditError("--fail-drop compares with an earlier report; name it with --baseline")
    baseline = None if job.baseline is None else read_report(job.baseline)
    audit = prepare_audit(request, on_progress=progress)
    options = request.options
    subjects = [embedded.subject for embedded in audit.galleries]
    methods = {one.name: method_name(one, options.method, options.robustness.norm) for one in subjects}
    check_models(job.limits, methods, retrieval=audit.gallery.has_matches, baseline=baseline)
    audit = audit.planned(job.out, default_budget=job.default_budget)
    if baseline is not None:
        _check_baseline(audit.request.options, audit.gallery, audit.surrogate, baseline)
    for line in _plan(audit):
        say(line)
    result = audit.run(job.out, overwrite=job.overwrite, on_progress=progress)
    report = write_report(result, job.out, command=f"{typed('audit')} {shlex.join(arguments)}", on_progress=progress)
    return report, judge(report, job.limits, baseline)


def _plan(audit: PreparedAudit) -> list[str]:
    """Say what the audit does, how long it takes, and what a time budget left out."""
    request, estimate = audit.request, audit.estimate
    assert estimate is not None
    lines = [f"caution: {warning}" for warning in map(chance_warning, audit.galleries) if warning]
    lines += estimate.lines()
    if request.full_options is not None and request.time_budget is not None:
        lines += describe_reduction(
            request.full_options, request.options, request.time_budget, items=len(audit.gallery)
        )
    if estimate.seconds > LONG_S and request.time_budget is None:
        lines.append("--time-budget 10m, or fewer images (--attacked 100), shortens it")
    return lines


def _check_baseline(
    options: AuditOptions, gallery: ImageGallery, surrogate: Subject | None, baseline: AuditReport
) -> None:
    """Refuse a baseline with other settings before the audit starts."""
    requested = options.attacked
    attacked = len(gallery) if requested is None else min(requested, len(gallery))
    settings = settings_of(options, gallery, attacked=attacked, surrogate=surrogate)
    check_comparable(baseline.model_copy(update={"settings": settings}), baseline)


def _gallery(given: GalleryArguments) -> GallerySource:
    if given.data_root is not None and given.run is None:
        raise AuditError("--data-root names the images of a run that have moved; use it with --run")
    if given.gallery is not None:
        return GallerySource.at(*given.gallery)
    if given.run is not None:
        return GallerySource(kind=SourceKind.RUN, paths=(given.run,), data_root=given.data_root)
    if given.images is not None:
        return GallerySource(kind=SourceKind.IMAGES, paths=(given.images,))
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


def _print_summary(console: Console, report: AuditReport, out: Path) -> None:
    """Print the tables and the paths of the report; upper bounds have a table of their own."""
    for bound in (False, True):
        if models := [model for model in report.models if model.upper_bound is bound]:
            if bound:
                console.print("\nattacked without gradients, so that scores are upper bounds:", soft_wrap=True)
            console.print(_table(report, models))
    for caution in report.cautions:
        console.print(f"[yellow]caution[/]: {_plain(caution)}", highlight=False, soft_wrap=True)
    if any(model.checks for model in report.models):
        console.print(f"The failed sanity checks are listed in {_plain(out / HTML)}.", highlight=False, soft_wrap=True)
    for name in (HTML, JSON):
        console.print(str(out / name), highlight=False, soft_wrap=True, markup=False)


def _table(report: AuditReport, models: Sequence[ModelEntry]) -> Table:
    table = Table(title=f"{report.settings.attacked} of {report.settings.gallery.items} images attacked")
    table.add_column("")
    for model in models:
        table.add_column(_plain(model.name), justify="right")
    for key in models[0].figures:
        table.add_row(_label(key, report), *(f"{model.figures[key].value:.3g}" for model in models))
    table.add_section()
    table.add_row("attacked with", *(effort_text(model.method, report.settings.steps) for model in models))
    table.add_row(
        "Recall@1, benign", *(_recall(model.benign.recall_at_1 if model.benign else None) for model in models)
    )
    if any(model.ers is None for model in models):
        table.add_row("mean score", *(format_score(m.score, upper_bound=m.upper_bound) for m in models))
    table.add_row("[bold]ERS[/]  95 %", *(_ers(model) for model in models))
    table.add_row("Recall@1 in the worst case, %", *(_worst_case(model) for model in models))
    if any(model.strong for model in models):
        table.add_row(
            "[bold]strong ERS[/]  95 %\n  ERS of the same images\n  images, gradients each",
            *(_strong(model) for model in models),
        )
    return table


def _label(key: str, report: AuditReport) -> str:
    """Return the name of a result; GTM says which item it moves towards."""
    unmatched = report.settings.attacks.get("GTM", {}).get("unmatched", Unmatched.NEAREST)
    return f"GTM ({unmatched} item)" if key == "GTM" else key


def _worst_case(model: ModelEntry) -> str:
    bound = "≤\u202f" if model.upper_bound else ""
    return "–" if model.worst_case_recall is None else f"{bound}{model.worst_case_recall:.1f}"


def _strong(model: ModelEntry) -> str:
    found = model.strong
    if found is None or found.ers is None:
        return "–"
    interval = _plain(f"[{found.ers_low:.1f}, {found.ers_high:.1f}]")
    return f"[bold]{found.ers:.1f}[/]  {interval}\n{found.protocol_ers:.1f}\n{found.n}, {found.gradients_per_image:.0f}"


def _recall(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _ers(model: ModelEntry) -> str:
    if model.ers is None:
        return "–"
    interval = _plain(f"[{model.ers_low:.1f}, {model.ers_high:.1f}]")
    return f"[bold]{format_score(model.ers, upper_bound=model.upper_bound)}[/]  {interval}"


def _plain(text: object) -> str:
    """Escape square brackets, which rich reads as styles."""
    return escape(str(text))


if __name__ == "__main__":
    sys.exit(main())
