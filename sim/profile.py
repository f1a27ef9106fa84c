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
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from minimodels.sim.files import read, write_whole

SCHEMA = 1

Category = Literal[
    "Attention", "Convolution", "Linear", "Norm", "Elementwise", "Embedding", "Memory", "Communication", "Other"
]
CATEGORIES: tuple[str, ...] = Category.__args__  # type: ignore[attr-defined]
Bound = Literal["tensor", "exp", "memory", "l2", "waves", "launch", "host", "link"]
Provenance = Literal["measured", "calibrated", "datasheet"]


def _duration(seconds: float) -> float:
    if 0 < seconds < 1e-30:
        raise ValueError("a time is 0 or at least 1e-30 seconds")
    return seconds


# What sums, rates and plots can work with: no more than any machine does, so that nothing overflows.
Count = Annotated[int, Field(ge=0, lt=1 << 80)]
Positive = Annotated[int, Field(ge=1, lt=1 << 80)]
Seconds = Annotated[float, Field(ge=0, le=1e12), AfterValidator(_duration)]
Rate = Annotated[float, Field(ge=1, le=1e24)]
Scalar = bool | int | float | str | None


class Record(BaseModel):
    """Base of all parts of a Profile: frozen, strict about keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Attention(Record):
    """What an attention operator computed: lengths in tokens, `batch` over all batch dimensions."""

    role: Literal["self", "cross", "spatial", "temporal", "joint"]
    backend: str
    batch: Positive
    query_length: Positive
    key_length: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
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
    shapes: tuple[tuple[Count, ...], ...] = Field(description="shapes of the tensor arguments")
    dtype: str
    weight: float = Field(ge=1e-3, le=1e12, description="executions this entry stands for")
    flops: Count | None = Field(description="per execution; null: no formula, the operator is unmodelled")
    bytes_read: Count
    bytes_written: Count
    launches: Count = Field(description="kernels launched per execution")
    steps: Positive | None = Field(default=None, description="iterations of the loops around it, multiplied")
    device_seconds: Seconds | None
    host_seconds: Seconds | None
    gap_seconds: Seconds | None = Field(description="time the device waited before this operator")
    provenance: Provenance | None
    bound: Bound | None
    error: float | None = Field(default=None, ge=0, description="how far off the seconds may be, as a share of them")
    utilisation: float | None = Field(default=None, ge=0, le=1, description="of what bounds it")
    tiles: Count | None = Field(default=None, description="thread blocks, where the kernel has tiles")
    waves: float | None = Field(default=None, ge=0, description="rounds of its tiles over the device")
    l2: Literal["cold", "warm"] | None = Field(default=None, description="where the input was taken to lie")
    attention: Attention | None


class Stage(Record):
    """A stage of the pipeline: device plus gap seconds over its ops equal `seconds`."""

    name: str
    seconds: Seconds | None
    wall_seconds: Seconds | None
    launches: float = Field(ge=0)
    steps: Positive | None = Field(
        default=None, description="iterations of its longest loop, nested ones multiplied; null: it has no loop"
    )


class Memory(Record):
    """Bytes by liveness: `timeline` holds [call, bytes] pairs: the peak during that call, and until the next pair."""

    weights: Count
    kv_cache: Count
    peak: Count
    reserve: Count = Field(default=0, description="bytes that the runtime takes beside them; `fits` counts them")
    peak_op: int | None = Field(description="index into `ops` of the operator at the peak")
    fits: bool | None
    timeline: tuple[tuple[Count, Count], ...]


class RunRecord(Record):
    """The options of the run and the architecture's settings, any more of them as plain values; null: it has none."""

    device: str
    batch: Positive
    dtype: str
    attention: str
    mode: str
    prompt_len: Positive | None = Field(default=None, description="tokens")
    gen_len: Positive | None = Field(default=None, description="tokens")
    frames: Positive | None = None

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, Scalar]  # type: ignore[assignment]

    @classmethod
    def of(cls, *records: BaseModel) -> RunRecord:
        """The settings of these records side by side; those of a record inside one are called "outer.inner"."""
        return cls.model_validate({key: value for record in records for key, value in _flat(record)})


def _flat(record: BaseModel) -> Iterator[tuple[str, Any]]:
    for key, value in record:
        if isinstance(value, BaseModel):
            yield from ((f"{key}.{inner}", deep) for inner, deep in _flat(value))
        else:
            yield key, value


class Environment(Record):
    """What the run was made with; of a measured run also how its times came about. More facts are plain values."""

    repeats: Positive | None = Field(default=None, description="timed runs")
    median_seconds: Seconds | None = Field(default=None, description="of the timed runs")
    iqr_seconds: Seconds | None = Field(default=None, description="interquartile range of the timed runs")
    converged: bool | None = Field(default=None, description="warm-up ended with two runs within 2 %")
    warmups: Count | None = Field(default=None, description="runs before the timed ones")
    attributed: float | None = Field(default=None, description="least share of device time given to operators")

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, Scalar]  # type: ignore[assignment]


class DeviceRecord(Record):
    """Where it ran, or would: bytes, bytes/s and FLOP/s in the run's dtype; null where no datasheet is at hand."""

    name: str
    title: str
    memory_bytes: Positive | None
    bandwidth: Rate | None
    peak_flops: Rate | None
    provenance: Provenance = Field(description="of the device's constants")


class Profile(Record):
    """One inference of one model on one device, measured or simulated.

    Example: docs/python.md; docs/profile.md says what each key means.
    """

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    source: Literal["measured", "simulated"]
    config: dict[str, Any] = Field(description="the architecture, resolved in full")
    run: RunRecord
    environment: Environment
    device: DeviceRecord
    stages: tuple[Stage, ...]
    memory: Memory
    ops: tuple[Op, ...]
    calls: tuple[int, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        for key in ("name", "kind"):
            if not isinstance(self.config.get(key), str):
                raise ValueError(f"config lacks a {key!r}")
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
            said = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{origin} is not a minimodels profile: {where + ': ' if where else ''}{said}") from None

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
