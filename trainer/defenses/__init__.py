"""The defenses by the names of the paper: `regular[S]`, `ACT[R]`, `HM[S,g_LGA]&ICS` …"""

from hardrank.trainer.defenses.defense import Conditions, Defense, DefenseError, DefenseResult
from hardrank.trainer.defenses.registry import parse_defense

__all__ = ["Conditions", "Defense", "DefenseError", "DefenseResult", "parse_defense"]
