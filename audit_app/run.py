"""Audit models without a page: attack them, score them, write a report, and judge it.

    python audit_app/run.py --models MODEL … (--index DIR … | --run DIR | --images DIR) --out DIR

A MODEL is the folder of a bundle, an ONNX file, timm/NAME or a torchvision name; LABEL=MODEL names it. OUT receives
report.json, report.html (one page that needs nothing else) and a CSV for each model, and request.json, by which the
pages of the app find its images. The same command after an interruption goes on where it was, and the same seed gives
the same figures.

Examples:
  the two models of the demo, on the images that they were tested with
    python audit_app/run.py --models models/zoo/demo-benign models/zoo/demo-robust --run runs/demo --out audits/demo
  a quick look: 50 images, 8 steps, three attacks
    python audit_app/run.py --models models/zoo/demo-robust --run runs/demo --out audits/look \\
        --attacks ES QA+ TMA --attacked 50 --steps 8
  one's own images (a folder for each class), with budget curves
    python audit_app/run.py --models models/zoo/demo-robust --images ~/photos --out audits/own \\
        --curve epsilon 1/255 2/255 4/255 8/255 16/255 --curve steps 4 8 16 32 64
  a plain ONNX file, which gives no gradients: 2000 questions an image and attack
    python audit_app/run.py --models model.onnx --images ~/photos --out audits/onnx --search queries=2000
  the same, attacked with images made for a bundle
    python audit_app/run.py --models model.onnx --images ~/photos --out audits/transfer \\
        --method transfer --surrogate models/zoo/demo-benign
  in continuous integration: exit status 1 when a model scores too little, or less than it did
    python audit_app/run.py --models models/zoo/demo-robust --run runs/demo --out audit \\
        --fail-under ERS=30 R@1=0.4 --fail-drop 2 --baseline previous.json

Exit status: 0 done and within the limits, 1 a limit is violated, 2 a mistake in what was asked, 130 interrupted.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hardrank.audit_app.audit.arguments import add_declared, fraction, read_pairs, take
from hardrank.audit_app.audit.options import AuditOptions, Curve, CurveParameter
from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.audit.sequence import prepare_audit
from hardrank.audit_app.blackbox import SEARCHES
from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.gallery.source import GallerySource, SourceKind
from hardrank.audit_app.report.build import settings_of
from hardrank.audit_app.report.files import HTML, JSON, write_report
from hardrank.audit_app.results.gate import (
    MEASURES,
    LimitResult,
    Limits,
    check_comparable,
    check_limits,
    judge,
    parse_limits,
)
from hardrank.audit_app.results.schema import AuditReport, read_report
from hardrank.audit_app.subjects.library_models import LibraryWeights
from hardrank.audit_app.subjects.loading import Subject, SubjectOptions
from hardrank.audit_app.subjects.onnx_file import PixelScale
from hardrank.models.errors import HardrankError
from hardrank.models.home import typed
from hardrank.models.progress import ConsoleProgress
from hardrank.serving.engine import Device
from hardrank.trainer.attacks.options import declared_options
from hardrank.trainer.attacks.registry import ATTACKS, SCORECARD
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.runtime.launch import Precision
from hardrank.trainer.runtime.malloc import keep_freed_memory

_ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Request:
    """All that was asked."""

    audit: AuditRequest
    limits: Limits
    baseline: Path | None
    out: Path


def main(arguments: list[str] | None = None) -> int:
    """Carry out the command; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console, errors = Console(), Console(stderr=True)
    try:
        request = read_request(arguments)
        keep_freed_memory()
        with ConsoleProgress(console) as progress:
            report, verdicts = carry_out(request, arguments, progress)
    except HardrankError as error:
        errors.print(f"[bold red]error[/]: {_plain(error)}", highlight=False, soft_wrap=True)
        return 2
    except OSError as error:  # a full disk, a folder without rights: the message names the file
        errors.print(f"[bold red]error[/]: {_plain(error)}; what was finished is kept", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted; what was finished is kept, and the same command goes on from there")
        return 130
    _conclude(console, report, request.out)
    for verdict in verdicts:
        mark = "[green]passed[/]" if verdict.passed else "[bold red]FAILED[/]"
        console.print(f"{mark} {_plain(verdict.line)}", highlight=False, soft_wrap=True)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def read_request(arguments: Sequence[str]) -> Request:
    """Read the arguments; raises `AuditError` and others of `HardrankError` for what cannot be asked."""
    given = _parser().parse_args(arguments)
    named = tuple(given.attacks)
    method = SearchMethod(given.method)
    draft = AuditOptions(method=method, robustness=take(given, RobustnessOptions))
    options = AuditOptions(
        attacks=SCORECARD if named == (_ALL,) else named,
        attacked=given.attacked or None,
        seed=given.seed,
        batch=given.batch,
        robustness=draft.robustness,
        method=method,
        search=read_pairs(given.search, SEARCHES[draft.searched].options, of=f"the search {draft.searched}"),
        curves=tuple(_curve(texts) for texts in given.curve),
        curve_attacked=given.curve_attacked,
        worst=given.worst,
    )
    return Request(
        audit=AuditRequest(
            models=tuple(given.models),
            gallery=_gallery(given),
            options=options,
            loading=take(given, SubjectOptions, size=given.input_size),
            surrogate=given.surrogate,
        ),
        limits=Limits(under=parse_limits(given.fail_under), drop=parse_limits(given.fail_drop, default="ERS")),
        baseline=given.baseline,
        out=given.out,
    )


def carry_out(
    request: Request, arguments: Sequence[str], progress: ConsoleProgress
) -> tuple[AuditReport, list[LimitResult]]:
    """Audit, write the report, judge it."""
    asked = request.audit
    check_limits(request.limits, [f.key for attack in asked.options.build().values() for f in attack.figures])
    if request.limits.drop and request.baseline is None:
        raise AuditError("--fail-drop compares with an earlier report; name it with --baseline")
    baseline = None if request.baseline is None else read_report(request.baseline)
    audit = prepare_audit(asked, on_progress=progress)
    if baseline is not None:
        _check_baseline(asked.options, audit.gallery, audit.surrogate, baseline)
    result = audit.run(request.out, on_progress=progress)
    # For the pages on this machine alone: the report, which is handed on, names places as they were typed.
    asked.absolute().write(request.out)
    report = write_report(
        result, request.out, command=" ".join(["python audit_app/run.py", *map(shlex.quote, arguments)])
    )
    return report, judge(report, request.limits, baseline)


def _check_baseline(
    options: AuditOptions, gallery: ImageGallery, surrogate: Subject | None, baseline: AuditReport
) -> None:
    """Refuse a baseline of other settings before hours are spent."""
    wanted = options.attacked
    attacked = len(gallery) if wanted is None else min(wanted, len(gallery))
    settings = settings_of(options, gallery, attacked=attacked, surrogate=surrogate)
    check_comparable(baseline.model_copy(update={"settings": settings}), baseline)


def _gallery(given: argparse.Namespace) -> GallerySource:
    """Read which of the three kinds was given; the parser lets no two through."""
    if given.run is not None:
        return GallerySource(kind=SourceKind.RUN, paths=(given.run,), data_root=given.data_root)
    if given.data_root is not None:
        raise AuditError("--data-root says where the images of a run have moved; it goes with --run")
    if given.images is not None:
        return GallerySource(kind=SourceKind.IMAGES, paths=(given.images,))
    return GallerySource(kind=SourceKind.INDEX, paths=tuple(given.index))


def _curve(texts: Sequence[str]) -> Curve:
    """Read `epsilon 1/255 2/255 …`."""
    name, *values = texts
    if name not in list(CurveParameter):
        raise AuditError(f"no curve runs over {name!r}; there are {', '.join(CurveParameter)}")
    try:
        return Curve(parameter=CurveParameter(name), values=tuple(fraction(value) for value in values))
    except argparse.ArgumentTypeError as error:
        raise AuditError(f"--curve {name}: {error}") from error


class _Parser(argparse.ArgumentParser):
    """Says mistakes as the rest of the command does."""

    def error(self, message: str) -> NoReturn:
        raise AuditError(f"{message} (--help shows examples)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=typed("audit"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what is audited")
    what.add_argument("--models", nargs="+", required=True, metavar="MODEL", help="bundles, ONNX files, timm/NAME, …")
    gallery = what.add_mutually_exclusive_group(required=True)
    gallery.add_argument(
        "--index", nargs="+", metavar="DIR", help="an index; several: the same images, one for each model"
    )
    gallery.add_argument("--run", metavar="DIR", help="the test images of a run, or of a bundle's run")
    gallery.add_argument("--images", metavar="DIR", help="a folder of class folders, or a CSV of path,label")
    what.add_argument("--data-root", metavar="DIR", help="with --run: the images, where they have moved since")
    what.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the report and the journal go")
    attacks = parser.add_argument_group("the attacks")
    attacks.add_argument(
        "--attacks",
        nargs="+",
        default=[_ALL],
        metavar="NAME",
        help=f"`all` (the nine that give ERS: {', '.join(SCORECARD)}), or some of {', '.join(ATTACKS)}",
    )
    attacks.add_argument(
        "--attacked",
        type=_count,
        default=500,
        metavar="N",
        help="images attacked, a seeded sample; 0: all (default 500)",
    )
    attacks.add_argument(
        "--seed", type=_count, default=0, metavar="N", help="of sample, targets and starts (default 0)"
    )
    attacks.add_argument(
        "--batch", type=_count, default=128, metavar="N", help="images attacked at a time (default 128)"
    )
    add_declared(attacks, declared_options(RobustnessOptions))
    attacks.add_argument(
        "--method",
        choices=list(map(str, SearchMethod)),
        default="auto",
        help="auto: by gradients where a model gives them, else by random squares (L∞) or NES (L2)",
    )
    attacks.add_argument(
        "--search",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of the black-box search: "
        + "; ".join(f"{name}: {', '.join(o.name for o in kind.options)}" for name, kind in SEARCHES.items()),
    )
    attacks.add_argument("--surrogate", metavar="MODEL", help="with --method transfer: the model that gives gradients")
    attacks.add_argument(
        "--curve",
        nargs="+",
        action="append",
        default=[],
        metavar="WHAT VALUE",
        help="a budget curve over epsilon, steps or queries; may be given several times",
    )
    attacks.add_argument(
        "--curve-attacked", type=_count, default=50, metavar="N", help="images of a curve (default 50)"
    )
    attacks.add_argument(
        "--worst", type=_count, default=6, metavar="N", help="worst queries and classes shown (default 6)"
    )
    gate = parser.add_argument_group("limits, for continuous integration")
    gate.add_argument(
        "--fail-under",
        nargs="+",
        default=[],
        metavar="MEASURE=NUMBER",
        help=f"the least that passes: {', '.join(MEASURES)}, or a figure's name for its score".replace("%", "%%"),
    )
    gate.add_argument(
        "--fail-drop", nargs="+", default=[], metavar="NUMBER", help="points of ERS that may be lost, or MEASURE=NUMBER"
    )
    gate.add_argument("--baseline", type=Path, metavar="JSON", help="the earlier report.json to compare with")
    models = parser.add_argument_group("how models are loaded")
    models.add_argument("--device", type=Device, choices=list(Device), default=Device.AUTO, metavar="auto|cpu|cuda")
    models.add_argument(
        "--precision",
        type=Precision,
        choices=list(Precision),
        default=Precision.AUTO,
        metavar="auto|float32|bf16",
        help="of the passes that give gradients; the judgement is in float32",
    )
    models.add_argument(
        "--exact",
        dest="precision",
        action="store_const",
        const=Precision.FLOAT32,
        help="the same as --precision float32: as accurate as the trainer's --exact, and slower where bf16 gains",
    )
    models.add_argument("--threads", type=_count, default=0, metavar="N", help="of ONNX Runtime; 0: one for each core")
    models.add_argument(
        "--input-size", type=_count, metavar="PX", help="side of the input of timm, torchvision and open ONNX files"
    )
    models.add_argument("--resize", type=_count, metavar="PX", help="side of the square that the input is cut from")
    models.add_argument(
        "--weights",
        type=LibraryWeights,
        choices=list(LibraryWeights),
        default=LibraryWeights.IMAGENET,
        metavar="imagenet|random",
        help="of timm and torchvision networks; nothing is fetched",
    )
    models.add_argument(
        "--scale",
        type=PixelScale,
        choices=list(PixelScale),
        default=PixelScale.UNIT,
        metavar="unit|symmetric|imagenet|bytes",
        help="pixel values that an ONNX file expects (default unit: 0 to 1)",
    )
    models.add_argument("--output", metavar="NAME", help="which output of an ONNX file is the embedding")
    return parser


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"give a whole number of 0 or more, not {text!r}")
    return value


