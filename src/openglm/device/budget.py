"""The limits a model has to keep on a device."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from openglm.errors import InputError


class Budget(BaseModel):
    """Limits of one deployment; one that is not set is no limit.

    `memory_mb` that is not set means what the device leaves to one app. Megabytes are 10^6 bytes.
    Raises `InputError` for a limit that is not a number above zero.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_ms: float | None = None
    memory_mb: float | None = None
    size_mb: float | None = None
    energy_mj: float | None = None
    load_ms: float | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _positive(cls, value: Any, info: Any) -> Any:
        if value is None:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value <= 0:
            raise InputError(
                f"The budget {info.field_name} cannot be {value}.",
                "Give a number above zero, or leave it out.",
            )
        return float(value)
