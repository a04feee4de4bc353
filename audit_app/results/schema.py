"""report.json: what an audit found, in a form that other programs can rely on.

`python -m hardrank.audit_app.results.schema` prints its JSON Schema, as docs/audit.schema.json holds it.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrank.audit_app.errors import AuditError

SCHEMA: Final = "hardrank.audit/1"
_LARGEST: Final = 64 * 2**20


class ReportError(AuditError):
    """A report that is missing, damaged, or of another version."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GalleryEntry(_Strict):
    """The images that were ranked."""

    name: str = Field(description="where they come from")
    sha256: str = Field(description="over ids and classes in their order; equal hashes mean the same gallery")
    items: int = Field(description="N, images in it")
    classes: int = Field(description="classes with an image in it")
    left_out: list[str] = Field(description="images that could not be used, and why")


class Settings(_Strict):
    """What decides the figures, besides the models. Reports can be compared only where these agree."""

    attacks: dict[str, dict[str, Any]] = Field(description="each attack by name, with its options")
    attacked: int = Field(description="images under attack, a sample of the gallery drawn by the seed")
    seed: int = Field(description="of the sample, the targets and the random starts")
    norm: str = Field(description="of the budget: `linf` or `l2`")
    epsilon: float = Field(description="ε, the budget, of pixels in [0,1]")
    alpha: float = Field(description="α, length of a step, of pixels in [0,1]")
    steps: int = Field(description="η, steps of gradient descent")
    engine: str = Field(description="`pgd` or `apgd`")
    random_start: bool = Field(description="whether the first run begins at a random point of the budget")
    restarts: int = Field(description="runs of which each image keeps its worst")
    method: str = Field(description="`auto` (gradients where there are any), or the search that was asked for")
    search: dict[str, Any] = Field(description="options of the black-box search that differ from its defaults")
    surrogate: str | None = Field(description="SHA-256 of the surrogate of a transfer attack")
    gallery: GalleryEntry

    def differences(self, other: "Settings") -> list[str]:
        """Name the settings in which two audits differ; the gallery's name is none of them."""
        mine, theirs = self.model_dump(), other.model_dump()
        for settings in (mine, theirs):
            settings["gallery"] = settings["gallery"]["sha256"]
        return [name for name in mine if mine[name] != theirs[name]]


class FigureEntry(_Strict):
    """One of the results, a mean over the attacked images."""

    value: float = Field(description="under attack, in its unit")
    low: float = Field(description="lower end of the 95 % bootstrap interval")
    high: float = Field(description="upper end")
    before: float = Field(description="the same of the untouched images")
    noise: float = Field(description="the same under random noise at the edge of the budget")
    score: float = Field(description="its part of ERS, 0 (the attack succeeds) to 100")
    success: float | None = Field(
        description="how far the attack got from the untouched ranking to its goal, in %; null where it began there"
    )
    unit: str
    help: str = Field(description="what the figure is")
    attacked: float = Field(description="the value when the attack has succeeded wholly")
    resisted: float = Field(description="the value that scores 100")


class BenignEntry(_Strict):
    """Retrieval with untouched images, every image of the gallery a query."""

    recall_at_1: float = Field(description="0 to 1")
    recall_at_2: float = Field(description="0 to 1")
    mean_ap: float = Field(description="mAP, 0 to 1")
    map_at_r: float = Field(description="mAP@R, 0 to 1")
    nmi: float = Field(description="normalised mutual information, 0 to 1")
    mean_cosine: float = Field(description="of all pairs: near 1 the model has collapsed")
    queries: int = Field(description="images with another of their class")
    without_match: int = Field(description="images alone in their class, left out as queries")


class CheckEntry(_Strict):
    """A reason not to trust the evaluation, or not to take the score for robustness."""

    kind: str
    where: str = Field(description="the attack or figure, or `model`")
    message: str


class CurvePointEntry(_Strict):
    """The score at one budget."""

    at: float = Field(description="the budget: ε in pixels of [0,1], steps, or queries")
    score: float = Field(description="ERS; the mean score of the figures measured where they are not all ten")
    low: float = Field(description="lower end of the 95 % bootstrap interval")
    high: float = Field(description="upper end")


class CurveEntry(_Strict):
    """How the score depends on what the attacker may spend."""

    parameter: str = Field(description="`epsilon`, `steps` or `queries`")
    attacked: int = Field(description="images of the sample")
    points: list[CurvePointEntry]


