"""The JSON of search results against the same values written at once."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Scope

from hardrank.models.errors import HardrankError
from hardrank.serving.agreement.calibration import Disagreement
from hardrank.serving.api.answers_json import LargeJson, batch_parts, search_parts
from hardrank.serving.api.schemas import BatchOut, SearchOut
from hardrank.serving.search.types import ModelAnswer, SearchAnswer, Timings
from hardrank.serving.store.items import Item, Match, UnknownItemError

TIMINGS = Timings(decode_ms=1.23456, search_ms=0.5)


def match(number: int) -> Match:
    item = Item(number, f'ä"{number}', f"label-{number}" if number % 2 else None, b'{"number":%d}' % number, 4, 3)
    return Match(item, 1 / (1 + number), number + 1)


def answer(*counts: int, disagreement: Disagreement | None = None) -> SearchAnswer:
    models = {f"model-{n}": ModelAnswer(matches=[match(m) for m in range(c)], timings=TIMINGS) for n, c in
              enumerate(counts)}  # fmt: skip
    return SearchAnswer(by_model=models, disagreement=disagreement)


def plain(answer: SearchAnswer) -> dict[str, Any]:
    return {
        "models": {
            key: {
                "matches": [
                    {
                        "id": found.item.id,
                        "label": found.item.label,
                        "metadata": dict(found.item.metadata),
                        "width": found.item.width,
                        "height": found.item.height,
                        "rank": found.rank,
                        "score": found.score,
                    }
                    for found in own.matches
                ],
                "timings": {"decode_ms": 1.235, "queue_ms": 0.0, "embed_ms": 0.0, "search_ms": 0.5},
            }
            for key, own in answer.by_model.items()
        },
        "suspicion": answer.disagreement.to_dict() if answer.disagreement else None,
    }


@pytest.mark.parametrize("counts", [(0,), (1,), (32,), (33, 64), (1000, 0, 65)])
def test_an_answer_in_parts_is_the_answer_written_at_once(counts: tuple[int, ...]) -> None:
    found = answer(*counts)
    written = b"".join(search_parts(found))
    assert json.loads(written) == plain(found)
    SearchOut.model_validate_json(written)


def test_a_batch_has_answers_and_problems() -> None:
    answers: list[SearchAnswer | HardrankError] = [answer(40), UnknownItemError("no item"), answer(0, 2)]
    written = b"".join(batch_parts(answers, "the-id"))
    first, second, third = json.loads(written)["answers"]
    assert first == {"answer": plain(answer(40)), "problem": None}
    assert second["answer"] is None
    assert (second["problem"]["status"], second["problem"]["request_id"]) == (404, "the-id")
    assert third == {"answer": plain(answer(0, 2)), "problem": None}
    BatchOut.model_validate_json(written)


def test_no_part_is_large_and_the_pieces_are_the_parts() -> None:
    parts = list(search_parts(answer(1000, 1000)))
    assert max(map(len, parts)) < 10_000
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    scope: Scope = {"type": "http"}
    asyncio.run(LargeJson(parts, {"a": "b"})(scope, None, send))  # type: ignore[arg-type]
    start, *pieces = messages
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"a"] == b"b"
    body = b"".join(piece["body"] for piece in pieces)
    assert body == b"".join(parts)
    assert int(headers[b"content-length"]) == len(body)
    assert 1 < len(pieces) < len(parts)
    assert [piece.get("more_body", False) for piece in pieces] == [True] * (len(pieces) - 1) + [False]
