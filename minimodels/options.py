"""Options of a run that are checked without torch, whose import takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from minimodels.config import Length, Strict

Record = TypeVar("Record", bound=Strict)

HERE = ("cuda", "cpu")  # devices that are measured; any other is simulated


class Options(Strict):
    """Options of a run that are not architecture; lengths stand in the config's [run] section.

    Raises:
        ValueError: an option has no such value, or there is none of that name.
    """

    device: str = "a100-80gb"
    batch: Length = 1
    dtype: Literal["float32", "float16", "bfloat16", "float64"] = "bfloat16"
    mode: Literal["eager", "graph", "compiled"] = "eager"
    kernels: Literal["torch", "triton"] = Field(
        default="torch", description="of operators other than attention, where we have one"
    )
    layout: Literal["contiguous", "channels-last"] = Field(
        default="contiguous", description="of pixels in networks that convolve, and of the weights of convolutions"
    )
    resident: Literal["all", "stage"] = Field(
        default="all", description="parts in memory: all, or those of the running stage"
    )
    full: bool = Field(default=False, description="run every step of every loop instead of knots")
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    warmup: int = Field(default=2, ge=0, le=100)
    repeats: int = Field(default=5, ge=1, le=1000)

    if not TYPE_CHECKING:  # the fields are its keywords, also to a type checker

        def __init__(self, **options: Any) -> None:
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise ValueError(_said(error)) from None


def parse(record: type[Record], options: dict[str, Any]) -> Record:
    """The record of some options as a user gave them.

    Raises:
        ValueError: an option has no such value, or there is none of that name.
    """
    try:
        return record(**options)
    except ValidationError as error:
        raise ValueError(_said(error)) from None


def _said(error: ValidationError) -> str:
    """What is wrong with options, a line for each."""
    lines = []
    for problem in error.errors():
        message = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}, not {problem['input']!r}"
        message = "there is no such option" if problem["type"] == "extra_forbidden" else message
        lines.append(f"--{problem['loc'][0]}: {message}")
    return "\n".join(lines)


def check(*, dtype: str | None, attention: str, **options: Any) -> None:
    """See that options are possible, as far as that can be told without torch: all but `attention`.

    Raises:
        ValueError: an option has no such value.
    """
    parse(Options, options | ({} if dtype is None else {"dtype": dtype}))
