"""Who sends a request, and whether that caller may."""

from typing import Any

from fastapi import Depends, Request

from hardrank.models.errors import HardrankError
from hardrank.serving.api.auth import Caller, Keyring, RateLimit, Role, UnauthenticatedError, require
from hardrank.serving.api.middleware import address_of


class Guard:
    """Lets callers in, by key and rate."""

    def __init__(self, keyring: Keyring, rate: RateLimit) -> None:
        self._keyring = keyring
        self._rate = rate

    def admitting(self, role: Role) -> Any:
        """Make the dependency of routes that need `role`."""

        async def admit(request: Request) -> None:
            request.state.caller = self._admit(request, role)

        return Depends(admit)

    def take(self, request: Request, tokens: int) -> None:
        """Count further queries of a request that was let in."""
        caller: Caller = request.state.caller
        if tokens > 0:
            self._rate.take(caller.name, tokens)

    def _admit(self, request: Request, role: Role) -> Caller:
        address = address_of(request.scope)
        try:
            caller = self._keyring.caller(_key_of(request), address)
            require(caller, role)
        except HardrankError:
            self._rate.take(self._keyring.caller(None, address).name)  # guessing is counted too
            raise
        self._rate.take(caller.name)
        return caller


def _key_of(request: Request) -> str | None:
    """Give the key that was sent, in either header; raises `UnauthenticatedError` for another kind of credentials."""
    given = request.headers.get("authorization")
    if given is None:
        return request.headers.get("x-api-key")
    scheme, _, key = given.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise UnauthenticatedError("The header Authorization holds no API key; send it as `Authorization: Bearer KEY`.")
    return key.strip()
