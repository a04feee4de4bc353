"""Repeats a recorded live attack, and compares it with the record."""

from collections.abc import Sequence
from dataclasses import dataclass

from hardrank.audit_app.blackbox.transfer import Transfer, transfer_from
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_galleries
from hardrank.audit_app.gallery.served import serve_gallery
from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.record import LiveRecord, ModelRecord, ReplayError, result_record
from hardrank.audit_app.live.result import LiveResult
from hardrank.audit_app.live.status import AttackPhase
from hardrank.audit_app.subjects.loading import load_subject
from hardrank.audit_app.subjects.subject import Subject


@dataclass(frozen=True, kw_only=True, eq=False)
class Replayed:
    """A replayed attack."""

    live: LiveAttack
    result: LiveResult
    differences: tuple[str, ...]
    """Differences from the record; empty if there are none."""


def replay(content: LiveRecord, *, models: Sequence[str] = (), gallery: GallerySource | None = None) -> Replayed:
    """Repeat a recorded attack, and compare pixels, files, targets and ranks.

    Args:
        content: The record.
        models: The models in the record's order, if they have moved.
        gallery: The gallery, if it has moved.

    Raises:
        ReplayError: The models or the gallery differ from the record's, or the attack fails.
    """
    sources = list(models) or [model.source for model in content.models]
    subjects = [load_subject(text, content.loading) for text in sources]
    _check_models(content.models, subjects)
    images = (gallery or content.gallery.source()).open()
    galleries = embed_galleries(subjects, images)
    if galleries[0].gallery.digest() != content.gallery.sha256:
        raise ReplayError(f"{images.name} does not hold the images of the record; name the gallery it was made with")
    transfers = _transfers(content, galleries)
    served = [serve_gallery(embedded) for embedded in galleries]
    live = LiveAttack(served, content.image.victim(), content.options(), transfers=transfers)
    live.start()
    status = live.wait()
    if status.phase is not AttackPhase.DONE or status.result is None:
        raise ReplayError(status.message)
    return Replayed(live=live, result=status.result, differences=_differences(content, live, status.result))


def _check_models(recorded: Sequence[ModelRecord], subjects: Sequence[Subject]) -> None:
    if len(recorded) != len(subjects):
        raise ReplayError(f"the record has {len(recorded)} models, but {len(subjects)} were given")
    for model, subject in zip(recorded, subjects, strict=True):
        if model.sha256 != subject.sha256:
            raise ReplayError(
                f"{subject.source} is not the model {model.name} of the record (SHA-256 {subject.sha256[:12]}…, not "
                f"{model.sha256[:12]}…)"
            )


def _transfers(content: LiveRecord, galleries: Sequence[EmbeddedGallery]) -> dict[str, Transfer]:
    recorded = content.method.surrogate
    if recorded is None:
        return {}
    surrogate = load_subject(recorded.source, content.loading)
    if surrogate.sha256 != recorded.sha256:
        raise ReplayError(f"{surrogate.source} is not the surrogate {recorded.name} of the record")
    return {embedded.subject.name: transfer_from(surrogate, embedded) for embedded in galleries}


def _differences(content: LiveRecord, live: LiveAttack, result: LiveResult) -> tuple[str, ...]:
    """Compare what must be identical. Models may have been renamed, so results are matched by position."""
    found = []
    for (name, was), subject in zip(content.results.items(), result.subjects.values(), strict=True):
        now = result_record(subject, live)
        for key in ("targets", "prepared_sha256", "png_sha256", "ranks_before", "ranks_after"):
            if getattr(was, key) != getattr(now, key):
                found.append(f"{name}: {key} was {getattr(was, key)}, is {getattr(now, key)}")
    return tuple(found)
