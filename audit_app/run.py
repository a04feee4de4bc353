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
  Your own images, of classes that the model was not trained on (a folder for each class), with budget curves:
    {command} --models models/zoo/photos-robust --images new-photos --out audits/photos \\
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
  Also JPEG, resizing, and the edits that people make to images:
    {command} --models models/zoo/demo-robust --run runs/demo --out audits/transforms --transforms
  Also universal perturbations, patches, and images that poison a gallery:
    {command} --models models/zoo/demo-robust --run runs/demo --out audits/threats --threats universal patch hub
  In at most ten minutes, with as many images as fit:
    {command} --models models/zoo/photos-robust --run runs/photos --out audits/short --time-budget 10m
  An entry of a leaderboard (hardrank leaderboard DIR); about.json says who made the model:
    {command} --models models/zoo/demo-robust --run runs/demo --out audits/demo --entry about.json
  Continuous integration: exit status 1 if a model scores below a limit, or loses points:
    {command} --models models/zoo/demo-robust --run runs/demo --out audit \\
        --fail-under ERS=30 R@1=0.4 --fail-drop 2 --baseline previous.json

Exit status: 0 done and all limits hold, 1 a limit is violated, 2 invalid arguments, 130 interrupted.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from hardrank.audit_app.audit.estimate import LONG_S
from hardrank.audit_app.audit.identity import settings_of
from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.audit.runner import gallery_warnings
from hardrank.audit_app.audit.sequence import PreparedAudit, prepare_audit
from hardrank.audit_app.audit.time_budget import describe_reduction
from hardrank.audit_app.blackbox.choice import method_name
from hardrank.audit_app.command.job import AuditCommandOptions, read_job
from hardrank.audit_app.command.summary import plain, print_summary
from hardrank.audit_app.entries.making import make_entry
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.report.files import write_report
from hardrank.audit_app.results.gate import LimitResult, check_comparable, check_limits, check_models, judge
from hardrank.audit_app.results.schema import ENTRY_SUFFIX, AuditReport, read_report
from hardrank.audit_app.subjects.subject import Subject
from hardrank.models.command_errors import report_errors
from hardrank.models.files import write_text
from hardrank.models.home import typed
from hardrank.models.progress import ConsoleProgress
from hardrank.trainer.runtime.malloc import tune_allocator


@report_errors(
    interrupted="interrupted; finished parts are kept, and the same command continues from there",
    remark="finished parts are kept",
)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 passed, 1 a limit is violated, 2 error, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console = Console()
    job = read_job(arguments, description=(__doc__ or "").format(command=typed("audit")))
    tune_allocator()
    with ConsoleProgress(console) as progress:
        report, checked = carry_out(
            job, arguments, progress, say=lambda text: console.print(plain(text), highlight=False, soft_wrap=True)
        )
    print_summary(console, report, job.out)
    for limit in checked:
        mark = "[green]passed[/]" if limit.passed else "[bold red]FAILED[/]"
        console.print(f"{mark} {plain(limit.line)}", highlight=False, soft_wrap=True)
    return 0 if all(limit.passed for limit in checked) else 1


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
    for model, about in zip(report.models, job.entries, strict=False):  # no entries, or one for each model
        path = job.out / f"{Path(model.per_image).stem}{ENTRY_SUFFIX}"
        write_text(path, make_entry(report, model, about).model_dump_json(indent=2) + "\n")
        say(f"entry for a leaderboard: {path}")
    return report, judge(report, job.limits, baseline)


def _plan(audit: PreparedAudit) -> list[str]:
    """Say what the audit does, how long it takes, and what a time budget left out."""
    request, estimate = audit.request, audit.estimate
    assert estimate is not None
    lines = [f"caution: {warning}" for warning in gallery_warnings(audit.galleries)]
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


if __name__ == "__main__":
    sys.exit(main())
