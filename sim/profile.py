"""The Profile: one record of one inference, measured or simulated.

Facts are kept per operator; every total is derived from them (`minimodels.sim.views`), so that no total
can disagree with its parts. Units are SI: seconds, bytes, FLOPs (2 x multiply-accumulates). Unknown is
null, never zero.

An `Op` stands for `weight` executions of the same operator, with the same shapes, at the same place: its
FLOPs, bytes and seconds are those of ONE execution. `calls` lists indices into `ops` in call order; each
listed call of an op stands for `weight / (number of times it is listed)` executions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from minimodels.sim.files import read, write_whole

SCHEMA = 1

Category = Literal[
    "Attention", "Convolution", "Linear", "Norm", "Elementwise", "Embedding", "Memory", "Communication", "Other"
]
CATEGORIES: tuple[str, ...] = Category.__args__  # type: ignore[attr-defined]
REQUIRED = (("config", "name"), ("config", "kind"), ("run", "batch"), ("device", "title"), ("device", "memory_bytes"))
Bound = Literal["tensor", "exp", "memory", "l2", "waves", "launch", "host"]
Provenance = Literal["measured", "calibrated", "datasheet"]


class Record(BaseModel):
    """Base of all parts of a Profile: frozen, strict about keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Attention(Record):
    """What an attention operator computed: lengths in tokens, `batch` over all batch dimensions."""

    role: Literal["self", "cross", "spatial", "temporal", "joint"]
    backend: str
    batch: int
    query_length: int
    key_length: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    bias: bool


class Op(Record):
    """An operator at one place of the model; numbers are per execution, `weight` says how many there are."""

    stage: str
    scope: str = Field(description="labels from the stage inwards, joined by '/'")
    module: str | None = Field(description="the innermost block the operator runs in, such as 'attention'")
    category: Category
    name: str
    phase: Literal["forward", "backward", "optimizer", "communication"] = "forward"
    shapes: tuple[tuple[int, ...], ...] = Field(description="shapes of the tensor arguments")
    dtype: str
    weight: float = Field(gt=0, description="executions this entry stands for")
    flops: int | None = Field(description="per execution; null: no formula, the operator is unmodelled")
    bytes_read: int
    bytes_written: int
    launches: int = Field(description="kernels launched per execution")
    device_seconds: float | None
    host_seconds: float | None
    gap_seconds: float | None = Field(description="time the device waited before this operator")
    provenance: Provenance | None
    bound: Bound | None
    attention: Attention | None


class Stage(Record):
    """A stage of the pipeline: device plus gap seconds over its ops equal `seconds`."""

    name: str
    seconds: float | None
    wall_seconds: float | None
    launches: float


class Memory(Record):
    """Bytes by liveness: `timeline` holds [call, bytes] pairs: the peak during that call, and until the next pair."""

    weights: int
    kv_cache: int
    peak: int
    peak_op: int | None = Field(description="index into `ops` of the operator at the peak")
    fits: bool | None
    timeline: tuple[tuple[int, int], ...]


class Profile(Record):
    """One inference of one model on one device, measured or simulated."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    source: Literal["measured", "simulated"]
    config: dict[str, Any] = Field(description="the architecture, resolved in full")
    run: dict[str, Any] = Field(description="batch, dtype, attention, mode, lengths, seed, ...")
    environment: dict[str, Any] = Field(description="torch, driver, clocks; what the run was made with")
    device: dict[str, Any] = Field(description="name, memory_bytes, bandwidth, peak_flops of the run's dtype")
    stages: tuple[Stage, ...]
    memory: Memory
    ops: tuple[Op, ...]
    calls: tuple[int, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        for section, key in REQUIRED:
            if key not in getattr(self, section):
                raise ValueError(f"{section} lacks {key!r}")
        if any(not 0 <= call < len(self.ops) for call in self.calls):
            raise ValueError("a call points outside the list of ops")
        names = {stage.name for stage in self.stages}
        if any(op.stage not in names for op in self.ops):
            raise ValueError("an op belongs to a stage that is not listed")
        if self.memory.peak_op is not None and not 0 <= self.memory.peak_op < len(self.ops):
            raise ValueError("the op at the memory peak is not in the list of ops")
        return self

    def unmodelled(self) -> Iterator[Op]:
        """The operators that have no FLOP formula."""
        return (op for op in self.ops if op.flops is None)

    def to_json(self) -> str:
        """The record as JSON text."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def from_json(cls, text: str | bytes, origin: str = "profile") -> Profile:
        """Read a record; `origin` names it in errors.

        Raises:
            ValueError: the text is not JSON, or not a Profile of this schema.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(
                f"{origin} is not a minimodels profile: {where + ': ' if where else ''}{first['msg']}"
            ) from None

    def save(self, path: Path) -> None:
        """Write the record to `path`, whole or not at all.

        Raises:
            ValueError: the file cannot be written.
        """
        write_whole(path, self.to_json().encode())

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a record from `path`.

        Raises:
            ValueError: the file cannot be read or is not a Profile.
        """
        return cls.from_json(read(path), str(path))
