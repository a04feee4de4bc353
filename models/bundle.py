"""A trained model on disk: model.onnx, weights.safetensors, card.json, and README.md for people.

Nothing here needs torch until weights are loaded.
"""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrank.models.errors import HardrankError
from hardrank.models.files import atomic_folder, sha256, write_json
from hardrank.models.model_card import MODEL_CARD, model_card
from hardrank.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from hardrank.models.embedder import Embedder

SCHEMA: Final = "hardrank.card/1"
CARD: Final = "card.json"
ONNX: Final = "model.onnx"
WEIGHTS: Final = "weights.safetensors"
_LARGEST_CARD: Final = 8 * 2**20


class BundleError(HardrankError):
    """A bundle that is missing, damaged, of a newer schema, or somebody else's."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """A file of the bundle."""

    sha256: str = Field(description="SHA-256 of its bytes, hexadecimal")
    bytes: int = Field(description="its size")


class ArchitectureEntry(_Strict):
    """What is needed to build the network."""

    backbone: str = Field(description="`small-resnet`, `c2f2`, a torchvision name or `timm/NAME`")
    dimension: int = Field(description="D, coordinates of an embedding")
    image_size: int = Field(description="H = W of the input, pixels")


class PreprocessingEntry(_Strict):
    """From a file's bytes to the input."""

    resize: int = Field(description="side of the square that an image is resized to, pixels")
    crop: int = Field(description="side of the centre crop of it, pixels; the network's input")


class Card(_Strict):
    """card.json: all that is known of a model."""

    schema_version: str = Field(default=SCHEMA, description="`hardrank.card/1`")
    name: str = Field(description="the bundle's name")
    run_id: str = Field(description="the run that made it; only that run replaces it unasked")
    created: datetime = Field(description="when, UTC")
    command: str = Field(description="what was typed")
    defense: str = Field(description="in the paper's notation")
    recipe: str = Field(description="name or file of the recipe")
    config: dict[str, Any] = Field(description="the full configuration; `hardrank.trainer.config` documents its fields")
    seeds: dict[str, int] = Field(description="seeds by what they decide")
    architecture: ArchitectureEntry
    preprocessing: PreprocessingEntry
    data: dict[str, Any] = Field(description="name, counts, SHA-256 and problems of the data set")
    metrics: dict[str, float] = Field(
        description="on benign images of unseen classes: recall_at_1, recall_at_2, mean_ap, map_at_r, nmi (0 to 1), "
        "mean_cosine of random pairs (near 1: collapsed), number of queries"
    )
    robustness: dict[str, Any] | None = Field(
        description="scorecard of the ten attacks, ERS, n, intervals; null: not measured"
    )
    parity: dict[str, float] = Field(description="agreement of PyTorch and ONNX Runtime, as measured at export")
    training: dict[str, Any] = Field(default_factory=dict, description="iterations, last measures of the training log")
    versions: dict[str, str] = Field(description="of Python and the libraries that computed it")
    hardware: dict[str, str] = Field(description="processor, cores, memory, accelerator, precision")
    durations: dict[str, float] = Field(description="seconds of each stage")
    files: dict[str, FileEntry] = Field(description="each file of the bundle but this and README.md, made of it")


def save_bundle(
    folder: Path,
    card: Callable[[dict[str, FileEntry]], Card],
    write: Callable[[Path], None],
    *,
    overwrite: bool = False,
) -> Card:
    """Make the bundle `folder` whole or not at all: `write` puts model.onnx and weights.safetensors in a folder.

    A bundle of another run is replaced only when `overwrite`; raises `BundleError` otherwise.
    """
    with atomic_folder(folder) as unfinished:
        write(unfinished)
        made = card(
            {
                path.name: FileEntry(sha256=sha256(path), bytes=path.stat().st_size)
                for path in sorted(unfinished.iterdir())
            }
        )
        check_replaceable(folder, made.run_id, overwrite=overwrite)
        write_json(unfinished / CARD, made.model_dump(mode="json"))
        (unfinished / MODEL_CARD).write_text(model_card(made), encoding="utf-8")
    return made


def check_replaceable(folder: Path, run_id: str, *, overwrite: bool) -> None:
    """Raise `BundleError` when `folder` holds what the run `run_id` did not make, unless `overwrite`."""
    if folder.exists() and not overwrite and not is_made_by(folder, run_id):
        raise BundleError(
            f"{folder} was made by another run; give --overwrite to replace it, or another --name to keep both"
        )


def is_made_by(folder: Path, run_id: str) -> bool:
    """Whether `folder` is a bundle that the run `run_id` made."""
    try:
        return load_card(folder).run_id == run_id
    except BundleError:
        return False


def load_card(folder: Path) -> Card:
    """Read card.json; raises `BundleError` where it is missing, damaged or of another schema."""
    path = folder / CARD
    try:
        if path.stat().st_size > _LARGEST_CARD:
            raise BundleError(f"{path} is larger than {_LARGEST_CARD >> 20} MiB, so it is no card")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{folder} is no bundle: it has no {CARD}; train one with `python trainer/run.py`") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise BundleError(f"{path} has the schema {version!r}; this version reads {SCHEMA}")
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path} does not fit its schema: {where}: {first['msg']}") from error


def verify_bundle(folder: Path) -> Card:
    """Read the card and compare each file's size and SHA-256 with it; raises `BundleError` on a difference."""
    card = load_card(folder)
    for name in (ONNX, WEIGHTS):
        if name not in card.files:
            raise BundleError(f"the card of {folder} does not list {name}")
    for name, entry in card.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise BundleError(f"{folder} lacks {name}, which its card lists")
        if path.stat().st_size != entry.bytes or sha256(path) != entry.sha256:
            raise BundleError(
                f"{path} is not the file that the card describes (size or SHA-256 differ); "
                "fetch or train the bundle again"
            )
    return card


def preprocessing_of(card: Card) -> Preprocessing:
    """Give the preprocessing that the model was trained with."""
    return Preprocessing(resize=card.preprocessing.resize, crop=card.preprocessing.crop)


def load_embedder(folder: Path, *, verify: bool = True) -> "Embedder":
    """Build the network of a bundle with its weights, in evaluation mode (needs torch). Raises `BundleError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from hardrank.models.embedder import Architecture, build_embedder

    card = verify_bundle(folder) if verify else load_card(folder)
    embedder = build_embedder(Architecture(**card.architecture.model_dump()))
    try:
        embedder.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(f"the weights of {folder} do not fit its architecture: {error}") from error
    return embedder.eval()


if __name__ == "__main__":  # the machine-readable schema, as docs/ holds it
    print(json.dumps(Card.model_json_schema(), indent=2))
