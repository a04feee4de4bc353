"""A trained model on disk: model.onnx, weights.safetensors, card.json and README.md.

Only `load_embedder` imports torch.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from hardrank.models.card import SCHEMA, Card, FileEntry
from hardrank.models.errors import HardrankError
from hardrank.models.files import atomic_folder, restore_folder, sha256, write_json
from hardrank.models.home import typed
from hardrank.models.model_card import MODEL_CARD, model_card
from hardrank.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from hardrank.models.embedder import Embedder

CARD: Final = "card.json"
ONNX: Final = "model.onnx"
WEIGHTS: Final = "weights.safetensors"
_LARGEST_CARD: Final = 8 * 2**20


class BundleError(HardrankError):
    """A bundle that is missing, damaged, of another schema, or made by another run."""


def save_bundle(
    folder: Path,
    card: Callable[[dict[str, FileEntry]], Card],
    write: Callable[[Path], None],
    *,
    overwrite: bool = False,
) -> Card:
    """Write a bundle as a whole: if anything fails, `folder` stays as it was.

    Args:
        folder: The bundle's folder.
        card: Makes the card from the entries of the written files.
        write: Writes model.onnx and weights.safetensors into the folder it is given.
        overwrite: Replace a bundle of another run.

    Returns:
        The card.

    Raises:
        BundleError: `folder` holds a bundle of another run and `overwrite` is false.
        OSError: A file cannot be written.
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
    """Raise `BundleError` if `folder` exists and was not made by the run `run_id`, unless `overwrite`."""
    if folder.exists() and not overwrite and not is_made_by(folder, run_id):
        raise BundleError(
            f"{folder} was made by another run; give --overwrite to replace it, or another --name to keep both"
        )


def is_made_by(folder: Path, run_id: str) -> bool:
    """Return whether `folder` is a bundle of the run `run_id`."""
    try:
        return load_card(folder).run_id == run_id
    except BundleError:
        return False


def load_card(folder: Path) -> Card:
    """Read the card of a bundle.

    Args:
        folder: The bundle's folder. If a replacement of it was killed halfway, the former bundle is restored first.

    Returns:
        The card.

    Raises:
        BundleError: The folder or its card.json does not exist, or the card is damaged or of another schema.
    """
    path = folder / CARD
    restore_folder(folder)
    try:
        if path.stat().st_size > _LARGEST_CARD:
            raise BundleError(f"{path} is larger than {_LARGEST_CARD >> 20} MiB; a card is not")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.exists():
            looked = "" if folder.is_absolute() else f" (looked in {Path.cwd()})"
            raise BundleError(
                f"{folder} does not exist{looked}; correct the path, or train a model with `{typed('train')}`"
            ) from error
        raise BundleError(f"{folder} is not a bundle: it has no {CARD}; train one with `{typed('train')}`") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
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
    """Compare the size and SHA-256 of each file of a bundle with its card.

    Args:
        folder: The bundle's folder.

    Returns:
        The card.

    Raises:
        BundleError: The card cannot be read, or a file is missing or differs.
    """
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
                f"{path} does not match its card (size or SHA-256 differ); download or train the bundle again"
            )
    return card


def preprocessing_of(card: Card) -> Preprocessing:
    """Return the preprocessing that the model was trained with."""
    return Preprocessing(**vars(card.preprocessing))


def load_embedder(folder: Path, *, verify: bool = True) -> "Embedder":
    """Build the network of a bundle and load its weights (needs torch).

    Args:
        folder: The bundle's folder.
        verify: Compare all files with the card first (see `verify_bundle`).

    Returns:
        The network in evaluation mode: float pixels (N,3,H,W) in [0,1] → embeddings (N,D) of norm 1.

    Raises:
        BundleError: The bundle is damaged, or its weights do not fit its architecture.
        BackboneError: Its backbone is unknown to this version or the installed libraries.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from hardrank.models.embedder import Architecture, build_embedder

    card = verify_bundle(folder) if verify else load_card(folder)
    embedder = build_embedder(Architecture(**card.architecture.model_dump()))
    try:
        embedder.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"the weights of {folder} do not fit its architecture: {error}") from error
    return embedder.eval()
