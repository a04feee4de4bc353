"""The names of the paper parse and print."""

import csv
from pathlib import Path

import pytest

from trainer.defenses import DefenseError, parse_defense
from trainer.defenses.hm import HardnessManipulation
from trainer.destinations import Balanced, BenignTriplet, Constant, Gradual
from trainer.triplets import Sampler


@pytest.mark.parametrize(
    "name",
    [
        "regular[R]",
        "regular[S]",
        "ACT[R]",
        "HM[S,g_LGA]",
        "HM[S,g_LGA]&ICS",
        "HM[S,g_LGA]&ICS(lambda=0.05)",
        "HM[S,g_LGA](u=2.2)",
        "HM[S,g_2]",
        "HM[S,g_1/2]",
        "HM[R,M]",
        "HM[S,g_B(M)]",
        "HM[S,g_B(M;xi=0.3)]",
        "HM[S,-gamma/2]",
        "HM[S,-gamma]",
        "HM[S,0]",
        "HM[S,2]",
    ],
)
def test_what_is_printed_parses_to_the_same(name: str) -> None:
    defense = parse_defense(name)
    assert defense.name == name
    assert parse_defense(defense.name) == defense


def test_parts_of_a_name() -> None:
    defense = parse_defense("HM[D,g_B(M)]&ICS (xi=0.3)", margin=0.4)
    assert defense == HardnessManipulation(
        source=Sampler.DISTANCE, destination=Balanced(BenignTriplet(Sampler.SEMIHARD), xi=0.3), ics=0.5
    )
    assert parse_defense("HM[S,−γ/2]", margin=0.4) == HardnessManipulation(destination=Constant(-0.2, "-gamma/2"))
    assert parse_defense("HM[S,g_LGA]").name == HardnessManipulation(destination=Gradual()).name


def test_every_defense_of_the_published_tables_that_is_implemented_parses(shared_dir: Path) -> None:
    with (shared_dir / "reference" / "paper_tables.csv").open(encoding="utf-8") as stream:
        names = {row["defense"] for row in csv.DictReader(stream)}
    implemented = {name for name in names if "L_ICS" not in name}
    assert len(implemented) > 30
    for name in implemented:
        parse_defense(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HM[S", "cannot read the defense"),
        ("PGD[S]", "no defense is called 'PGD'"),
        ("HM[S]", "takes 2 arguments"),
        ("HM[X,0]", "no sampler is called 'X'"),
        ("HM[S,hard]", "no destination is called 'hard'"),
        ("HM[S,0](q=1)", "unknown option 'q'"),
        ("HM[S,0](u=high)", "cannot read the option"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, message: str) -> None:
    with pytest.raises(DefenseError, match=message.replace("[", r"\[")):
        parse_defense(name)
