"""Options as data: what attacks and engines declare, and which values they refuse or convert."""

import json
from dataclasses import asdict, fields
from enum import Enum

import numpy as np
import pytest

from hardrank.trainer.attacks.direction import Direction
from hardrank.trainer.attacks.gtm import GreedyTopMisranking, Unmatched
from hardrank.trainer.attacks.options import AttackError, Option, declared_options, plain_options
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.qa import QueryAttack
from hardrank.trainer.attacks.registry import ATTACKS, ERS_ATTACKS, SCORECARD, make_attack
from hardrank.trainer.attacks.runner import AttackEngine, AttackOptions


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_can_be_built_from_what_it_declares(name: str) -> None:
    kind = ATTACKS[name]
    built = make_attack(name, **{option.name: option.default for option in kind.options})
    assert built == make_attack(name)
    assert built.figures[0].key.startswith(name)
    assert kind.title
    for option in kind.options:
        assert option.help
        assert isinstance(option.default, option.type)
        if isinstance(option.default, int | float):
            assert option.minimum is None or option.default >= option.minimum


def test_engine_options_are_declared_too() -> None:
    found = {option.name: option for option in declared_options(AttackOptions)}
    assert set(found) == {field.name for field in fields(AttackOptions)}
    assert found["norm"].choices == ("linf", "l2")
    assert found["engine"].type is AttackEngine
    assert found["epsilon"].minimum == 0
    assert found["epsilon"].unit
    assert json.dumps([option.default for option in found.values()])


def test_directions_are_names_not_options() -> None:
    assert [option.name for option in ATTACKS["CA+"].options] == ["w", "share"]
    assert {o.name: o.default for o in ATTACKS["SPQA-"].options}["weight"] == 100.0
    assert {o.name: o.type for o in ATTACKS["GTM"].options} == {"unmatched": Unmatched}


def test_scorecard_is_registered() -> None:
    assert len(ERS_ATTACKS) == 9
    assert (*ERS_ATTACKS, "MARGIN") == SCORECARD
    assert set(SCORECARD) <= set(ATTACKS)
    assert AttackOptions().norm is Norm.LINF


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("QQ", {}, "unknown attack 'QQ'; available: CA\\+, CA-"),
        ("QA+", {"w": 1}, "no option w; it has m, share"),
        ("QA+", {"direction": "-"}, "no option direction"),
        ("TMA", {"m": 1}, "no option m; it has none"),
        ("CA+", {"w": 0}, r"w = 0 is outside its range \[1, inf\] queries"),
        ("QA-", {"share": 1.5}, r"share = 1.5 is outside its range \[0, 1\]"),
        ("SPQA+", {"weight": float("nan")}, "weight = nan"),
        ("ORDER", {"k": 1}, "k = 1"),
    ],
)
def test_refused(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(AttackError, match=says):
        make_attack(name, **options)


EVERY_OPTION = [(name, option) for name, kind in ATTACKS.items() for option in kind.options]


def named(value: object) -> str:
    return value.name if isinstance(value, Option) else str(value)


@pytest.mark.parametrize(("name", "option"), EVERY_OPTION, ids=named)
def test_every_option_of_every_attack_refuses_invalid_values(name: str, option: Option) -> None:
    invalid: list[object] = ["nonsense", None]
    if not issubclass(option.type, Enum):
        invalid += [True, float("nan")]
        invalid += [option.minimum - 1] if option.minimum is not None else []
        invalid += [option.maximum + 1] if option.maximum is not None else []
    if option.type is int:
        invalid.append(option.default + 0.5)
    for value in invalid:
        with pytest.raises(AttackError, match=option.name):
            make_attack(name, **{option.name: value})


@pytest.mark.parametrize(("name", "option"), EVERY_OPTION, ids=named)
def test_every_option_value_is_recorded_as_it_runs(name: str, option: Option) -> None:
    values = [member.value for member in option.type] if issubclass(option.type, Enum) else [option.default]
    for value in values:
        attack = make_attack(name, **{option.name: value})
        held = getattr(attack, option.name)
        assert type(held) is option.type
        recorded = plain_options(attack)[option.name]
        assert recorded == value
        assert json.loads(json.dumps(recorded)) == value


def test_gtm_runs_the_row_whose_value_is_given_as_text() -> None:
    assert make_attack("GTM", unmatched="nearest") == GreedyTopMisranking(unmatched=Unmatched.NEAREST)
    assert make_attack("GTM") == GreedyTopMisranking(unmatched=Unmatched.REFERENCE)
    with pytest.raises(AttackError, match=r"unmatched = 'nearer'; choose one of nearest, reference"):
        make_attack("GTM", unmatched="nearer")


def test_direction_given_as_text_is_the_member() -> None:
    assert QueryAttack(direction="+").direction is Direction.RAISE  # type: ignore[arg-type]
    with pytest.raises(AttackError, match="direction = 'up'"):
        QueryAttack(direction="up")  # type: ignore[arg-type]


def test_engine_options_are_strict_too() -> None:
    options = AttackOptions(norm="l2", engine="apgd", steps=np.int64(4), epsilon=0)  # type: ignore[arg-type]
    assert (options.norm, options.engine) == (Norm.L2, AttackEngine.APGD)
    assert type(options.steps) is int
    assert asdict(options)["epsilon"] == 0.0
    for wrong in ({"norm": "l1"}, {"engine": "fgsm"}, {"steps": 2.5}, {"random_start": "yes"}, {"restarts": True}):
        with pytest.raises(AttackError, match=next(iter(wrong))):
            AttackOptions(**wrong)
