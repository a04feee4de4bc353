"""Full batches pass a network in the way that is faster on the machine."""

import pytest

from hardrank.serving.search.chunk_choice import SMALL_CHUNK, ChunkChoice


@pytest.mark.parametrize(("whole_s", "chosen"), [(0.5, 32), (1.02, 32), (1.1, SMALL_CHUNK)])
def test_the_first_full_batches_run_both_ways_and_the_faster_one_stays(whole_s: float, chosen: int) -> None:
    choice = ChunkChoice(32)
    tried = []
    for _ in range(6):
        chunk = choice.size(32)
        tried.append(chunk)
        choice.record(32, chunk, whole_s if chunk == 32 else 1.0)
    assert sorted(tried) == [SMALL_CHUNK] * 3 + [32] * 3
    assert choice.size(32) == chosen
    choice.record(32, chosen, 100.0)
    assert choice.size(32) == chosen


def test_smaller_batches_follow_the_choice_and_decide_nothing() -> None:
    choice = ChunkChoice(32)
    for _ in range(20):
        assert choice.size(20) == SMALL_CHUNK
        choice.record(20, SMALL_CHUNK, 0.001)
    for _ in range(6):
        chunk = choice.size(32)
        choice.record(32, chunk, 0.9 if chunk == 32 else 1.0)
    assert choice.size(20) == 20
