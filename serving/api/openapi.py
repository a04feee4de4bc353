"""The OpenAPI document of the HTTP API. After a change of the API, write it again:

python serving/api/openapi.py docs/openapi.json
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hardrank.models.files import write_json
from hardrank.serving.api.app import create_api
from hardrank.serving.metrics import Metrics
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Settings


def document() -> dict[str, Any]:
    """Return the OpenAPI document for the default settings."""
    # The endpoints are only described, not called, so only the metrics of the service are needed.
    service = cast(SearchService, SimpleNamespace(metrics=Metrics()))
    return create_api(service, Settings()).openapi()


if __name__ == "__main__":
    write_json(Path(sys.argv[1]), document())
