"""Variants side by side: what differs in the architecture and the run, and what that does.

Every number is a total of the profiles (`minimodels.sim.views`); parameters are counted from the architectures that
the profiles hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minimodels import loader
from minimodels.sim import units, views
from minimodels.sim.profile import Profile
from minimodels.sim.sentences import sentences
from minimodels.sim.views import Totals

ABOUT = ("name", "title", "family", "paper", "published")  # keys that are no architecture
Number = Any  # int, float or Fraction


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that is not the same everywhere, and its value in each variant; None where there is none.

    where: "architecture", or "run" for how it runs.
    """

    where: str
    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One sum of each variant; None where a variant has no such part.

    quantity: Time (s), FLOPs, Bytes, Memory in use (bytes) or Parameters; of: "stage", "category", "stage and
    category", "part", or "" for memory; complete: whether everything in the sum is known.
    """

    quantity: str
    of: str
    name: str
    values: tuple[Number | None, ...]
    complete: tuple[bool, ...]

    @property
    def change(self) -> float:
        """How far any variant is from the first; a part that is not there counts as 0."""
        first, *others = (float(value or 0) for value in self.values)
        return max((abs(value - first) for value in others), default=0.0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two or more variants: their names, what differs, and rows of sums, the biggest change of each table first."""

    names: tuple[str, ...]
    profiles: tuple[Profile, ...]
    differences: tuple[Difference, ...]
    rows: tuple[Row, ...]


def compare_profiles(profiles: Sequence[Profile]) -> Comparison:
    """Two or more profiles, measured or simulated, side by side.

    Raises:
        ValueError: there are fewer than two.
    """
    if len(profiles) < 2:
        raise ValueError(
            "compare needs at least two profiles or architectures: a name, a .toml file, or what "
            "`minibench profile NAME --out FILE.json` wrote"
        )
    differences = [*_differences("architecture", [_architecture(p) for p in profiles]), *_runs(profiles)]
    rows = [row for table in _tables(profiles) for row in _ordered(table)]
    return Comparison(tuple(units.labels(profiles)), tuple(profiles), tuple(differences), tuple(rows))


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison as records; the profiles are left out."""
    rows = [
        asdict(row) | {"values": [None if v is None else int(v) if v == int(v) else float(v) for v in row.values]}
        for row in found.rows
    ]
    said = [sentences(profile) for profile in found.profiles]
    return {
        "names": found.names,
        "sentences": said,
        "differences": [asdict(one) for one in found.differences],
        "rows": rows,
    }


def _ordered(table: list[Row]) -> list[Row]:
    """Rows that are not all zero: the whole first, then the biggest change, then the biggest."""
    rows = [row for row in table if any(row.values)]
    return sorted(rows, key=lambda row: (row.name != "all", -row.change, -max(float(v or 0) for v in row.values)))


def _architecture(profile: Profile) -> dict[str, Any]:
    """The values of an architecture by dotted path; lists of numbers are one value."""
    return dict(_flat({key: value for key, value in profile.config.items() if key not in (*ABOUT, "run")}, ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    items: Mapping[Any, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        items = dict(enumerate(value))
    if not items:
        yield path, value
    for key, one in items.items():
        if key != "published" and one is not None:
            yield from _flat(one, f"{path}.{key}" if path else str(key))


def _runs(profiles: Sequence[Profile]) -> Iterator[Difference]:
    """What differs in how they ran, and on what."""
    records = [profile.run.model_dump(exclude_none=True) | {"source": profile.source} for profile in profiles]
    hidden = ("seed", "warmup", "repeats") if all(profile.source == "simulated" for profile in profiles) else ()
    yield from _differences("run", [{k: v for k, v in record.items() if k not in hidden} for record in records])


def _differences(where: str, tables: Sequence[Mapping[str, Any]]) -> Iterator[Difference]:
    for key in dict.fromkeys(key for table in tables for key in table):
        values = tuple(table.get(key) for table in tables)
        if any(value != values[0] for value in values[1:]):
            yield Difference(where, key, values)


def _tables(profiles: Sequence[Profile]) -> Iterator[list[Row]]:
    parts = [_parameters(profile) for profile in profiles]
    if any(parts):
        yield _rows("Parameters", "part", parts, lambda count: (count, True))
    quantities: dict[str, Callable[[Totals], tuple[Number, bool]]] = {
        "Time": lambda part: (part.known_seconds, not part.untimed),
        "FLOPs": lambda part: (part.known_flops, not part.unmodelled),
        "Bytes": lambda part: (part.bytes, True),
    }
    splits = {
        "stage": [{"all": views.totals(p.ops)} | views.by_stage(p) for p in profiles],
        "category": [views.by_category(p) for p in profiles],
        "stage and category": [views.grouped(p.ops, lambda op: f"{op.stage}, {op.category}") for p in profiles],
    }
    for quantity, field in quantities.items():
        for of, sums in splits.items():
            yield _rows(quantity, of, sums, field)
    yield _rows("Memory in use", "", [_memory(p) for p in profiles], lambda size: (size, True))


def _rows(
    quantity: str, of: str, columns: Sequence[Mapping[str, Any]], field: Callable[[Any], tuple[Number, bool]]
) -> list[Row]:
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [field(column[name]) if name in column else (None, True) for column in columns]
        values, complete = zip(*cells, strict=True)
        rows.append(Row(quantity, of, name, values, complete))
    return rows


def _memory(profile: Profile) -> dict[str, int]:
    memory = profile.memory
    peaks = {f"peak in {name}": peak for name, peak in views.stage_peaks(profile).items() if peak is not None}
    return {"peak": memory.peak, "weights": memory.weights, "KV cache": memory.kv_cache} | peaks


def _parameters(profile: Profile) -> dict[str, int]:
    """Parameters by part; nothing where a profile is of no architecture that can be built."""
    from minimodels.sim.inventory import counted

    if profile.config["kind"] == "module":
        return {}
    try:
        counts = counted(loader.parse(profile.config, profile.config["name"]))
    except ValueError:  # of another version, or edited: its operators are known all the same
        return {}
    return {"all": sum(counts.values())} | counts
