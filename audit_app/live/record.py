"""A live attack as a JSON record: everything that is needed to repeat it, and its results."""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.blackbox.transfer import Transfer
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.source import GallerySource, SourceKind
from hardrank.audit_app.images.transforms import TransformOptions
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.outcome import RankingOutcome
from hardrank.audit_app.live.result import LiveResult, SubjectResult
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.subjects.subject import Subject, SubjectOptions
from hardrank.models.errors import HardrankError
from hardrank.trainer.attacks.runner import AttackOptions
from hardrank.trainer.runtime.environment import versions

SCHEMA: Final = "hardrank.live/1"
LARGEST_RECORD: Final = 64 * 2**20
"""Largest size of a record, bytes."""
_MOST_MODELS: Final = 16
_SHOWN_ERRORS: Final = 3


class ReplayError(AuditError):
    """A record that is invalid, or that belongs to other models or another gallery."""


Text = Annotated[str, Field(max_length=4096)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Rank = Annotated[int, Field(ge=0)]
Ranks = Annotated[list[Rank], Field(max_length=10_000)]
Ids = Annotated[list[Text], Field(max_length=10_000)]
Settings = Annotated[dict[Text, bool | int | float | Text | None], Field(max_length=100)]
"""Options of an attack or a search, by name."""
Figures = Annotated[dict[Text, float], Field(max_length=100)]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ser_json_inf_nan="constants")


class ModelRecord(_Entry):
    """A model."""

    name: Text
    source: Text
    sha256: Sha256
    precision: Text = ""


class GalleryRecord(_Entry):
    """The gallery."""

    kind: SourceKind
    paths: Annotated[list[Text], Field(min_length=1, max_length=_MOST_MODELS)]
    data_root: Text | None = None
    name: Text = ""
    size: Annotated[int, Field(ge=1)] = 1
    sha256: Sha256

    def source(self) -> GallerySource:
        """Where the images are."""
        return GallerySource(kind=self.kind, paths=tuple(self.paths), data_root=self.data_root)


class ImageRecord(_Entry):
    """The attacked image: an item of the gallery, or a file."""

    id: Text | None = None
    data: Annotated[str, Field(max_length=LARGEST_RECORD)] | None = None
    """The file, in base64."""
    label: Text | None = None

    @model_validator(mode="after")
    def _one_image(self) -> Self:
        if (self.id is None) == (self.data is None):
            raise ValueError("give either id or data")
        if self.data is not None:
            try:
                base64.b64decode(self.data, validate=True)
            except binascii.Error as error:
                raise ValueError(f"data is not base64: {error}") from error
        return self

    def victim(self) -> Victim:
        """Return the image."""
        data = None if self.data is None else base64.b64decode(self.data, validate=True)
        return Victim(id=self.id, data=data, label=self.label)


class AttackRecord(_Entry):
    """The attack and its options."""

    name: Text
    settings: Settings


class MethodRecord(_Entry):
    """How models are attacked."""

    name: SearchMethod = SearchMethod.AUTO
    search: Settings = {}
    surrogate: ModelRecord | None = None


class TrackedRecord(_Entry):
    """A rank that is tracked: of an item, in the ranking of a query."""

    query: Text
    item: Text


class OutcomeRecord(_Entry):
    """The rankings with an image in place of the benign one."""

    ranks_before: Ranks
    ranks_after: Ranks
    top_k_overlap: float
    distance: float
    cosine: float
    figures: Figures


class TransferRecord(OutcomeRecord):
    """The outcome on one model of the image made for another."""

    source: Annotated[Text, Field(alias="from")]
    target: Annotated[Text, Field(alias="to")]


class ResultRecord(OutcomeRecord):
    """The result on one model."""

    prepared_sha256: Sha256
    png_sha256: Sha256
    targets: Ids
    tracked: Annotated[list[TrackedRecord], Field(max_length=10_000)]
    change_255ths: float
    queries: Annotated[int, Field(ge=0)] | None = None
    figures_before: Figures
    survival: Annotated[dict[Text, OutcomeRecord], Field(max_length=100)]


class LiveRecord(_Entry):
    """A finished live attack: what is needed to repeat it, and its results."""

    schema_version: Literal["hardrank.live/1"]
    created: Text = ""
    models: Annotated[list[ModelRecord], Field(min_length=1, max_length=_MOST_MODELS)]
    loading: SubjectOptions = SubjectOptions()
    gallery: GalleryRecord
    image: ImageRecord
    attack: AttackRecord
    engine: AttackOptions
    targets: Ids | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    k: Annotated[int, Field(ge=1, le=10_000)]
    treatment: TransformOptions = TransformOptions()
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    method: MethodRecord = MethodRecord()
    stopped: bool = False
    results: Annotated[dict[Text, ResultRecord], Field(max_length=_MOST_MODELS)]
    transfer: Annotated[list[TransferRecord], Field(max_length=_MOST_MODELS**2)] = []
    versions: Annotated[dict[Text, Text | None], Field(max_length=100)] = {}

    @model_validator(mode="after")
    def _one_result_per_model(self) -> Self:
        if len(self.results) != len(self.models):
            raise ValueError(f"results has {len(self.results)} entries for {len(self.models)} models")
        return self

    def to_json(self) -> str:
        """Return the JSON that `read_record` reads back."""
        return self.model_dump_json(by_alias=True, exclude_unset=True, indent=2)

    def options(self) -> LiveOptions:
        """Return the options of the attack; raises `ReplayError` for values that they refuse."""
        try:
            return LiveOptions(
                attack=self.attack.name,
                settings=self.attack.settings,
                engine=self.engine,
                targets=None if self.targets is None else tuple(self.targets),
                seed=self.seed,
                k=self.k,
                transform=self.treatment,
                threads=self.threads,
                method=self.method.name,
                search=self.method.search,
            )
        except (HardrankError, TypeError, ValueError) as error:
            raise ReplayError(f"invalid record: {error}") from error


