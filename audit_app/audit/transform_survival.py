"""Whether attacks survive what files go through: each attack's results after PNG, JPEG and resizing."""

from typing import Final

import numpy as np
import torch

from hardrank.audit_app.audit.estimate import AuditPart
from hardrank.audit_app.audit.intervals import mean_intervals
from hardrank.audit_app.audit.model_audit import ModelAudit
from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.images.exact_png import canvas_of, exact_png
from hardrank.audit_app.images.quantization import quantize
from hardrank.audit_app.images.transforms import TransformOptions, transforms
from hardrank.audit_app.results.transform_entries import SurvivalEntry, SurvivalFigureEntry
from hardrank.models.preprocessing import file_pixels, to_unit
from hardrank.trainer.attacks.attack import Attack, victims_in
from hardrank.trainer.evaluation.blocks import cancelled
from hardrank.trainer.evaluation.journal import Columns, Journal
from hardrank.trainer.evaluation.scorecard import Scorecard

_PROBED: Final = 16
_LEAST_CHANGE: Final = 1e-6
"""A smaller change by the attack has no share that could survive."""


def measure_survival(part: ModelAudit, rows: torch.Tensor, card: Scorecard) -> SurvivalEntry:
    """Repeat the attacks of a scorecard on some of its images, and measure its results on transformed files.

    Finished blocks are kept in the journal; a later call continues from there.

    Args:
        part: The audit of the model.
        rows: (n,) gallery rows, which `card` attacked.
        card: The scorecard; it has the targets of each image.

    Raises:
        CancelledError: `part.cancel` returned True.
    """
    embedded, options, kinds = part.embedded, part.options, transforms(TransformOptions())
    journal, total = Journal(part.journal / "transforms"), len(rows) * len(options.attacks)
    journal.open({key: kind.title for key, kind in kinds.items()}, embedded.embeddings[:_PROBED].cpu().numpy())
    places = np.searchsorted(card.per_image.rows, rows.cpu().numpy())
    figures: dict[str, SurvivalFigureEntry] = {}
    for number, (name, attack) in enumerate(options.build().items()):
        done: dict[int, Columns] = {**journal.load_rows(name)}
        left = [place for place in places if int(card.per_image.rows[place]) not in done]
        for begin in range(0, len(left), options.batch):
            if part.cancel():
                raise cancelled()
            block = left[begin : begin + options.batch]
            some = card.per_image.rows[block]
            targets = torch.from_numpy(card.per_image.columns[f"{name} targets"][block])
            columns = _attack_block(part, name, attack, torch.from_numpy(some), targets)
            journal.record(name, some, columns)
            done |= {int(row): {key: column[i] for key, column in columns.items()} for i, row in enumerate(some)}
            finished = number * len(rows) + len(done)
            part.report(AuditPart.TRANSFORMS, f"transforms on {embedded.subject.name}", finished, total)
        table = {key: np.stack([done[int(row)][key] for row in rows]) for key in kinds}
        figures |= _figures(attack, table, card.per_image.columns, places, options)
    return SurvivalEntry(n=len(rows), titles={key: kind.title for key, kind in kinds.items()}, figures=figures)


def _attack_block(part: ModelAudit, name: str, attack: Attack, rows: torch.Tensor, targets: torch.Tensor) -> Columns:
    """Attack a block of images (n,) and measure each transform → (n,F) by transform."""
    embedded, robustness = part.embedded, part.options.robustness
    found = part.repeat(name, rows, targets).images.float().cpu().numpy()
    subject, pre = embedded.subject, embedded.subject.preprocessing
    files = []
    for image, benign, row in zip(found, embedded.pixels(rows.numpy()), rows.tolist(), strict=True):
        pixels = quantize(image, benign, epsilon=robustness.epsilon, norm=robustness.norm)
        files.append(exact_png(pixels, canvas_of(embedded.gallery.read(row), pre), pre))
    victims = victims_in(embedded.tensors, rows.to(subject.device))
    columns = {}
    for key, kind in transforms(TransformOptions()).items():
        pixels = np.stack([file_pixels(kind.apply(file), pre) for file in files])
        with torch.no_grad():
            embeddings = subject.judge(torch.from_numpy(to_unit(pixels)).to(subject.device))
            values = attack.measure(embeddings, victims, embedded.tensors, targets.to(subject.device))
        columns[key] = values.double().cpu().numpy()
    return columns


def _figures(
    attack: Attack, table: Columns, measured: Columns, places: np.ndarray, options: AuditOptions
) -> dict[str, SurvivalFigureEntry]:
    """Summarize the results of one attack, `table` (n,F) by transform."""
    resamples, found = options.robustness.bootstrap, {}
    intervals = {key: mean_intervals(values, seed=options.seed, resamples=resamples) for key, values in table.items()}
    for i, figure in enumerate(attack.figures):
        before = float(measured[f"{figure.key} before"][places].mean())
        after = {key: of_all[i] for key, of_all in intervals.items()}
        change = after["png"].value - before
        survived = {
            key: None if abs(change) < _LEAST_CHANGE else 100 * (one.value - before) / change
            for key, one in after.items()
        }
        found[figure.key] = SurvivalFigureEntry(before=before, after=after, survived=survived)
    return found
