"""The page to attack a model of your own: a name, a path, or an uploaded ONNX file or checkpoint."""

from pathlib import Path
from typing import Final

import streamlit as st
import torch

from hardrank.audit_app.audit.chance import chance_warning
from hardrank.audit_app.audit.estimate import pass_duration
from hardrank.audit_app.blackbox.choice import SEARCH_METHODS, SearchMethod
from hardrank.audit_app.blackbox.transfer import Transfer
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.subjects.library_models import LibraryWeights
from hardrank.audit_app.subjects.model_names import CHECKPOINTS, ONNX_SUFFIX
from hardrank.audit_app.subjects.onnx_file import PixelScale
from hardrank.audit_app.subjects.onnx_reading import LARGEST_FILE
from hardrank.audit_app.subjects.subject import Subject, SubjectKind, SubjectOptions
from hardrank.audit_app.web.attack_view import attack_areas, attack_view
from hardrank.audit_app.web.gallery_selection import read_gallery, wait_for, wait_for_gallery
from hardrank.audit_app.web.markdown import escape_markdown
from hardrank.audit_app.web.messages import errors_shown
from hardrank.audit_app.web.resources import LoadedGallery, load_transfers, session
from hardrank.audit_app.web.selection_fields import catalog
from hardrank.audit_app.web.session import GallerySelection, safe_name
from hardrank.audit_app.web.settings import settings
from hardrank.models.progress import duration_text

_METHODS: Final = (*SEARCH_METHODS, SearchMethod.TRANSFER)
_EXTERNAL: Final = (".data", ".onnx_data")
"""Endings of files with the weights of an ONNX file."""
_SCALE_NAMES: Final = {
    PixelScale.UNIT: "0 … 1",
    PixelScale.SYMMETRIC: "−1 … 1",
    PixelScale.IMAGENET: "ImageNet mean and deviation",
    PixelScale.BYTES: "0 … 255",
}


def own_model_page() -> None:
    """Draw the page."""
    with errors_shown():
        name = _model()
        selection = _selection(name)
        if selection is None:
            _introduction()
            return
        description, areas = st.container(), attack_areas()
        with areas.setup:
            loaded = wait_for_gallery(selection)
        with description:
            _describe(loaded[0].subject)
            st.caption(_duration(loaded))
            if (warning := chance_warning(loaded[0].embedded)) is not None:
                st.warning(escape_markdown(warning))
        with areas.all_options:
            surrogate = _surrogate(loaded)
        attack_view(
            areas,
            selection,
            loaded,
            methods=_METHODS,
            load_transfers=lambda: _load_transfers(selection, loaded, surrogate),
        )


def _model() -> str:
    """Draw the fields of the model; return its name or path, empty if there is none yet."""
    left, right = st.columns(2, gap="medium")
    name: str = left.text_input(
        "Name or path",
        placeholder="resnet18, timm/NAME, timm/NAME@FILE, a bundle folder, or an .onnx file",
        help="Weights of timm and torchvision networks must be in the cache already; nothing is downloaded. For an "
        "uploaded checkpoint, type the name of its network.",
        key="own.name",
    ).strip()
    uploaded = right.file_uploader(
        f"or an ONNX file, or a checkpoint, at most {LARGEST_FILE >> 20} MB",
        type=[ONNX_SUFFIX, *CHECKPOINTS, *_EXTERNAL],
        accept_multiple_files=True,
        key="own.file",
        max_upload_size=LARGEST_FILE >> 20,
        help="An ONNX file, with the file of its weights if it has one; or a checkpoint (safetensors, or a state dict "
        "of PyTorch) of the network named on the left. Files are checked, run on this machine, and are deleted when "
        "you leave.",
    )
    if not uploaded:
        return name
    if not name and len(uploaded) == 1 and Path(uploaded[0].name).suffix.lower() in CHECKPOINTS:
        st.info(
            f"{escape_markdown(uploaded[0].name)} holds weights: type the name of their network on the left, such as "
            "resnet18 or timm/resnet18."
        )
        return ""
    files = {safe_name(one.name): one.getvalue() for one in uploaded}
    return _uploaded_model(name, session().keep_files(files), list(files))


def _uploaded_model(name: str, folder: Path, files: list[str]) -> str:
    """Return the model in uploaded files; raises `AuditError`."""
    models = [file for file in files if Path(file).suffix.lower() == ONNX_SUFFIX]
    if len(models) > 1:
        raise AuditError(f"{len(models)} ONNX files were uploaded; give one, with the file of its weights")
    if models:
        return str(folder / models[0])
    if len(files) > 1:
        raise AuditError(f"{len(files)} checkpoints were uploaded; give one")
    if not name:
        raise AuditError(f"type the name of the network that {files[0]} belongs to, such as timm/resnet18")
    return f"{name}@{folder / files[0]}"


