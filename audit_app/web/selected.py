"""Which models on which gallery a visitor selected."""

from dataclasses import dataclass, field

from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.subjects.subject import SubjectOptions


@dataclass(frozen=True, kw_only=True)
class GallerySelection:
    """Which models on which gallery."""

    models: tuple[str, ...]
    gallery: GallerySource
    loading: SubjectOptions = field(default_factory=SubjectOptions)
