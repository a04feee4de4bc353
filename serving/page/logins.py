"""Who is logged in to the page: random tokens in cookies, each for one API key and half a day."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Scope

from hardrank.serving.api.auth import Caller
from hardrank.serving.api.bodies import FormError

_LASTS_S: Final = 12 * 3600
_MOST_OF_KEY: Final = 1000
"""Logins with one key; beyond, its oldest ends. Those with other keys stay."""


@dataclass(frozen=True, kw_only=True)
class _Login:
    key: str
    """Name of the key."""
    ends: float


class Logins:
    """The logins of the page. Used from one event loop."""

    def __init__(
        self,
        find: Callable[[str], Caller | None] | None,
        *,
        most_of_key: int = _MOST_OF_KEY,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Take what finds the caller of an API key; None: the page needs no login."""
        self._find = find
        self._most_of_key = most_of_key
        self._clock = clock
        # Servers at other ports of the same host have the same cookies.
        self._cookie = f"hardrank-login-{secrets.token_hex(8)}"
        self._logins: dict[str, _Login] = {}
        """By token, the oldest first."""

    def __len__(self) -> int:
        """Number of logins that are remembered."""
        return len(self._logins)

    @property
    def needed(self) -> bool:
        """Whether visitors must log in."""
        return self._find is not None

    def admits(self, scope: Scope) -> bool:
        """Whether the sender of a request is logged in, or need not be."""
        if self._find is None:
            return True
        login = self._logins.get(self._token(scope))
        return login is not None and login.ends > self._clock()

    def log_in(self, form: bytes, *, secure: bool) -> Response:
        """Answer a login form (URL-encoded), whose field `password` is an API key; raises `FormError`."""
        try:
            fields = parse_qs(form.decode("utf-8", "replace"), max_num_fields=8)
        except ValueError as error:
            raise FormError("The form has too many fields; send `password`, an API key.") from error
        caller = self._find(fields.get("password", [""])[-1]) if self._find else None
        if caller is None:
            return JSONResponse({"detail": "Unknown API key."}, status_code=400)
        response = JSONResponse({"success": True})
        # Lax: links from other sites open the page, but other sites can send nothing with the login.
        response.set_cookie(self._cookie, self._add(caller.name), httponly=True, samesite="lax", secure=secure)
        return response

    def log_out(self, scope: Scope) -> Response:
        """End the login of the sender of a request, and no other."""
        self._logins.pop(self._token(scope), None)
        response = RedirectResponse("./", status_code=303)
        response.delete_cookie(self._cookie)
        return response

    def clear(self) -> None:
        """End all logins."""
        self._logins.clear()

    def _add(self, key: str) -> str:
        now = self._clock()
        self._logins = {token: login for token, login in self._logins.items() if login.ends > now}
        own = [token for token, login in self._logins.items() if login.key == key]
        for token in own[: len(own) - self._most_of_key + 1]:
            del self._logins[token]
        token = secrets.token_urlsafe(32)
        self._logins[token] = _Login(key=key, ends=now + _LASTS_S)
        return token

    def _token(self, scope: Scope) -> str:
        return Request(scope).cookies.get(self._cookie, "")
