"""A large gallery within its memory."""

import pytest

from benchmarks.attacks import scale


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sixty_thousand_embeddings_are_attacked_within_two_gib() -> None:
    measured = scale()
    assert measured["gallery"] == [60_000, 512]
    assert measured["GiB_beyond"] <= 2
