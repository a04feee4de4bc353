"""Precision: detection of bf16, and how it is overridden."""

import pytest
import torch

from hardrank.trainer.runtime.environment import EnvironmentVariableError, Precision, gains_from_bf16

CPU = torch.device("cpu")


def test_the_environment_variable_overrides_the_detection(bf16: bool) -> None:
    assert gains_from_bf16(CPU) is bf16
    assert Precision.AUTO.is_bf16(CPU) is bf16


def test_an_explicit_precision_overrides_the_environment_variable(bf16: bool) -> None:
    assert Precision.BF16.is_bf16(CPU)
    assert not Precision.FLOAT32.is_bf16(CPU)


def test_other_values_of_the_environment_variable_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDRANK_BF16", "yes")
    with pytest.raises(EnvironmentVariableError, match="HARDRANK_BF16 must be 0 or 1, not 'yes'"):
        gains_from_bf16(CPU)
