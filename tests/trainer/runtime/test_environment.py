"""Whether bf16 gains can be forced, on any processor."""

import pytest
import torch

from hardrank.trainer.runtime.environment import EnvironmentVariableError, gains_from_bf16
from hardrank.trainer.runtime.launch import Launch, Precision, low_precision

CPU = torch.device("cpu")


def test_the_answer_can_be_forced(bf16: bool) -> None:
    assert gains_from_bf16(CPU) is bf16
    assert low_precision(Launch(precision=Precision.AUTO), CPU) is bf16


def test_a_stated_precision_outranks_the_answer(bf16: bool) -> None:
    assert low_precision(Launch(precision=Precision.BF16), CPU)
    assert not low_precision(Launch(precision=Precision.FLOAT32), CPU)


def test_another_value_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDRANK_BF16", "yes")
    with pytest.raises(EnvironmentVariableError, match="HARDRANK_BF16 must be 0 or 1, not 'yes'"):
        gains_from_bf16(CPU)
