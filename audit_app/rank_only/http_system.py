"""Live search APIs as systems under attack, each through an adapter: how to ask, and where the ids are."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

from hardrank.audit_app.rank_only.http_client import ApiClient, SearchApiError

_PNG: Final = {"Content-Type": "image/png"}
_FILES_AT_ONCE: Final = 32


class SearchAdapter(Protocol):
    """How an API is asked. An adapter for another API needs nothing but these."""

    @property
    def name(self) -> str:
        """Its name in results."""

    @property
    def size(self) -> int:
        """N, number of items that are searched."""

    @property
    def most_results(self) -> int:
        """Largest number of ids in an answer."""

    @property
    def files_at_once(self) -> int:
        """Largest number of files in one request."""

    def ask(self, client: ApiClient, files: Sequence[bytes], k: int) -> list[list[str]]:
        """Send image files (at most `files_at_once`) and return the ids of the first `k` results of each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HttpSystem:
    """A live search API."""

    client: ApiClient
    adapter: SearchAdapter

    @property
    def size(self) -> int:
        """Number of items that are searched."""
        return self.adapter.size

    @property
    def most_results(self) -> int:
        """Largest number of ids in an answer."""
        return self.adapter.most_results

    def search(self, files: Sequence[bytes], k: int) -> list[list[str]]:
        """Send the files in as few requests as the API allows."""
        step, found = self.adapter.files_at_once, []
        for begin in range(0, len(files), step):
            part = files[begin : begin + step]
            answers = self.adapter.ask(self.client, part, k)
            if len(answers) != len(part):
                raise SearchApiError(f"{self.client.address.url} answered {len(answers)} of {len(part)} queries")
            found += [ids[:k] for ids in answers]
        return found

    def describe(self) -> dict[str, Any]:
        """Return the address and the adapter."""
        return {"kind": "live", "url": self.client.address.url, "adapter": self.adapter.name, "items": self.size}


@dataclass(frozen=True, kw_only=True)
class HardrankApi:
    """The API of `hardrank serve`."""

    model: str
    """Key of the model."""
    size: int
    most_results: int
    files_at_once: int

    @property
    def name(self) -> str:
        """The model's key is part of it."""
        return f"hardrank {self.model}"

    def ask(self, client: ApiClient, files: Sequence[bytes], k: int) -> list[list[str]]:
        """Search by one image, or by a batch."""
        query = urlencode({"k": k, "model": self.model, "suspicion": "false"})
        if len(files) == 1:
            answer = _json(client.send("POST", f"/v1/search?{query}", body=files[0], headers=_PNG, queries=1))
            return [_ids(answer, ("models", self.model, "matches", "*", "id"))]
        body, kind = _form(files)
        sent = client.send("POST", f"/v1/search/batch?{query}", body=body, headers=kind, queries=len(files))
        path = ("answer", "models", self.model, "matches", "*", "id")
        return [_ids(one, path) for one in _at(_json(sent), ("answers",))]


@dataclass(frozen=True, kw_only=True)
class JsonApi:
    """An API that takes the file as the body of a POST, and answers in JSON."""

    size: int
    most_results: int
    path: str = ""
    """Path after the address, with its query; `{k}` stands for the number of results."""
    ids: str = "results.*.id"
    """Where the ids are: names and positions, separated by dots; `*` stands for all elements of a list."""
    files_at_once: int = 1

    @property
    def name(self) -> str:
        """The path is part of it."""
        return f"json {self.path} {self.ids}"

    def ask(self, client: ApiClient, files: Sequence[bytes], k: int) -> list[list[str]]:
        """Search by each file."""
        path = self.path.replace("{k}", quote(str(k)))
        keys = tuple(self.ids.split("."))
        return [_ids(_json(client.send("POST", path, body=one, headers=_PNG, queries=1)), keys) for one in files]


def hardrank_api(client: ApiClient, *, model: str | None) -> HardrankApi:
    """Ask a server of hardrank for its items and limits.

    Args:
        client: Reaches the server.
        model: Key of the model; None if the server has only one.

    Raises:
        SearchApiError: The server does not answer as hardrank does, or lacks the model.
    """
    stats = _json(client.send("GET", "/v1/stats"))
    models = _at(stats, ("models",))
    known = ", ".join(map(str, models))
    if model is None and len(models) != 1:
        raise SearchApiError(f"{client.address.url} serves several models ({known}); choose one with --served-model")
    key = model or next(iter(models))
    if key not in models:
        raise SearchApiError(f"{client.address.url} does not serve the model {key!r}; it has {known}")
    size, limits = int(_at(models, (key, "index", "size"))), _at(stats, ("limits",))
    return HardrankApi(
        model=key,
        size=size,
        most_results=min(size, int(_at(limits, ("results",)))),
        files_at_once=max(1, min(_FILES_AT_ONCE, int(_at(limits, ("batch_queries",))))),
    )


def _form(files: Sequence[bytes]) -> tuple[bytes, Mapping[str, str]]:
    """Return a form with the field `images` for each file, and its content type."""
    boundary = secrets.token_hex(16)
    body = bytearray()
    for place, data in enumerate(files):
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{place}.png"\r\n'.encode()
        body += b"Content-Type: image/png\r\n\r\n" + data + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return bytes(body), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise SearchApiError(f"the answer is not JSON: {body[:100].decode('utf-8', 'replace')}") from error


def _at(content: Any, keys: Sequence[str]) -> Any:
    """Return what a JSON value contains below `keys`."""
    for place, key in enumerate(keys):
        try:
            if key == "*" and isinstance(content, list):
                return [_at(one, keys[place + 1 :]) for one in content]
            content = content[int(key)] if isinstance(content, list) else content[key]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SearchApiError(f"the answer has no {'.'.join(keys)}: {str(content)[:100]}") from error
    return content


def _ids(content: Any, keys: Sequence[str]) -> list[str]:
    found = _at(content, keys)
    if not isinstance(found, list) or not all(isinstance(one, str | int) for one in found):
        raise SearchApiError(f"the answer has no list of ids at {'.'.join(keys)}")
    return [str(one) for one in found]
