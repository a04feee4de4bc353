"""The files of a report: report.json, report.html, and a CSV per model."""

import csv
from pathlib import Path

from hardrank.audit_app.audit.result import AuditResult
from hardrank.audit_app.gallery.embedded import ignore_progress
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.report.build import make_report
from hardrank.audit_app.report.page import render_page
from hardrank.audit_app.results.schema import HTML, REPORT, AuditReport
from hardrank.models.files import atomic_path, write_text
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.evaluation.scorecard import Scorecard


def write_report(
    result: AuditResult, out: Path, *, command: str, on_progress: OnProgress = ignore_progress
) -> AuditReport:
    """Write report.json, report.html and a CSV per model.

    Args:
        result: What `run_audit` returned.
        out: Folder to write to. report.json is written last, so a folder that has one is complete.
        command: The command line that produced the audit, printed in the report.
        on_progress: Called when the report is begun and done.

    Returns:
        The report, as report.json holds it.

    Raises:
        OSError: If the folder cannot be written.
    """
    on_progress(StageProgress(stage="report", done=0, total=1))
    report = make_report(result, command=command)
    for model, entry in zip(result.models, report.models, strict=True):
        write_table(model.card, result.gallery, out / entry.per_image, upper_bound=entry.upper_bound)
    write_text(out / HTML, render_page(report, result))
    write_text(out / REPORT, report.model_dump_json(indent=2) + "\n")
    on_progress(StageProgress(stage="report", done=1, total=1))
    return report


def write_table(card: Scorecard, gallery: ImageGallery, path: Path, *, upper_bound: bool) -> None:
    """Write one line per attacked image: id, class, gallery row, and each figure benign, under noise and attacked.

    The column `upper_bound` is true if the attacks had no gradients, so that the scores are upper bounds.
    """
    table = card.per_image
    columns = {name: values for name, values in table.columns.items() if values.ndim == 1}
    with atomic_path(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "class", "row", "upper_bound", *columns])
        for i, row in enumerate(table.rows.tolist()):
            writer.writerow(
                [
                    gallery.ids[row],
                    gallery.label(row),
                    row,
                    str(upper_bound).lower(),
                    *(values[i].item() for values in columns.values()),
                ]
            )