def record(
    live: LiveAttack, result: LiveResult, source: GallerySource, *, loading: SubjectOptions | None = None
) -> LiveRecord:
    """Record a finished attack, so that `replay` can repeat it.

    Args:
        live: The attack.
        result: Its result.
        source: Where the images of the gallery are.
        loading: How the models were loaded; None for the defaults.
    """
    options, gallery = live.options, live.served[0].gallery
    moved = {} if source.data_root is None else {"data_root": source.data_root}
    return LiveRecord(
        schema_version=SCHEMA,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        models=[_model(served.subject) for served in live.served],
        loading=loading or SubjectOptions(),
        gallery=GalleryRecord(
            kind=source.kind,
            paths=list(source.paths),
            name=gallery.name,
            size=len(gallery),
            sha256=gallery.digest(),
            **moved,
        ),
        image=_image(live.victim),
        attack=AttackRecord(name=options.attack, settings=_plain(options.settings)),
        engine=options.engine,
        targets=None if options.targets is None else list(options.targets),
        seed=options.seed,
        k=options.k,
        treatment=options.transform,
        threads=options.threads,
        method=MethodRecord(name=options.method, search=_plain(options.search), surrogate=_surrogate(live)),
        stopped=result.stopped,
        results={name: result_record(found, live) for name, found in result.subjects.items()},
        transfer=[
            TransferRecord.model_validate({"from": source_name, "to": target, **_outcome(outcome)})
            for (source_name, target), outcome in result.transfer.items()
            if source_name != target
        ],
        versions=dict(versions()),
    )


def result_record(found: SubjectResult, live: LiveAttack) -> ResultRecord:
    """Record the result on one model."""
    ids = live.served[0].gallery.ids

    def named(row: int | None) -> str:
        return ids[row] if row is not None and row < len(ids) else "the attacked image"

    return ResultRecord(
        prepared_sha256=found.prepared_sha256,
        png_sha256=hashlib.sha256(found.png).hexdigest(),
        targets=[ids[row] for row in found.targets],
        tracked=[TrackedRecord(query=named(query), item=named(item)) for query, item in found.tracked],
        change_255ths=found.change,
        queries=found.queries,
        figures_before=dict(found.before),
        survival={key: OutcomeRecord(**_outcome(one.outcome)) for key, one in found.survival.items()},
        **_outcome(found.outcome),
    )


def read_record(data: bytes) -> LiveRecord:
    """Read the JSON of a record.

    Raises:
        ReplayError: It is not a record of this version, or the attack was stopped early.
    """
    if len(data) > LARGEST_RECORD:
        raise ReplayError(f"invalid record: larger than {LARGEST_RECORD >> 20} MiB")
    try:
        found = LiveRecord.model_validate_json(data)
    except ValidationError as error:
        raise ReplayError(f"invalid record: {_error_lines(error)}") from error
    except (HardrankError, RecursionError) as error:  # options out of their range
        raise ReplayError(f"invalid record: {error}") from error
    if found.stopped:
        raise ReplayError("the recorded attack was stopped early, so it cannot be replayed; record one that ended")
    return found


def _model(subject: Subject) -> ModelRecord:
    return ModelRecord(name=subject.name, source=subject.source, sha256=subject.sha256, precision=subject.precision)


def _surrogate(live: LiveAttack) -> ModelRecord | None:
    """The model of a transfer attack."""
    return next((_model(one.surrogate) for one in live.methods.values() if isinstance(one, Transfer)), None)


def _image(victim: Victim) -> ImageRecord:
    if victim.data is None:
        return ImageRecord(id=victim.id)
    return ImageRecord(data=base64.b64encode(victim.data).decode("ascii"), label=victim.label)


def _outcome(outcome: RankingOutcome) -> dict[str, Any]:
    return {
        "ranks_before": list(outcome.ranks_before),
        "ranks_after": list(outcome.ranks_after),
        "top_k_overlap": outcome.overlap,
        "distance": outcome.shift,
        "cosine": 1 - outcome.shift**2 / 2,
        "figures": dict(outcome.figures),
    }


def _plain(values: Any) -> dict[str, Any]:
    """Replace enums by their values."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return plain


def _error_lines(error: ValidationError) -> str:
    """Name the first invalid fields."""
    errors = error.errors(include_url=False, include_context=False)

    def line(place: Iterable[int | str], message: str) -> str:
        return f"{'.'.join(map(str, place))[:200] or 'content'}: {message}"

    shown = [line(one["loc"], one["msg"]) for one in errors[:_SHOWN_ERRORS]]
    more = f" (and {len(errors) - _SHOWN_ERRORS} more)" if len(errors) > _SHOWN_ERRORS else ""
    return "; ".join(shown) + more
