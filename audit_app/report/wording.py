"""The sentences of a report: the threat model, the cautions, and what ERS does not say."""

from collections.abc import Sequence
from typing import Final

from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.results.schema import WHITE_BOX, AuditSettings, ModelEntry, StrongEntry
from hardrank.audit_app.results.verdict import cost_text, verdict_text
from hardrank.audit_app.subjects.subject import Subject
from hardrank.trainer.attacks.attack import AttackedRole
from hardrank.trainer.attacks.gtm import gtm_text
from hardrank.trainer.attacks.options import plain_options
from hardrank.trainer.attacks.registry import ATTACKS

_FEW_IMAGES: Final = 100
"""Below this many attacked images, the report calls the sample small."""
_WIDE_INTERVAL: Final = 6.0
"""Points of ERS beyond which a 95 % interval is called wide."""
_FILES_NAMED: Final = 5
"""How many of the files left out are named."""

NOT_SAID: Final = (
    "ERS averages ten results. A high mean can hide one attack that always succeeds: read the ten parts as well.",
    "ERS depends on the attacks that were run and on their budget. A stronger or adaptive attack can only lower it, "
    "the strong ERS too: it is evidence of robustness, not a proof.",
    "A collapsed model, which embeds all images close together, scores well because nothing can move far. Read ERS "
    "together with Recall@1 and the mean cosine of random pairs.",
    "ERS covers small perturbations only: neither edits such as rotation and cropping (`--transforms` measures those "
    "apart), nor patches, universal perturbations or a poisoned gallery (`--threats` does).",
    "Relevance to people is not measured; class labels stand in for it.",
)
"""What ERS does not say."""


def threat_model(options: AuditOptions, models: Sequence[ModelEntry], surrogate: Subject | None) -> list[str]:
    """State in sentences what the attacker knows, may do, and wants."""
    robustness = options.robustness
    ball = {
        "linf": f"each pixel by at most ε = {in_255(robustness.epsilon)} of its range (L∞)",
        "l2": f"the image by at most ε = {robustness.epsilon:.3g} in Euclidean norm, with pixels in [0,1] (L2)",
    }[str(robustness.norm)]
    runs = "" if robustness.restarts == 1 else f", keeping the worst of {robustness.restarts} runs"
    white_box = [model.name for model in models if model.method["name"] == WHITE_BOX]
    moved = [name for name, attack in options.build().items() if attack.role is AttackedRole.CANDIDATE]
    exception = f", except for the one attacked candidate of {join_names(moved)}" if moved else ""
    goals = "; ".join(f"{name}: {ATTACKS[name].title}" for name in options.attacks)
    sentences = [
        f"The attacker changes {ball}. The gallery stays unchanged{exception}.",
        f"The attacker wants to change the ranking ({goals}). Each attack starts from the original image.",
    ]
    if white_box:
        sentences.append(
            f"Against {join_names(white_box)} the attacker knows everything (white-box): {robustness.steps} steps of "
            f"{str(robustness.engine).upper()} along the gradient, α = {in_255(robustness.alpha)}{runs}."
        )
    sentences += [_strong(model.name, model.strong) for model in models if model.strong is not None]
    if (gtm := options.build().get("GTM")) is not None:
        sentences.append(f"GTM: {gtm_text(plain_options(gtm))}.")
    sentences += [_without_gradients(model, surrogate) for model in models if model.method["name"] != WHITE_BOX]
    sentences.append("The final images are evaluated in float32, as the model answers queries.")
    return sentences


def _strong(name: str, strong: StrongEntry) -> str:
    return (
        f"For the strong ERS of {name}, {strong.n} of the images met stronger attacks as well: APGD, more steps, "
        "random starts, losses that aim at the reported figure, and MARGIN with more targets. Each image and result "
        f"counts with the worst of all ({cost_text(strong)})."
    )


def _without_gradients(model: ModelEntry, surrogate: Subject | None) -> str:
    method = model.method
    if surrogate is not None:
        return (
            f"Against {model.name} the attacker knows only another model, {surrogate.name}: images are made against "
            "that model and tried on this one (transfer)."
        )
    return (
        f"Against {model.name} the attacker can only query embeddings ({str(method['name']).upper()}, black-box): at "
        f"most {method['queries']} queries per image and attack, {model.queries} in total."
    )


def cautions(settings: AuditSettings, models: Sequence[ModelEntry], *, threats: bool = False) -> list[str]:
    """List what to keep in mind when reading the figures; `threats`: whether other threat models were requested."""
    sentences = [sentence for model in models for sentence in _model_cautions(model, threats=threats)]
    gallery = settings.gallery
    if settings.attacked < _FEW_IMAGES:
        sentences.append(
            f"{settings.attacked} images are a small sample; the published protocol attacks every test image."
        )
    if settings.attacked < gallery.items:
        sentences.append(
            f"{settings.attacked} of {gallery.items} images were attacked. The intervals show how the mean varies "
            "between such samples; they say nothing about other galleries."
        )
    if gallery.left_out:
        named = "; ".join(gallery.left_out[:_FILES_NAMED])
        more = len(gallery.left_out) - _FILES_NAMED
        files = "1 file was" if len(gallery.left_out) == 1 else f"{len(gallery.left_out)} files were"
        sentences.append(f"{files} left out: {named}{f'; and {more} more' if more > 0 else ''}.")
    return sentences


def _model_cautions(model: ModelEntry, *, threats: bool) -> list[str]:
    sentences = []
    if model.checks:
        sentences.append(
            f"{model.name}: {verdict_text(model)}. Do not trust this evaluation as it stands; see the failed checks."
        )
    if model.upper_bound:
        sentences.append(
            f"{model.name} was attacked without its gradients. Such attacks are weaker: its score is an upper bound "
            "(≤), and must not be compared with the score of a model attacked with gradients."
        )
    if model.ers_low is not None and model.ers_high is not None and model.ers_high - model.ers_low > _WIDE_INTERVAL:
        width = model.ers_high - model.ers_low
        sentences.append(f"{model.name}: the interval of ERS is {width:.1f} points wide; attack more images.")
    if model.ers is None:
        sentences.append(f"{model.name}: not all ten results were measured, so there is no ERS.")
    if not model.upper_bound and model.strong is None:
        sentences.append(
            f"{model.name}: stronger attacks were not tried (--strong-images 0); they usually find lower scores."
        )
    if not model.threats and threats:
        sentences.append(f"{model.name}: other threat models follow gradients, so they were not measured.")
    if model.benign is None:
        sentences.append(f"{model.name}: no class has two images, so retrieval itself could not be measured.")
    return [*sentences, *(f"{model.name}: {note}." for note in model.notes)]


def in_255(value: float) -> str:
    """Format a pixel distance in [0,1] as `8/255`."""
    return f"{255 * value:.4g}/255"


def join_names(names: Sequence[str]) -> str:
    """Join names as `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
