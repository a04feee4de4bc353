"""What `hardrank audit` prints about a finished audit: the tables, cautions and paths."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hardrank.audit_app.drawing.formatting import format_score
from hardrank.audit_app.results.schema import HTML, REPORT, AuditReport, ModelEntry, StrongEntry, ThreatEntry
from hardrank.audit_app.results.scores import effort_text
from hardrank.trainer.attacks.gtm import Unmatched


def print_summary(console: Console, report: AuditReport, out: Path) -> None:
    """Print the tables and the paths of the report; upper bounds have a table of their own."""
    for bound in (False, True):
        if models := [model for model in report.models if model.upper_bound is bound]:
            if bound:
                console.print("\nattacked without gradients, so that scores are upper bounds:", soft_wrap=True)
            console.print(_table(report, models))
    for model in report.models:
        for threat in model.threats:
            console.print(plain(_threat(model.name, threat)), highlight=False, soft_wrap=True)
    for caution in report.cautions:
        console.print(f"[yellow]caution[/]: {plain(caution)}", highlight=False, soft_wrap=True)
    if any(model.checks for model in report.models):
        console.print(f"The failed sanity checks are listed in {plain(out / HTML)}.", highlight=False, soft_wrap=True)
    for name in (HTML, REPORT):
        console.print(str(out / name), highlight=False, soft_wrap=True, markup=False)


def _table(report: AuditReport, models: Sequence[ModelEntry]) -> Table:
    table = Table(title=f"{report.settings.attacked} of {report.settings.gallery.items} images attacked")
    table.add_column("")
    for model in models:
        table.add_column(plain(model.name), justify="right")
    for key in models[0].figures:
        table.add_row(_label(key, report), *(f"{model.figures[key].value:.3g}" for model in models))
    table.add_section()
    table.add_row("attacked with", *(effort_text(model.method, report.settings.steps) for model in models))
    table.add_row(
        "Recall@1, benign images", *(_recall(model.benign.recall_at_1 if model.benign else None) for model in models)
    )
    if any(model.ers is None for model in models):
        table.add_row("mean score", *(format_score(m.score, upper_bound=m.upper_bound) for m in models))
    table.add_row("[bold]ERS[/]  95 %", *(_ers(model) for model in models))
    table.add_row("worst-case Recall@1, %", *(_worst_case(model) for model in models))
    if any(model.strong for model in models):
        found = [model.strong if model.strong and model.strong.ers is not None else None for model in models]
        table.add_row("[bold]strong ERS[/]  95 %", *map(_strong, found))
        table.add_row("  ERS of the same images", *(f"{one.protocol_ers:.1f}" if one else "–" for one in found))
        table.add_row(
            "  images, gradients", *(f"{one.n}, {one.gradients_per_image:.0f}" if one else "–" for one in found)
        )
    return table


def _threat(name: str, threat: ThreatEntry) -> str:
    """Describe what another threat model achieves: each figure on benign images and under attack."""
    moves = [f"{key} {figure.before:.3g} → {figure.value:.3g}" for key, figure in threat.figures.items()]
    return f"{name}, {threat.name}, {threat.n} images: {', '.join(moves)}"


def _label(key: str, report: AuditReport) -> str:
    """Return the name of a result; GTM says which item it moves towards."""
    unmatched = report.settings.attacks.get("GTM", {}).get("unmatched", Unmatched.NEAREST)
    return f"GTM ({unmatched} item)" if key == "GTM" else key


def _worst_case(model: ModelEntry) -> str:
    bound = "≤\u202f" if model.upper_bound else ""
    return "–" if model.worst_case_recall is None else f"{bound}{model.worst_case_recall:.1f}"


def _strong(found: StrongEntry | None) -> str:
    if found is None:
        return "–"
    return f"[bold]{found.ers:.1f}[/]  {plain(f'[{found.ers_low:.1f}, {found.ers_high:.1f}]')}"


def _recall(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _ers(model: ModelEntry) -> str:
    if model.ers is None:
        return "–"
    interval = plain(f"[{model.ers_low:.1f}, {model.ers_high:.1f}]")
    return f"[bold]{format_score(model.ers, upper_bound=model.upper_bound)}[/]  {interval}"


def plain(text: object) -> str:
    """Escape square brackets, which rich reads as styles."""
    return escape(str(text))
