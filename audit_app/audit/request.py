"""The request of an audit as a file beside its results, from which it can be continued or repeated."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from pydantic import TypeAdapter, ValidationError

from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.subjects.model_names import absolute_model
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.models.files import write_json

REQUEST: Final = "request.json"
SCHEMA: Final = "hardrank.audit-request/1"
_LARGEST: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """The models and gallery of an audit, and its options."""

    models: tuple[str, ...]
    """As `hardrank.audit_app.subjects.loading.load_subject` takes them."""
    gallery: GallerySource
    options: AuditOptions = field(default_factory=AuditOptions)
    loading: SubjectOptions = field(default_factory=SubjectOptions)
    surrogate: str | None = None
    """The model whose gradients transfer attacks use, likewise."""
    time_budget: float | None = None
    """Seconds that the attacks may take: fewer images, then fewer queries, are used until they fit. None: any time."""
    full_options: AuditOptions | None = None
    """The options as requested, if `options` were reduced to fit the time budget."""

    @property
    def name(self) -> str:
        """Name for a folder; equal requests have the same, so that an audit continues in its folder."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        first = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(self.models[0]).name)[:40]
        return f"{first.strip('.-') or 'audit'}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def absolute(self) -> Self:
        """Return the same request with absolute paths, which are valid in any working directory."""
        return replace(
            self,
            models=tuple(map(absolute_model, self.models)),
            gallery=self.gallery.absolute(),
            surrogate=None if self.surrogate is None else absolute_model(self.surrogate),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON; `from_dict` reads it back."""
        return {"schema_version": SCHEMA, **TypeAdapter(AuditRequest).dump_python(self, mode="json")}

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """Read what `to_dict` returned; raises `AuditError`."""
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA:
            raise AuditError(f"the request has the schema {version!r}; this version reads {SCHEMA}")
        try:
            return TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            raise AuditError(f"the request is invalid: {error}") from error

    @property
    def requested(self) -> Self:
        """The request before its options were reduced to fit the time budget."""
        return self if self.full_options is None else replace(self, options=self.full_options, full_options=None)

    def write(self, folder: Path) -> None:
        """Write it beside the results."""
        write_json(folder / REQUEST, self.to_dict())


def read_request(folder: Path) -> AuditRequest:
    """Read the request of the audit in `folder`; raises `AuditError`."""
    path = folder / REQUEST
    try:
        if path.stat().st_size > _LARGEST:
            raise AuditError(f"{path} is larger than {_LARGEST >> 20} MiB, so it is not a request")
        return AuditRequest.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise AuditError(f"{path} cannot be read: {error}") from error
