"""Parsing and printing of the paper's names."""

import pytest

from hardrank.trainer.defenses import DefenseError, parse_defense
from hardrank.trainer.defenses.destinations import Balanced, BenignTriplet, Constant, Gradual
from hardrank.trainer.defenses.est import EmbeddingShifted
from hardrank.trainer.defenses.hm import HardnessManipulation
from hardrank.trainer.defenses.minmax import MinMax
from hardrank.trainer.defenses.tride import TripletDecoupling
from hardrank.trainer.metric.samplers import Sampler
from tests.trainer.golden.cases import PAPER_TABLES
from tests.trainer.tables import read_csv


@pytest.mark.parametrize(
    "name",
    [
        "regular[R]",
        "regular[S]",
        "ACT[R]",
        "HM[S,g_LGA]",
        "HM[S,g_LGA]&ICS",
        "HM[S,g_LGA]&ICS(lambda=0.05)",
        "HM[S,g_LGA]&ICS(gamma=0.2)",
        "HM[S,g_LGA]&ICS(u=2.2, lambda=0.05, gamma=0.1)",
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
        "HM[S,0.1234567]",
        "HM[S,g_LGA]&ICS(lambda=0.123456789)",
        "EST[R]",
        "EST[D]",
        "minmax[S]",
        "minmax[H]",
        "TRIDE[S]",
        "TRIDE[R]",
        "TRIDE[S](lambda=9.5)",
        "TRIDE[D](lambda=2)",
        "TRIDE[S](lambda=0)",
        "MARGIN",
        "MARGIN(margin=2)",
        "MARGIN(margin=0.02, lambda=1)",
        "MARGIN(lambda=0.5)",
        "FARE",
        "FARE(lambda=0.5)",
    ],
)
def test_a_printed_name_parses_to_the_same_defense(name: str) -> None:
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
    assert parse_defense("EST[D]") == EmbeddingShifted(sampler=Sampler.DISTANCE)
    assert parse_defense("min-max[S]") == parse_defense("minmax[S]") == MinMax(sampler=Sampler.SOFTHARD)
    assert parse_defense("TRIDE[S]") == TripletDecoupling(sampler=Sampler.SOFTHARD, temperature=10.0)
    assert parse_defense("TRIDE[M] (lambda=9.5)") == TripletDecoupling(sampler=Sampler.SEMIHARD, temperature=9.5)


SPELLED_OTHERWISE = {
    "N/A[R]": "regular[R]",
    "HM[S,g_B(M)] (xi=0.1)": "HM[S,g_B(M)]",
    "HM[S,g_LGA]&ICS (lambda=0.5)": "HM[S,g_LGA]&ICS",
    "HM[S,g_LGA] (u=2.2)": "HM[S,g_LGA](u=2.2)",
    "HM[S,g_LGA]&ICS(lambda=1.0)": "HM[S,g_LGA]&ICS(lambda=1)",
    "HM[S,g_LGA]&L_ICS(gamma=0.2)": "HM[S,g_LGA]&ICS(gamma=0.2)",
}
"""Names of the tables that are printed differently, without options that are the default."""


def test_every_defense_of_the_published_tables_parses_and_prints() -> None:
    names = {row["defense"] for row in read_csv(PAPER_TABLES)}
    assert len(names) > 30
    for name in names:
        defense = parse_defense(name)
        assert parse_defense(defense.name) == defense
        assert defense.name == SPELLED_OTHERWISE.get(name, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HM[S", "cannot read the defense"),
        ("PGD[S]", "unknown defense 'PGD'"),
        ("HM[S]", "takes 2 arguments in brackets, not 1; write HM[S,g_LGA]"),
        ("HM[X,0]", "unknown sampler 'X'"),
        ("HM[S,hard]", "unknown destination 'hard'"),
        ("HM[S,nan]", "unknown destination 'nan'"),
        ("HM[S,2.1]", "a hardness from -2 to 2"),
        ("HM[S,0](q=1)", "no option 'q'; its options are u, xi, lambda, gamma"),
        ("ACT[S](u=1)", "no option 'u'; it takes no options"),
        ("ACT[S]&ICS", "ACT does not support &ICS"),
        ("HM[S,0](u=high)", "cannot read the option"),
        ("HM[S,g_LGA](u=inf)", "cannot read the option"),
        ("HM[S,g_LGA](u=0)", "u of HM must be above 0, not 0"),
        ("HM[S,g_LGA](u=2,u=3)", "repeats an option"),
        ("HM[S,,M]", "an empty argument"),
        ("EST[S,R]", "EST takes 1 argument in brackets, not 2; write EST[S]"),
        ("est[R]", "did you mean EST?"),
        ("HM[S,g_B(M;xi=..)]", "cannot read the option"),
        ("HM[S,g_B(M;u=1)]", "cannot read 'u=1'"),
        ("HM[S,g_B(9)]", "a hardness from -2 to 2"),
        ("HM[S,g_B(M;xi=0.3)](xi=0.5)", "xi applies only to a g_B"),
        ("HM[S,g_B(M)](xi=-1)", "xi of HM must be at least 0"),
        ("HM[S,g_LGA]&ICS(lambda=-1)", "lambda of HM must be at least 0, not -1"),
        ("EST", "EST takes 1 argument in brackets"),
        ("EST[R]&ICS", "EST does not support &ICS"),
        ("regular[R]&ICS", "regular does not support &ICS"),
        ("minmax[X]", "unknown sampler 'X'"),
        ("minmax[R](lambda=2)", "minmax has no option 'lambda'"),
        ("TRIDE", "TRIDE takes 1 argument in brackets"),
        ("TRIDE[S](lambda=-1)", "lambda of TRIDE must be at least 0, not -1"),
        ("TRIDE[S](lambda=nan)", "cannot read the option"),
        ("TRIDE[S](u=2)", "TRIDE has no option 'u'"),
        ("TRIDE[S]&ICS", "TRIDE does not support &ICS"),
        ("MARGIN[S]", "MARGIN takes no argument"),
        ("MARGIN(margin=-1)", "margin of MARGIN must be at least 0"),
        ("MARGIN(u=1)", "no option 'u'"),
        ("MARGIN&ICS", "MARGIN does not support &ICS"),
        ("FARE[S]", "FARE takes no argument"),
        ("HM[S,M](u=2)", "u applies only to g_LGA, g_2, g_1/2 and g_B"),
        ("HM[S,g_LGA](xi=0.2)", "xi applies only to a g_B"),
        ("HM[S,g_LGA](lambda=0.1)", "lambda applies only to &ICS; remove it"),
        ("HM[S,g_LGA](gamma=0.1)", "gamma applies only to &ICS; remove it"),
    ],
)
def test_invalid_names_are_errors(name: str, message: str) -> None:
    with pytest.raises(DefenseError, match=message.replace("[", r"\[")):
        parse_defense(name)
