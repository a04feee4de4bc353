"""Options as data: what is declared, and what is refused."""

import json
from dataclasses import fields

import pytest

from hardrank.trainer.attacks.gtm import Unmatched
from hardrank.trainer.attacks.options import AttackError, declared_options
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS, SCORECARD, make_attack
from hardrank.trainer.attacks.runner import AttackOptions, Engine


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
    assert found["engine"].type is Engine
    assert found["epsilon"].minimum == 0
    assert found["epsilon"].unit
    assert json.dumps([option.default for option in found.values()])


def test_directions_are_names_not_options() -> None:
    assert [option.name for option in ATTACKS["CA+"].options] == ["w", "share"]
    assert {o.name: o.default for o in ATTACKS["SPQA-"].options}["weight"] == 100.0
    assert {o.name: o.type for o in ATTACKS["GTM"].options} == {"unmatched": Unmatched}


def test_scorecard_is_registered() -> None:
    assert len(SCORECARD) == 9
    assert set(SCORECARD) <= set(ATTACKS)
    assert AttackOptions().norm is Norm.LINF


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("QQ", {}, "no attack 'QQ'; there are CA\\+, CA-"),
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
