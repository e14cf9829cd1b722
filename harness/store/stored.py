"""The base of everything that a run writes to disk."""

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """Base of everything written to disk: unknown fields are errors, and NaN is written as a JSON string."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
