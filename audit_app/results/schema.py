"""The schema of report.json, the machine-readable result of an audit.

`python -m hardrank.audit_app.results.schema` prints its JSON Schema, which docs/audit.schema.json holds.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, ValidationError

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.results.certificate_entries import CertificateEntry
from hardrank.audit_app.results.strict import StrictModel
from hardrank.audit_app.results.transform_entries import EditsEntry, SurvivalEntry
from hardrank.models.home import typed

SCHEMA: Final = "hardrank.audit/1"
REPORT: Final = "report.json"
HTML: Final = "report.html"
ENTRY_SUFFIX: Final = ".entry.json"
"""End of the name of a leaderboard entry; in the folder of an audit, it begins as the CSV of its model does."""
WHITE_BOX: Final = "white-box"
"""Name of the method of attacks with gradients. The scores of all other methods are upper bounds."""
_LARGEST: Final = 64 * 2**20


class ReportError(AuditError):
    """A report that is missing, damaged, or has another version."""


def _check_file_name(name: str) -> str:
    """Reject paths: a report must not name files outside its folder."""
    if Path(name).name != name or name == "..":
        raise ValueError(f"{name!r} is not a file name; files of a report are in its own folder")
    return name


FileName = Annotated[str, AfterValidator(_check_file_name)]


class GalleryEntry(StrictModel):
    """The images that are ranked."""

    name: str = Field(description="where they come from")
    sha256: str = Field(description="over ids and classes in their order; equal hashes mean the same gallery")
    items: int = Field(description="N, number of images")
    classes: int = Field(description="number of classes with an image")
    left_out: list[str] = Field(description="images that could not be used, and why")


class AuditSettings(StrictModel):
    """What determines the figures, besides the models. Reports are comparable only if these agree."""

    attacks: dict[str, dict[str, Any]] = Field(description="each attack by name, with its options")
    attacked: int = Field(description="number of attacked images, a seeded sample of the gallery")
    seed: int = Field(description="seed of the sample, the targets and the random starts")
    norm: str = Field(description="norm of the budget: `linf` or `l2`")
    epsilon: float = Field(description="budget ε, for pixels in [0,1]")
    alpha: float = Field(description="step size α, for pixels in [0,1]")
    steps: int = Field(description="steps η of gradient descent")
    engine: str = Field(description="`pgd` or `apgd`")
    random_start: bool = Field(description="whether the first run starts at a random point within the budget")
    restarts: int = Field(description="runs, of which each image keeps the worst")
    eot: int = Field(default=1, description="passes whose gradients are averaged in each step")
    method: str = Field(description="`auto` (gradients if the model has them), or the requested search")
    search: dict[str, Any] = Field(description="options of the black-box search that differ from its defaults")
    surrogate: str | None = Field(description="SHA-256 of the surrogate of a transfer attack")
    gallery: GalleryEntry

    def differences(self, other: "AuditSettings") -> list[str]:
        """Return the names of the settings in which two audits differ; the gallery's name does not count."""
        mine, theirs = self.model_dump(), other.model_dump()
        for settings in (mine, theirs):
            settings["gallery"] = settings["gallery"]["sha256"]
        return [name for name in mine if mine[name] != theirs[name]]


class FigureEntry(StrictModel):
    """One of the results, a mean over the attacked images."""

    value: float = Field(description="value under attack, in its unit")
    low: float = Field(description="lower end of the 95 % bootstrap interval")
    high: float = Field(description="upper end")
    before: float = Field(description="value on benign images")
    noise: float = Field(description="value under random noise at the edge of the budget")
    score: float = Field(description="its contribution to ERS, 0 (the attack succeeds) to 100")
    success: float | None = Field(
        description="how far the attack got from the benign value to its goal, in %; null if it started there"
    )
    unit: str
    help: str = Field(description="what the figure is")
    attacked: float = Field(description="value of a fully successful attack")
    resisted: float = Field(description="value that scores 100")


class BenignEntry(StrictModel):
    """Retrieval with benign images; every image of the gallery is a query."""

    recall_at_1: float = Field(description="0 to 1")
    recall_at_2: float = Field(description="0 to 1")
    mean_ap: float = Field(description="mAP, 0 to 1")
    map_at_r: float = Field(description="mAP@R, 0 to 1")
    nmi: float = Field(description="normalized mutual information, 0 to 1")
    mean_cosine: float = Field(description="of all pairs; near 1 the model has collapsed")
    queries: int = Field(description="images that share their class with another image")
    without_match: int = Field(description="images alone in their class, left out as queries")