class WeakQueryEntry(_Strict):
    """An image on which the model held least."""

    id: str
    label: str = Field(description="its class; empty where unknown")
    row: int = Field(description="in the gallery")
    score: float = Field(description="mean of its scores, each cut to 0 … 100")
    weakest: str = Field(description="the figure that scored least")
    recall_before: bool = Field(description="whether the nearest other item was of its class, untouched")


class WeakClassEntry(_Strict):
    """A class whose images held least."""

    label: str
    images: int = Field(description="attacked images of the class")
    score: float = Field(description="mean over them of the score of an image")
    recall_at_1: float = Field(description="of them, untouched, in %")


class ModelEntry(_Strict):
    """A model under audit, and what was found."""

    name: str
    kind: str = Field(description="`bundle`, `backbone` (timm, torchvision) or `onnx`")
    source: str = Field(description="what was asked for: a path or a name")
    sha256: str = Field(description="of model.onnx, of the ONNX file, or over a library network's weights")
    dimension: int = Field(description="D, coordinates of an embedding")
    preprocessing: dict[str, int] = Field(description="resize and crop, pixels")
    runtime: str = Field(description="what serves the model")
    precision: str = Field(description="of the passes that give gradients; the judgement is in float32")
    defense: str | None = Field(description="how it was trained, in the paper's notation")
    recipe: str | None = Field(description="of its training")
    run_id: str | None = Field(description="the run that made it")
    notes: list[str] = Field(description="what was taken for granted, or mended, when it was loaded")
    method: dict[str, Any] = Field(description="how it was attacked: `white-box`, or the search and its options")
    benign: BenignEntry | None = Field(description="null where no class has two images")
    ers: float | None = Field(description="Empirical Robustness Score, 0 to 100; null unless all ten were measured")
    ers_low: float | None = Field(description="lower end of its 95 % bootstrap interval")
    ers_high: float | None = Field(description="upper end")
    ars: float | None = Field(description="100 − the mean success of the attacks relative to the untouched ranking")
    score: float = Field(description="mean score of the figures measured; ERS where these are all ten")
    worst_recall: float = Field(description="Recall@1 in % when each image meets the worst of its attacks")
    worst_score: float = Field(description="mean over images of the least of their scores")
    recall_at_1: float = Field(description="of the attacked images, untouched, in %")
    n: int = Field(description="attacked images")
    mean_cosine: float = Field(description="of all pairs of the gallery")
    figures: dict[str, FigureEntry]
    checks: list[CheckEntry] = Field(description="empty: no reason to distrust the evaluation was found")
    seeds: list[int] = Field(description="of the evaluation, and of its repetition as a check")
    queries: int | None = Field(description="questions that a black-box attack asked, all images together; else null")
    curves: list[CurveEntry]
    worst_queries: list[WeakQueryEntry]
    worst_classes: list[WeakClassEntry]
    per_image: str = Field(description="file beside this one with a line for each attacked image")


class AuditReport(_Strict):
    """report.json."""

    schema_version: str = Field(default=SCHEMA, description="`hardrank.audit/1`")
    created: datetime = Field(description="when, UTC")
    command: str = Field(description="what was typed")
    threat_model: list[str] = Field(description="what the attacker knows, may do, and wants, in sentences")
    settings: Settings
    models: list[ModelEntry]
    cautions: list[str] = Field(description="what to keep in mind when reading the figures")
    versions: dict[str, str] = Field(description="of Python and the libraries that computed it")
    hardware: dict[str, str] = Field(description="processor, cores, memory, accelerator, precision")

    def model(self, name: str) -> ModelEntry | None:
        """Find a model by name."""
        return next((model for model in self.models if model.name == name), None)


def read_report(path: Path) -> AuditReport:
    """Read a report.json, or that of a folder; raises `ReportError` where it is missing, damaged or too new."""
    path = path / "report.json" if path.is_dir() else path
    try:
        if path.stat().st_size > _LARGEST:
            raise ReportError(f"{path} is larger than {_LARGEST >> 20} MiB, so it is no report")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReportError(
            f"there is no report {path}; an audit writes one: python audit_app/run.py … --out DIR"
        ) from error
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} is damaged: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise ReportError(f"{path} has the schema {version!r}; this version reads {SCHEMA}")
    try:
        return AuditReport.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ReportError(f"{path} does not fit its schema: {where}: {first['msg']}") from error


if __name__ == "__main__":
    print(json.dumps(AuditReport.model_json_schema(), indent=2, ensure_ascii=False))