def _selection(name: str) -> GallerySelection | None:
    """Draw the fields of the gallery and of the model's preprocessing; return None without a model."""
    with st.expander("Gallery and preprocessing", icon=":material/photo_library:"):
        bundles = catalog().default()
        first = str(bundles[-1].folder) if bundles else ""
        gallery: str = st.text_input(
            "Gallery",
            value=" ".join(settings().gallery),
            placeholder="test images of the newest bundle" if first else "a folder with class folders, a CSV, a run",
            key="own.gallery",
        )
        one, two, three, four = st.columns(4)
        size = int(one.number_input("input, pixels", 0, 1024, 0, step=8, help="0: the model's own", key="own.size"))
        resize = int(
            two.number_input(
                "resize to, pixels",
                0,
                1200,
                0,
                step=8,
                key="own.resize",
                help="Side of the square that the input is cropped from. 0: the model's own; ONNX: 8/7 of the input.",
            )
        )
        scale = three.selectbox(
            "pixel values (ONNX)", list(PixelScale), format_func=_SCALE_NAMES.__getitem__, key="own.scale"
        )
        weights = four.selectbox(
            "weights (timm, torchvision)", list(LibraryWeights), format_func=str, key="own.weights"
        )
        output: str = st.text_input("output (ONNX)", placeholder="the only output", key="own.output").strip()
    if not name:
        return None
    loading = SubjectOptions(
        size=size or None,
        resize=resize or None,
        scale=scale or PixelScale.UNIT,
        weights=weights or LibraryWeights.IMAGENET,
        output=output or None,
    )
    return GallerySelection(models=(name,), gallery=read_gallery(gallery, first or name), loading=loading)


def _introduction() -> None:
    st.info(
        "Type a name or upload a file. Bundles, timm and torchvision networks and ONNX files are attacked with their "
        "gradients; those of an ONNX file come from a conversion to PyTorch, which is checked. A file that cannot be "
        "converted is attacked with queries (NES, SPSA, random squares), or with images made against a bundle "
        "(transfer)."
    )


def _describe(subject: Subject) -> None:
    kinds = {
        SubjectKind.BUNDLE: "a bundle",
        SubjectKind.BACKBONE: "a network of timm or torchvision",
        SubjectKind.ONNX: "a plain ONNX file"
        if subject.white_box
        else "a plain ONNX file without gradients; attacks can only query it, and the queries are counted",
    }
    pre = subject.preprocessing
    st.markdown(
        f"**{escape_markdown(subject.name)}**: {kinds[subject.kind]}. Images of {pre.crop}×{pre.crop} pixels, cropped "
        f"from {pre.resize}×{pre.resize}; embeddings of {subject.dimension} dimensions; SHA-256 "
        f"`{subject.sha256[:16]}…`"
    )
    for note in subject.notes:
        st.caption(escape_markdown(note))


def _duration(loaded: LoadedGallery) -> str:
    """Say how long an attack takes on this machine; measured once for each model."""
    embedded = loaded[0].embedded
    subject = embedded.subject
    key = f"own.pass {subject.sha256} {subject.size} {subject.white_box}"
    if key not in st.session_state:
        st.session_state[key] = pass_duration(subject, embedded.images(torch.tensor([0])))
    seconds: float = st.session_state[key]
    unit, many, count = ("gradient step", "steps", 100) if subject.white_box else ("query", "queries", 1000)
    shown = f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
    return (
        f"One {unit} takes about {shown} on this machine: {count} {many} take about {duration_text(count * seconds)}."
    )


def _surrogate(loaded: LoadedGallery) -> str:
    """Draw the field of the surrogate for transfer attacks; return its path, empty if there is none."""
    entries = catalog().entries
    if loaded[0].subject.white_box or not entries:
        return ""
    names = {str(entry.folder): entry.name for entry in entries}
    found: str = st.selectbox(
        "surrogate, for transfer",
        list(names),
        format_func=names.__getitem__,
        key="own.surrogate",
        help="the bundle that images are made against if the search is `transfer`",
    )
    return found


def _load_transfers(selection: GallerySelection, loaded: LoadedGallery, surrogate: str) -> dict[str, Transfer]:
    return wait_for(lambda: load_transfers(selection, loaded, surrogate)) if surrogate else {}
