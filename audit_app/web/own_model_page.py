"""The page for a model of one's own: a name, a path, or an ONNX file that is uploaded."""

from typing import Final

import streamlit as st

from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.blackbox.transfer import Transfer
from hardrank.audit_app.subjects.library_models import LibraryWeights
from hardrank.audit_app.subjects.loading import Subject, SubjectKind, SubjectOptions
from hardrank.audit_app.subjects.onnx_file import LARGEST_FILE, PixelScale
from hardrank.audit_app.web.attack_view import Areas, attack_view
from hardrank.audit_app.web.messages import plain, told
from hardrank.audit_app.web.resources import Stage, StageKey, ask_transfers, catalogue, settings, visitor
from hardrank.audit_app.web.stage import read_gallery, wait, wait_for

_METHODS: Final = (
    SearchMethod.AUTO,
    SearchMethod.NES,
    SearchMethod.SPSA,
    SearchMethod.SQUARE,
    SearchMethod.TRANSFER,
)
_TOLD: Final = {
    PixelScale.UNIT: "0 … 1",
    PixelScale.SYMMETRIC: "−1 … 1",
    PixelScale.IMAGENET: "ImageNet: less the mean, by the deviation",
    PixelScale.BYTES: "0 … 255",
}


def own_model_page() -> None:
    """Draw the page."""
    st.markdown("## Bring your own model")
    with told():
        name = _model()
        key = _key(name)
        if key is None:
            _invite()
            return
        notes, hero, buttons, bar = st.container(), st.container(), st.container(), st.container()
        more = st.expander("All options", icon=":material/tune:")
        areas = Areas(hero, buttons, bar, more, st.container())
        with hero:
            stage = wait_for(key)
        with notes:
            _describe(stage[0].subject)
        with more:
            surrogate = _surrogate(stage)
        attack_view(areas, key, stage, methods=_METHODS, transfers=lambda: _transfers(key, stage, surrogate))


def _model() -> str:
    """Draw the fields for the model; gives its name or path, empty where there is none yet."""
    typed, file = st.columns(2, gap="medium")
    name: str = typed.text_input(
        "A name or a path",
        placeholder="resnet18, timm/NAME, the folder of a bundle, or a .onnx file on this machine",
        help="timm and torchvision networks need their weights in the cache already: nothing is fetched.",
        key="own.name",
    ).strip()
    uploaded = file.file_uploader(
        "or an ONNX file",
        type=["onnx"],
        key="own.file",
        max_upload_size=LARGEST_FILE >> 20,
        help="It is checked, runs in ONNX Runtime on this machine, and is deleted when you leave. It gives no "
        "gradients: attacks may only ask it, and the questions are counted.",
    )
    if uploaded is not None:
        return str(visitor().keep_file(uploaded.name, uploaded.getvalue()))
    return name


def _key(name: str) -> StageKey | None:
    """Draw the fields for the gallery and for how the model reads images."""
    with st.expander("Gallery, and how the model reads images", icon=":material/photo_library:"):
        bundles = catalogue().default()
        first = str(bundles[-1].folder) if bundles else ""
        gallery: str = st.text_input(
            "Gallery",
            value=" ".join(settings().gallery),
            placeholder="the test images of the newest bundle" if first else "a folder of class folders, a CSV, a run",
            key="own.gallery",
        )
        one, two, three, four = st.columns(4)
        size = int(one.number_input("input, pixels", 0, 1024, 0, step=8, help="0: the model's own", key="own.size"))
        resize = int(
            two.number_input(
                "resized to, pixels",
                0,
                1200,
                0,
                step=8,
                key="own.resize",
                help="side of the square that the input is cut from; 0: the model's own, 8/7 of the input for ONNX",
            )
        )
        scale = three.selectbox("pixel values (ONNX)", list(PixelScale), format_func=_TOLD.__getitem__, key="own.scale")
        weights = four.selectbox(
            "weights (timm, torchvision)", list(LibraryWeights), format_func=str, key="own.weights"
        )
        output: str = st.text_input("output (ONNX)", placeholder="the only one", key="own.output").strip()
    if not name:
        return None
    loading = SubjectOptions(
        size=size or None,
        resize=resize or None,
        scale=scale or PixelScale.UNIT,
        weights=weights or LibraryWeights.IMAGENET,
        output=output or None,
    )
    return StageKey(models=(name,), gallery=read_gallery(gallery, first or name), loading=loading)


def _invite() -> None:
    st.info(
        "Type a name or upload a file. A bundle, a timm or a torchvision network is attacked by its gradients; a plain "
        "ONNX file by questions alone (NES, SPSA, random squares), or with images made for a bundle (transfer)."
    )


def _describe(subject: Subject) -> None:
    kinds = {
        SubjectKind.BUNDLE: "a bundle",
        SubjectKind.BACKBONE: "a network of timm or torchvision",
        SubjectKind.ONNX: "a plain ONNX file: no gradients, so attacks may only ask it, and the questions are counted",
    }
    pre = subject.preprocessing
    st.markdown(
        f"**{plain(subject.name)}**: {kinds[subject.kind]}. Images of {pre.crop}×{pre.crop} pixels, cut from "
        f"{pre.resize}×{pre.resize}; embeddings of {subject.dimension} coordinates; SHA-256 `{subject.sha256[:16]}…`"
    )
    for note in subject.notes:
        st.caption(plain(note))


def _surrogate(stage: Stage) -> str:
    """Draw the field for the model that transfer attacks are made on; gives its path, empty for none."""
    entries = catalogue().entries
    if stage[0].subject.white_box or not entries:
        return ""
    names = {str(entry.folder): entry.name for entry in entries}
    found: str = st.selectbox(
        "surrogate, for transfer",
        list(names),
        format_func=names.__getitem__,
        key="own.surrogate",
        help="the bundle on which images are made when the search is `transfer`",
    )
    return found


def _transfers(key: StageKey, stage: Stage, surrogate: str) -> dict[str, Transfer]:
    found: dict[str, Transfer] = {}
    if surrogate:
        found = wait(lambda: ask_transfers(key, stage, surrogate))
    return found
