"""What all requests and answers are made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

ID = "9f86d081884c7d65"
"""An id, for examples."""


class Shape(BaseModel):
    """Base of what callers send: a field that does not exist is a mistake, and said to be one."""

    model_config = ConfigDict(extra="forbid", str_max_length=1 << 20)


class Given(BaseModel):
    """Base of what they get."""

    model_config = ConfigDict(extra="allow")


Seconds = Annotated[float, Field(gt=0, lt=1e9)]
Environment = dict[str, str]


class Failure(Given):
    """Why a request failed."""

    code: str = Field(description="stable, for programs", examples=["vm_not_found"])
    message: str = Field(examples=["no VM has the id or name 'dev'"])
    cause: str | None = None
    remedy: str | None = Field(None, examples=["see `bandsox vm list`"])
    retryable: bool = Field(False, description="whether the same request may succeed later")
    detail: dict[str, Any] = Field(default_factory=dict)


class Status(Given):
    """That something was done."""

    status: str = Field(examples=["stopped"])
