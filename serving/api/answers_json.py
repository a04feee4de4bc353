"""The JSON of search results: written and sent in parts, so that a large answer keeps nobody else waiting."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hardrank.models.errors import HardrankError
from hardrank.serving.api.problems import problem_of
from hardrank.serving.api.schemas import match_json
from hardrank.serving.search.types import ModelAnswer, SearchAnswer

_MATCHES: Final = 32
"""Results that are written at once."""
_PIECE: Final = 2**17
"""Bytes from which on parts are sent."""


def search_parts(answer: SearchAnswer) -> Iterator[bytes]:
    """Yield the parts of a `SearchOut`."""
    opening = b'{"models":{'
    for key, own in answer.by_model.items():
        yield opening + orjson.dumps(key) + b":"
        yield from _model_parts(own)
        opening = b","
    yield b'},"suspicion":' + orjson.dumps(answer.disagreement and answer.disagreement.to_dict()) + b"}"


def batch_parts(answers: Sequence[SearchAnswer | HardrankError], request_id: str) -> Iterator[bytes]:
    """Yield the parts of a `BatchOut`."""
    opening = b'{"answers":['
    for answer in answers:
        yield opening + b'{"answer":'
        if isinstance(answer, HardrankError):
            yield b'null,"problem":' + orjson.dumps(problem_of(answer, request_id).model_dump(exclude_none=True))
        else:
            yield from search_parts(answer)
            yield b',"problem":null'
        opening = b"},"
    yield b"}]}"


def _model_parts(answer: ModelAnswer) -> Iterator[bytes]:
    opening = b'{"matches":['
    for start in range(0, len(answer.matches), _MATCHES):
        some = answer.matches[start : start + _MATCHES]
        yield opening + orjson.dumps([match_json(match) for match in some])[1:-1]
        opening = b","
    timings = {name: round(value, 3) for name, value in asdict(answer.timings).items()}
    yield (b"" if answer.matches else opening) + b'],"timings":' + orjson.dumps(timings) + b"}"


class LargeJson(Response):
    """A response whose body is sent in pieces of its parts as the client takes them."""

    media_type = "application/json"

    def __init__(self, parts: list[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(headers={**headers, "content-length": str(sum(map(len, parts)))})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in _pieces(self._parts):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _pieces(parts: list[bytes]) -> Iterator[bytes]:
    """Join successive parts until a piece is large enough."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
