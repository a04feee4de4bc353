"""Bundles on the Hugging Face Hub, through its own library (`pip install 'hardrank[hub]'`)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hardrank.models.bundle import CARD, ONNX, WEIGHTS, BundleError, verify_bundle
from hardrank.models.errors import HardrankError
from hardrank.models.model_card import MODEL_CARD, model_card

if TYPE_CHECKING:
    from hardrank.models.embedder import Embedder

_FILES: Final = (CARD, ONNX, WEIGHTS, MODEL_CARD)


class HubError(HardrankError):
    """The Hub's library is missing, or the Hub refuses or cannot be reached."""


def push_bundle(
    folder: Path, repository: str, *, private: bool = False, revision: str | None = None, token: str | None = None
) -> str:
    """Upload the bundle `folder` to the model repository `repository`, which is made if absent; gives its address.

    One commit, of the files of a bundle and its model card alone: nothing else that lies in the folder leaves the
    machine. `token` is left out where `hf auth login` was used. Raises `BundleError` for a damaged bundle, `HubError`
    for what the Hub refuses.
    """
    hub = _library()
    card = verify_bundle(folder)
    page = folder / MODEL_CARD
    text = page.read_text(encoding="utf-8") if page.is_file() else model_card(card)
    operations = [
        *(hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in (*card.files, CARD)),
        hub.CommitOperationAdd(path_in_repo=MODEL_CARD, path_or_fileobj=text.encode()),
    ]
    api = hub.HfApi(token=token, library_name="hardrank")
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message=f"Bundle {card.name}", revision=revision)
    except _refusals() as error:
        raise HubError(f"{repository} was not pushed: {error}") from error
    return str(made)


def pull_bundle(
    repository: str, *, revision: str | None = None, into: Path | None = None, token: str | None = None
) -> Path:
    """Download a bundle into the Hub's cache, or the folder `into`, and give its folder.

    Sizes and SHA-256 of its files are compared with its card. Raises `BundleError` where they differ or the
    repository holds no bundle, `HubError` where it cannot be had.
    """
    hub = _library()
    try:
        folder = Path(
            hub.snapshot_download(
                repository,
                revision=revision,
                local_dir=into,
                token=token,
                allow_patterns=list(_FILES),
                library_name="hardrank",
            )
        )
    except _refusals() as error:
        raise HubError(f"{repository} was not downloaded: {error}") from error
    try:
        verify_bundle(folder)
    except BundleError as error:
        raise BundleError(f"what {repository} holds is no whole bundle: {error}") from error
    return folder


def load_pretrained(place: str | Path, *, revision: str | None = None, token: str | None = None) -> "Embedder":
    """Build the network of a bundle, in evaluation mode: `place` is a folder, or a repository of the Hub."""
    from hardrank.models.bundle import load_embedder

    here = Path(place).expanduser()
    return load_embedder(here if here.is_dir() else pull_bundle(str(place), revision=revision, token=token))


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise HubError("the Hub's library is missing: pip install 'hardrank[hub]'") from error
    return huggingface_hub


def _refusals() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    return (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)