class CheckEntry(StrictModel):
    """A sanity check that failed: a reason not to trust the evaluation, or not to read the score as robustness."""

    kind: str
    where: str = Field(description="the attack or figure, or `model`")
    message: str


class CurvePointEntry(StrictModel):
    """The score at one budget."""

    at: float = Field(description="the budget: ε for pixels in [0,1], steps, or queries")
    score: float = Field(description="ERS; the mean score of the measured figures if they are not all ten")
    low: float = Field(description="lower end of the 95 % bootstrap interval")
    high: float = Field(description="upper end")


class CurveEntry(StrictModel):
    """The score as a function of an attack budget."""

    parameter: str = Field(description="`epsilon`, `steps` or `queries`")
    attacked: int = Field(description="number of attacked images")
    points: list[CurvePointEntry]


class WeakQueryEntry(StrictModel):
    """One of the images with the lowest scores."""

    id: str
    label: str = Field(description="its class; empty if unknown")
    row: int = Field(description="row in the gallery")
    score: float = Field(description="mean of its scores, each clipped to [0, 100]")
    weakest: str = Field(description="the figure with its lowest score")
    recall_before: bool = Field(description="whether its nearest other item was of its class before the attack")


class WeakClassEntry(StrictModel):
    """One of the classes with the lowest scores."""

    label: str
    images: int = Field(description="number of its attacked images")
    score: float = Field(description="mean score of these images")
    recall_at_1: float = Field(description="Recall@1 of these images before the attack, in %")


class StrongFigureEntry(StrictModel):
    """One result under the strong search, a mean over its images."""

    value: float = Field(description="in its unit: for each image, the worst value that any attack found")
    score: float = Field(description="its contribution to the strong ERS, 0 (the attack succeeds) to 100")
    protocol: float = Field(description="value under the published protocol, for the same images")


class StrongSettingEntry(StrictModel):
    """One attack of the strong search, or the results of the scorecard that it starts from."""

    name: str = Field(description="the attack, its options that differ from the scorecard's, engine, steps and start")
    images: int = Field(description="number of images that it attacked: those with something left to gain")
    gradients: int = Field(description="forward and backward passes that it took")
    found: dict[str, int] = Field(description="by result, for how many images it was the first to find the worst value")


class StrongEntry(StrictModel):
    """The strong ERS: the worst of many attacks for each image and result, on a sample of the attacked images."""

    ers: float | None = Field(description="0 to 100; null unless all ten results were measured")
    ers_low: float | None = Field(description="lower end of its 95 % bootstrap interval")
    ers_high: float | None = Field(description="upper end")
    protocol_ers: float | None = Field(description="ERS of the same images under the published protocol")
    worst_case_recall: float | None = Field(
        description="Recall@1 in % that no attack takes away; null unless ES, LTM, GTM and MARGIN were measured"
    )
    figures: dict[str, StrongFigureEntry]
    n: int = Field(description="number of images")
    gradients_per_image: float = Field(description="forward and backward passes for each image, beyond the protocol's")
    seconds: float = Field(description="duration, on the hardware of the report")
    settings: list[StrongSettingEntry] = Field(description="how it was found")
    options: dict[str, Any] = Field(description="images and restarts of the search")


class ThreatEntry(StrictModel):
    """What another threat model achieves; it counts neither for ERS nor for the worst cases."""

    name: str = Field(description="`universal`, `patch` or `hub`")
    title: str = Field(description="what the attacker may do")
    n: int = Field(description="number of attacked images")
    figures: dict[str, FigureEntry] = Field(
        description="by result, with `noise` under a random change of the same budget"
    )
    options: dict[str, Any]


