"""The base of everything that a result in JSON is validated with."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A part of a JSON file: unknown fields are refused, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
