"""A live attack as JSON, from which it can be run again to the same pixels.

    python audit_app/replay.py FILE [--models BUNDLE …] [--gallery PLACE] [--out DIR]

gives the exit status 0 when the same adversarial images and rankings come out, 1 when others do, 2 for a file or a
place that cannot be read.
"""

import argparse
import base64
import binascii
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.blackbox.transfer import Transfer, transfer_from
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_galleries
from hardrank.audit_app.gallery.served import serve_gallery
from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.images.transforms import TransformOptions
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.outcome import RankingOutcome
from hardrank.audit_app.live.result import LiveResult, SubjectResult
from hardrank.audit_app.live.status import AttackPhase
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.subjects.loading import Subject, SubjectOptions, load_subject
from hardrank.models.errors import HardrankError
from hardrank.models.files import write_bytes
from hardrank.models.home import typed
from hardrank.trainer.attacks.runner import AttackOptions
from hardrank.trainer.runtime.environment import versions

SCHEMA: Final = "hardrank.live/1"
_LARGEST: Final = 64 * 2**20


class ReplayError(AuditError):
    """A record that cannot be read, or that belongs to other models or another gallery."""


def record(
    live: LiveAttack, result: LiveResult, source: GallerySource, *, loading: SubjectOptions | None = None
) -> dict[str, Any]:
    """Describe a finished attack so that `replay` can repeat it, and what it came to; ready for JSON.

    `loading` is how its models were loaded, where not by default.
    """
    options, gallery = live.options, live.served[0].gallery
    return {
        "schema_version": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": [_model(served.subject) for served in live.served],
        "loading": _plain(asdict(loading or SubjectOptions())),
        "gallery": {
            **source.to_dict(),
            "name": gallery.name,
            "size": len(gallery),
            "sha256": gallery.digest(),
        },
        "image": _image(live.victim),
        "attack": {"name": options.attack, "settings": _plain(dict(options.settings))},
        "engine": _plain(asdict(options.engine)),
        "targets": None if options.targets is None else list(options.targets),
        "seed": options.seed,
        "k": options.k,
        "treatment": asdict(options.transform),
        "threads": options.threads,
        "method": {"name": str(options.method), "search": _plain(dict(options.search)), "surrogate": _surrogate(live)},
        "stopped": result.stopped,
        "results": {name: _found(found, live) for name, found in result.subjects.items()},
        "transfer": [
            {"from": source_name, "to": target, **_outcome(outcome)}
            for (source_name, target), outcome in result.transfer.items()
            if source_name != target
        ],
        "versions": versions(),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Replayed:
    """An attack that was run again."""

    live: LiveAttack
    result: LiveResult
    differences: tuple[str, ...]
    """What came out otherwise than recorded; empty: nothing."""


def replay(content: dict[str, Any], *, models: Sequence[str] = (), gallery: GallerySource | None = None) -> Replayed:
    """Run a recorded attack again and compare.

    `models` and `gallery` say where they lie now, where they have moved. Raises `ReplayError` for a record that
    cannot be read, was stopped by hand, or whose models or gallery are others now.
    """
    _check(content)
    sources = list(models) or [str(model["source"]) for model in content["models"]]
    loading = _loading(content)
    subjects = [load_subject(text, loading) for text in sources]
    _check_models(content, subjects)
    images = (gallery or GallerySource.from_dict(content["gallery"])).open()
    galleries = embed_galleries(subjects, images)
    if galleries[0].gallery.digest() != content["gallery"]["sha256"]:
        raise ReplayError(f"{images.name} does not hold the images of the record; name the gallery it was made with")
    transfers = _transfers(content, galleries)
    served = [serve_gallery(embedded) for embedded in galleries]
    live = LiveAttack(served, _victim(content), _options(content), transfers=transfers)
    live.start()
    status = live.wait()
    if status.phase is not AttackPhase.DONE or status.result is None:
        raise ReplayError(status.message)
    return Replayed(live=live, result=status.result, differences=_differences(content, live, status.result))


def _surrogate(live: LiveAttack) -> dict[str, Any] | None:
    """Describe the model that a transfer attack was made on."""
    for method in live.methods.values():
        if isinstance(method, Transfer):
            return _model(method.surrogate)
    return None


def _transfers(content: dict[str, Any], galleries: Sequence[EmbeddedGallery]) -> dict[str, Transfer]:
    wanted = content.get("method", {}).get("surrogate")
    if wanted is None:
        return {}
    surrogate = load_subject(str(wanted["source"]), _loading(content))
    if surrogate.sha256 != wanted["sha256"]:
        raise ReplayError(f"{surrogate.source} is not the surrogate {wanted['name']} of the record")
    return {embedded.subject.name: transfer_from(surrogate, embedded) for embedded in galleries}


def read_record(data: bytes) -> dict[str, Any]:
    """Read a record's JSON; raises `ReplayError`."""
    try:
        content = json.loads(data)
    except (ValueError, UnicodeDecodeError) as error:
        raise ReplayError(f"the record is no JSON: {error}") from error
    _check(content)
    found: dict[str, Any] = content
    return found


def _check(content: Any) -> None:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise ReplayError(f"the record has the schema {version!r}; this version reads {SCHEMA}")
    if missing := {"models", "gallery", "image", "attack", "engine", "seed", "k", "results"} - set(content):
        raise ReplayError(f"the record lacks {', '.join(sorted(missing))}; take it as it was downloaded")
    if content.get("stopped"):
        raise ReplayError(
            "the attack of this record was stopped by hand, so it cannot be repeated; let one run to its end"
        )


def _check_models(content: dict[str, Any], subjects: Sequence[Subject]) -> None:
    wanted = content["models"]
    if len(wanted) != len(subjects):
        raise ReplayError(f"the record has {len(wanted)} models; {len(subjects)} were given")
    for model, subject in zip(wanted, subjects, strict=True):
        if model["sha256"] != subject.sha256:
            raise ReplayError(
                f"{subject.source} is not the model {model['name']} of the record (SHA-256 {subject.sha256[:12]}…, not "
                f"{str(model['sha256'])[:12]}…)"
            )


def _model(subject: Subject) -> dict[str, Any]:
    return {"name": subject.name, "source": subject.source, "sha256": subject.sha256, "precision": subject.precision}


def _image(victim: Victim) -> dict[str, Any]:
    if victim.data is None:
        return {"id": victim.id}
    return {"data": base64.b64encode(victim.data).decode("ascii"), "label": victim.label}


def _loading(content: dict[str, Any]) -> SubjectOptions:
    try:
        return TypeAdapter(SubjectOptions).validate_python(content.get("loading", {}))
    except ValidationError as error:
        raise ReplayError(f"how the record's models were loaded cannot be read: {error}") from error


def _victim(content: dict[str, Any]) -> Victim:
    image = content["image"]
    try:
        data = base64.b64decode(image["data"], validate=True) if "data" in image else None
        return Victim(id=image.get("id"), data=data, label=image.get("label"))
    except (TypeError, ValueError, binascii.Error) as error:
        raise ReplayError(f"the record's image cannot be read: {error}") from error


def _options(content: dict[str, Any]) -> LiveOptions:
    try:
        return LiveOptions(
            attack=content["attack"]["name"],
            settings=content["attack"]["settings"],
            engine=TypeAdapter(AttackOptions).validate_python(content["engine"]),
            targets=None if content.get("targets") is None else tuple(content["targets"]),
            seed=content["seed"],
            k=content["k"],
            transform=TypeAdapter(TransformOptions).validate_python(content.get("treatment", {})),
            threads=content.get("threads", 1),
            method=SearchMethod(content.get("method", {}).get("name", SearchMethod.AUTO)),
            search=content.get("method", {}).get("search", {}),
        )
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        raise ReplayError(f"the record's options cannot be read: {error}") from error


def _found(found: SubjectResult, live: LiveAttack) -> dict[str, Any]:
    ids = live.served[0].gallery.ids

    def named(row: int | None) -> str:
        return ids[row] if row is not None and row < len(ids) else "the attacked image"

    return {
        "prepared_sha256": found.prepared_sha256,
        "png_sha256": hashlib.sha256(found.png).hexdigest(),
        "targets": [ids[row] for row in found.targets],
        "tracked": [{"query": named(query), "item": named(item)} for query, item in found.tracked],
        "change_255ths": found.change,
        "queries": found.queries,
        **_outcome(found.outcome),
        "figures_before": dict(found.before),
        "survival": {key: _outcome(one.outcome) for key, one in found.survival.items()},
    }


def _outcome(outcome: RankingOutcome) -> dict[str, Any]:
    return {
        "ranks_before": list(outcome.ranks_before),
        "ranks_after": list(outcome.ranks_after),
        "top_k_overlap": outcome.overlap,
        "distance": outcome.shift.distance,
        "cosine": outcome.shift.cosine,
        "figures": dict(outcome.figures),
    }


def _differences(content: dict[str, Any], live: LiveAttack, result: LiveResult) -> tuple[str, ...]:
    """Compare what must be equal to the bit: pixels, files, targets, ranks."""
    told = []
    # Models may have been renamed since, so results are matched by their place.
    for (name, was), found in zip(content["results"].items(), result.subjects.values(), strict=True):
        now = _found(found, live)
        for key in ("targets", "prepared_sha256", "png_sha256", "ranks_before", "ranks_after"):
            if was.get(key) != now[key]:
                told.append(f"{name}: {key} was {was.get(key)}, is {now[key]}")
    return tuple(told)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Make enums their values, which validation reads back."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command; gives the exit status."""
    parser = argparse.ArgumentParser(prog=typed("replay"), description="run a recorded live attack again")
    parser.add_argument("file", type=Path, help="the JSON that the page gave")
    parser.add_argument("--models", nargs="+", default=(), help="where the models lie now, in the record's order")
    parser.add_argument("--gallery", nargs="+", help="where the gallery lies now")
    parser.add_argument("--out", type=Path, help="folder to write the adversarial PNGs to")
    options = parser.parse_args(arguments)
    try:
        content = read_record(_read(options.file))
        again = replay(
            content, models=options.models, gallery=GallerySource.at(*options.gallery) if options.gallery else None
        )
        if options.out is not None:
            _write(again.result, options.out)
    except HardrankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, found in again.result.subjects.items():
        print(
            f"{name}: ranks {list(found.outcome.ranks_before)} → {list(found.outcome.ranks_after)}, "
            f"pixels {found.prepared_sha256}"
        )
    print("\n".join(again.differences) or "the same images and rankings as recorded")
    return 1 if again.differences else 0


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise ReplayError(f"{path} is larger than {_LARGEST >> 20} MiB, so it is no record of an attack")
        return path.read_bytes()
    except OSError as error:
        raise ReplayError(f"{path} cannot be read: {error.strerror or error}") from error


def _write(result: LiveResult, folder: Path) -> None:
    for name, found in result.subjects.items():
        write_bytes(folder / f"{name}.png", found.png)


if __name__ == "__main__":
    sys.exit(main())
