"""A route that passes requests to its endpoint without FastAPI."""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from hardrank.serving.api.access import AccessControl
from hardrank.serving.api.auth import KeyRole


class DirectRoute(Route):
    """A route without FastAPI, for an endpoint with no parameters but the request; its role is READ.

    The solving of parameters that are not there takes as long as the rest of a request. OpenAPI does not have it.
    """

    def __init__(
        self, path: str, endpoint: Callable[[Request], Awaitable[Response]], access: AccessControl, method: str
    ) -> None:
        async def answer(request: Request) -> Response:
            access.check(request, KeyRole.READ)
            return await endpoint(request)

        super().__init__(path, answer, methods=[method], include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As every route, and tell the metrics which one it is."""
        match, more = super().matches(scope)
        return match, {**more, "route": self}
