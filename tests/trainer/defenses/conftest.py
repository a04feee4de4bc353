"""A network and a batch for the tests of defenses."""

import pytest

from tests.trainer.defenses.case import DefenseCase, make_case


@pytest.fixture
def case() -> DefenseCase:
    """Return a new one for each test."""
    return make_case()
