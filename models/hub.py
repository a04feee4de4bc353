"""Upload bundles to the Hugging Face Hub and download them (`pip install 'hardrank[hub]'`)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hardrank.models.bundle import CARD, ONNX, WEIGHTS, BundleError, load_embedder, verify_bundle
from hardrank.models.errors import HardrankError
from hardrank.models.files import expand_user
from hardrank.models.model_card import MODEL_CARD, model_card

if TYPE_CHECKING:
    from hardrank.models.embedder import Embedder

_FILES: Final = (CARD, ONNX, WEIGHTS, MODEL_CARD)


class HubError(HardrankError):
    """huggingface_hub is not installed, or the Hub refuses a request or cannot be reached."""


def push_bundle(
    folder: Path, repository: str, *, private: bool = False, revision: str | None = None, token: str | None = None
) -> str:
    """Upload a bundle to a model repository, in one commit. Other files in the folder are not uploaded.

    Args:
        folder: The bundle's folder.
        repository: `USER/NAME`; created if it does not exist.
        private: Create the repository as a private one.
        revision: Branch to commit to; None: the main branch.
        token: Access token; None: the one that `hf auth login` stored.

    Returns:
        The repository's address.

    Raises:
        BundleError: The bundle is damaged.
        HubError: The Hub refuses the upload or cannot be reached.
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
        raise HubError(f"cannot push to {repository}: {error}") from error
    return str(made)


def pull_bundle(
    repository: str, *, revision: str | None = None, into: Path | None = None, token: str | None = None
) -> Path:
    """Download a bundle and compare its files with its card.

    Args:
        repository: `USER/NAME`.
        revision: Branch, tag or commit; None: the main branch.
        into: Folder to download to; None: the Hub's cache.
        token: Access token; None: the one that `hf auth login` stored.

    Returns:
        The bundle's folder.

    Raises:
        BundleError: The repository does not hold a complete bundle.
        HubError: The repository cannot be downloaded.
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
        raise HubError(f"cannot download {repository}: {error}") from error
    try:
        verify_bundle(folder)
    except BundleError as error:
        raise BundleError(f"{repository} does not hold a complete bundle: {error}") from error
    return folder


def load_from_hub(place: str | Path, *, revision: str | None = None, token: str | None = None) -> "Embedder":
    """Download a bundle and load its network.

    Args:
        place: `USER/NAME` on the Hub, or the folder of a bundle.
        revision: Branch, tag or commit; None: the main branch.
        token: Access token; None: the one that `hf auth login` stored.

    Returns:
        The network in evaluation mode (see `hardrank.models.bundle.load_embedder`).

    Raises:
        BundleError: There is no complete bundle.
        HubError: The repository cannot be downloaded.
    """
    folder = expand_user(place)
    return load_embedder(folder if folder.is_dir() else pull_bundle(str(place), revision=revision, token=token))


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise HubError("huggingface_hub is not installed: pip install 'hardrank[hub]'") from error
    return huggingface_hub


def _refusals() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    return (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)