class ModelEntry(StrictModel):
    """A model under audit and its results."""

    name: str
    kind: str = Field(description="`bundle`, `backbone` (timm, torchvision) or `onnx`")
    source: str = Field(description="the path or name of the model, as requested")
    sha256: str = Field(description="of model.onnx, of the ONNX file, or over a library network's weights")
    dimension: int = Field(description="D, coordinates of an embedding")
    preprocessing: dict[str, int | str] = Field(description="resize and crop, pixels; fit and interpolation")
    runtime: str = Field(description="what runs the served model")
    precision: str = Field(description="precision of the gradients; images are evaluated in float32")
    defense: str | None = Field(description="how it was trained, in the paper's notation")
    recipe: str | None = Field(description="recipe of its training")
    run_id: str | None = Field(description="identifier of the training run")
    notes: list[str] = Field(description="what was assumed or corrected when the model was loaded")
    method: dict[str, Any] = Field(description="how it was attacked: `white-box`, or the search and its options")
    upper_bound: bool = Field(
        description="whether the scores are upper bounds: the model was attacked without its gradients, and an attack "
        "that has them can only find lower scores"
    )
    benign: BenignEntry | None = Field(description="null if no class has two images")
    ers: float | None = Field(description="Empirical Robustness Score, 0 to 100; null unless all ten were measured")
    ers_low: float | None = Field(description="lower end of its 95 % bootstrap interval")
    ers_high: float | None = Field(description="upper end")
    ars: float | None = Field(description="100 − the mean success of the attacks relative to the benign ranking")
    score: float = Field(description="mean score of the measured figures; ERS if they are all ten")
    worst_recall: float = Field(description="Recall@1 in % when each image meets the worst of its attacks")
    worst_case_recall: float | None = Field(
        default=None, description="the same if ES, LTM, GTM and MARGIN were all measured; null otherwise"
    )
    worst_score: float = Field(description="mean over images of their lowest score")
    strong: StrongEntry | None = Field(
        default=None, description="the strong ERS; null if it was not measured, or the attacks had no gradients"
    )
    recall_at_1: float = Field(description="Recall@1 of the attacked images before the attack, in %")
    n: int = Field(description="number of attacked images")
    mean_cosine: float = Field(description="of all pairs of the gallery")
    figures: dict[str, FigureEntry]
    checks: list[CheckEntry] = Field(description="sanity checks that failed; empty if all passed")
    seeds: list[int] = Field(description="seeds of the evaluation and of its repetition as a check")
    queries: int | None = Field(description="queries of a black-box attack for all images together; null for gradients")
    curves: list[CurveEntry]
    worst_queries: list[WeakQueryEntry]
    worst_classes: list[WeakClassEntry]
    edits: EditsEntry | None = Field(default=None, description="null unless transforms were requested")
    survival: SurvivalEntry | None = Field(default=None, description="null unless transforms were requested")
    certificates: list[CertificateEntry] = Field(
        default=[],
        description="certified Recall@1 of a smoothed version of the model, for each σ; empty unless asked",
    )
    threats: list[ThreatEntry] = Field(
        default=[], description="other threat models; empty unless requested, and for models without gradients"
    )
    per_image: FileName = Field(description="CSV in the folder of this report, with one line per attacked image")


class AuditReport(StrictModel):
    """report.json."""

    schema_version: str = Field(default=SCHEMA, description="`hardrank.audit/1`")
    created: datetime = Field(description="when, UTC")
    command: str = Field(description="command line of the audit")
    threat_model: list[str] = Field(description="what the attacker knows, may do, and wants, in sentences")
    settings: AuditSettings
    models: list[ModelEntry]
    cautions: list[str] = Field(description="what to keep in mind when reading the figures")
    versions: dict[str, str] = Field(description="versions of Python and the libraries")
    hardware: dict[str, str] = Field(description="processor, cores, memory, accelerator, precision")

    def model(self, name: str) -> ModelEntry | None:
        """Return a model by name, or None."""
        return next((model for model in self.models if model.name == name), None)


def read_report(path: Path) -> AuditReport:
    """Read and validate a report.

    Args:
        path: A report.json, or the folder that holds it.

    Raises:
        ReportError: If it is missing, damaged, larger than 64 MiB, or has another schema version.
    """
    path = path / REPORT if path.is_dir() else path
    try:
        if path.stat().st_size > _LARGEST:
            raise ReportError(f"{path} is larger than {_LARGEST >> 20} MiB, so it is not a report")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReportError(f"{path} does not exist; {typed('audit')} writes a report to its --out folder") from error
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
        raise ReportError(f"{path} does not match the schema: {where}: {first['msg']}") from error


if __name__ == "__main__":
    print(json.dumps(AuditReport.model_json_schema(), indent=2, ensure_ascii=False))