def _conclude(console: Console, report: AuditReport, out: Path) -> None:
    """Print the table and where the report lies."""
    table = Table(title=f"{report.settings.attacked} of {report.settings.gallery.items} images attacked")
    table.add_column("")
    for model in report.models:
        table.add_column(_plain(model.name), justify="right")
    for key in report.models[0].figures:
        table.add_row(key, *(f"{model.figures[key].value:.3g}" for model in report.models))
    table.add_section()
    table.add_row(
        "Recall@1, untouched", *(_recall(model.benign.recall_at_1 if model.benign else None) for model in report.models)
    )
    table.add_row("[bold]ERS[/]  95 %", *(_ers(m.ers, m.ers_low, m.ers_high) for m in report.models))
    console.print(table)
    for caution in report.cautions:
        console.print(f"[yellow]caution[/]: {_plain(caution)}", highlight=False, soft_wrap=True)
    for name in (HTML, JSON):
        console.print(str(out / name), highlight=False, soft_wrap=True, markup=False)


def _recall(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _ers(value: float | None, low: float | None, high: float | None) -> str:
    return "–" if value is None else f"[bold]{value:.1f}[/]  {_plain(f'[{low:.1f}, {high:.1f}]')}"


def _plain(text: object) -> str:
    """Keep square brackets from being read as a style."""
    return escape(str(text))


if __name__ == "__main__":
    sys.exit(main())
