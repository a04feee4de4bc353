"""An entry of a leaderboard: what one audit found about one model, with who made it.

`python -m hardrank.audit_app.entries.entry` prints the JSON Schema, which docs/entry.schema.json holds.
"""

import json
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import Field, HttpUrl, ValidationError

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.results.strict import StrictModel

SCHEMA: Final = "hardrank.entry/1"
_LARGEST: Final = 2**20
Part = TypeVar("Part", bound=StrictModel)


class EntryError(AuditError):
    """An entry, or what its authors say about it, that is missing, damaged or invalid."""


class AboutModel(StrictModel):
    """What only its authors know about a model."""

    name: str = Field(min_length=1, max_length=120, description="name of the model or method")
    link: HttpUrl = Field(description="paper or repository, http or https")
    authors: list[str] = Field(min_length=1)
    venue: str = Field(min_length=1, description="such as `CVPR 2022`, or `unpublished`")
    architecture: str = Field(min_length=1, description="backbone and input size")
    additional_data: bool = Field(description="trained on other images than the training images of the data set")
    forward_passes: int = Field(
        default=1, ge=1, description="passes through the network for one embedding; more than 1 for ensembles"
    )
    split: str = Field(min_length=1, description="which part of the data set the gallery is")
    footnote: str = ""


class MeanEntry(StrictModel):
    """A mean over images."""

    value: float
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end")


class ThreatModelEntry(StrictModel):
    """What the attacker may do."""

    norm: Literal["linf", "l2"]
    epsilon: float = Field(gt=0, description="budget ε, for pixels in [0,1]")
    alpha: float = Field(gt=0, description="step size α")
    steps: int = Field(ge=1)
    knowledge: str = Field(description="`white-box`, or the search without gradients")
    gtm: str = Field(description="the item that GTM moves towards: `reference` as published, `nearest`, or empty")


class GalleryIdentity(StrictModel):
    """The images that are ranked. Only entries with the same hash are compared."""

    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="over ids and classes in their order")
    items: int = Field(ge=2)
    classes: int = Field(ge=1)


class BenignEntry(StrictModel):
    """Retrieval without an attack; every image of the gallery is a query."""

    recall_at_1: MeanEntry = Field(description="0 to 1; the interval is Wilson's")
    mean_cosine: float = Field(ge=-1, le=1, description="of all pairs; near 1 the model has collapsed")
    queries: int = Field(ge=1)


class AttackedEntry(StrictModel):
    """Retrieval under attack."""

    n: int = Field(ge=1, description="number of attacked images")
    ers: MeanEntry = Field(description="Empirical Robustness Score, 0 to 100")
    figures: dict[str, MeanEntry] = Field(description="results of the attacks, in their units; ten of them make ERS")
    strong_ers: MeanEntry = Field(description="ERS with the worst of many attacks for each image and result")
    strong_images: int = Field(ge=1, description="number of images of the strong ERS")
    worst_case_recall: MeanEntry = Field(
        description="Recall@1 in % of the attacked images that survive ES, LTM, GTM and MARGIN; Wilson's interval"
    )
    strongest_attack: str = Field(description="the strongest attack that was tried")
    gradients_per_image: float = Field(description="passes of the strong search for each image, beyond the protocol's")


class LeaderboardEntry(StrictModel):
    """One audited model on a leaderboard."""

    schema_version: Literal["hardrank.entry/1"] = Field(default=SCHEMA)
    about: AboutModel
    model_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    defense: str | None = Field(description="how it was trained, in the paper's notation")
    threat_model: ThreatModelEntry
    gallery: GalleryIdentity
    benign: BenignEntry
    attacked: AttackedEntry
    unreliable: list[str] = Field(description="sanity checks that failed; if there are any, the score is not trusted")
    seed: int
    command: str = Field(description="the command of the audit")
    versions: dict[str, str]


def read_entry(path: Path) -> LeaderboardEntry:
    """Read and validate an entry; raises `EntryError` that names the first invalid field."""
    return _read(path, LeaderboardEntry)


def read_about(path: Path) -> AboutModel:
    """Read what the authors say about a model; raises `EntryError`."""
    return _read(path, AboutModel)


def _read(path: Path, kind: type[Part]) -> Part:
    try:
        if path.stat().st_size > _LARGEST:
            raise EntryError(f"{path} is larger than {_LARGEST >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EntryError(f"{path} cannot be read: {error}") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EntryError(f"{path}: {where or 'the file'}: {first['msg']}") from error


if __name__ == "__main__":
    print(json.dumps(LeaderboardEntry.model_json_schema(), indent=2, ensure_ascii=False))
