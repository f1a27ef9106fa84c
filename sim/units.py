"""How numbers, categories and profiles are written: three significant digits, SI prefixes, fixed colours.

Functions of a number take None for "unknown" and writes it as such, never as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from minimodels.sim.profile import Profile

Number = int | float | Fraction

UNKNOWN = "unknown"

# Okabe & Ito, "Color Universal Design", 2008 (jfly.uni-koeln.de/color), with two greys for its black, which a
# dark terminal would swallow.
COLOURS: dict[str, str] = {
    "Attention": "#0072B2",
    "Convolution": "#D55E00",
    "Linear": "#E69F00",
    "Norm": "#009E73",
    "Elementwise": "#56B4E9",
    "Embedding": "#CC79A7",
    "Memory": "#F0E442",
    "Communication": "#555555",
    "Other": "#BBBBBB",
}

_PREFIXES = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E", 7: "Z", 8: "Y"}


def digits(value: Number) -> str:
    """`value` with three significant digits, and every digit of a large number's whole part."""
    rounded = abs(float(f"{float(value):.3g}"))
    if rounded >= 1000:
        return f"{float(value):,.0f}"
    decimals = 0 if rounded >= 100 else 1 if rounded >= 10 else 2
    return f"{float(value):.{decimals}f}" if rounded >= 1 else f"{float(value):.3g}"


def scale(value: Number, highest: int = 8) -> tuple[float, str]:
    """The power of 1,000 to divide `value` by for writing it, and the SI prefix of that power."""
    number, power = abs(float(f"{float(value):.3g}")), 0
    while number >= 1000 and power < highest:
        number, power = number / 1000, power + 1
    while 0 < number < 1 and power > -4:
        number, power = number * 1000, power - 1
    return 1000.0**power, _PREFIXES[power]


def si(value: Number | None, unit: str, highest: int = 8) -> str:
    """`value` in `unit` with an SI prefix: 40.9 GB, 80 GB if it is exactly that; `highest` bounds the prefix."""
    if value is None:
        return UNKNOWN
    factor, prefix = scale(value, highest)
    round_number = not value or (isinstance(value, int) and value % factor == 0)
    scaled = float(value) / factor
    return f"{f'{scaled:.0f}' if round_number else digits(scaled)} {prefix}{unit}"


def seconds(value: Number | None) -> str:
    """A duration: 12.3 ms, 1,234 s."""
    return si(value, "s", highest=0)


def size(value: Number | None) -> str:
    """An amount of memory or traffic in bytes: 40.9 GB."""
    return si(value, "B")


def flops(value: Number | None) -> str:
    """A number of floating-point operations: 81.3 TFLOP."""
    return si(value, "FLOP")


def count(value: Number | None) -> str:
    """How many: 1,024, and 12.3 M from a million on."""
    if value is None:
        return UNKNOWN
    if value >= 1_000_000:
        return si(value, "").strip()
    return f"{int(value):,}" if value == int(value) else f"{float(value):,.1f}"


def params(value: int | None) -> str:
    """A number of parameters as papers write it: 20.5 B, 387 M."""
    return UNKNOWN if value is None else si(value, "", highest=3).replace("G", "B").strip()


def percent(value: Number | None) -> str:
    """A fraction as a percentage: 67 %, 6.7 %, < 0.1 %, 99.8 %; what is not all or nothing is not written so."""
    if value is None:
        return UNKNOWN
    hundredths = 100 * float(value)
    if 0 < hundredths < 0.1:
        return "< 0.1 %"
    if 99.95 < hundredths < 100 - 1e-9:
        return "> 99.9 %"
    coarse = 9.95 <= hundredths < 99.5 or abs(hundredths - 100) < 1e-9 or hundredths > 100 or not hundredths
    return f"{hundredths:.{0 if coarse else 1}f} %"


def times(value: Number | None) -> str:
    """A ratio: 0.50x, 12.3x, <0.01x."""
    if value is None:
        return UNKNOWN
    if 0 < value < 0.005:
        return "<0.01x"
    return f"{float(value):.2f}x" if value < 9.995 else f"{digits(value)}x"


def written(value: Number | None, unit: str) -> str:
    """`value` in one of the units that `views.headline` uses: s, s/image, tokens/s, B/s, FLOP/s or 1."""
    if value is None:
        return UNKNOWN
    if unit == "1":
        return percent(value)
    if unit == "tokens/s":
        return f"{digits(value)} tokens/s"
    return si(value, unit, highest=0) if unit == "s" or unit.startswith("s/") else si(value, unit)


def label(key: str, value: object) -> str:
    """A fact of a run in words: "batch 4", but "flash" for the attention."""
    return f"{key.replace('_', ' ')} {value}" if isinstance(value, int | float) else str(value)


def printable(text: object) -> str:
    """`text` on one line, without the control characters that no font can draw."""
    return " ".join("".join(c for c in str(text) if c.isprintable() or c.isspace()).split())


HOW = ("device", "source", "batch", "dtype", "attention", "mode")


def named(profile: Profile) -> str:
    """What was profiled: "Parti 20B (parti-20b)"; a class by its name alone."""
    name, title = printable(profile.config["name"]), profile.config.get("title")
    return f"{printable(title)} ({name})" if title else name


def labels(profiles: Sequence[Profile]) -> list[str]:
    """A name for each profile: the model's, how it was run where any differ, and what tells equal names apart."""
    runs = [p.run.model_dump(exclude_none=True) | {"device": p.device.title, "source": p.source} for p in profiles]
    rows = [(printable(p.config["name"]) or "unnamed", run) for p, run in zip(profiles, runs, strict=True)]
    texts: list[str] = []
    for name, run in rows:
        peers = [other for peer, other in rows if peer == name]
        keys = dict.fromkeys(key for peer in peers for key in peer)
        differ = [
            key
            for key in keys
            if len({str(other[key]) for other in (runs if key in HOW else peers) if key in other}) > 1
        ]
        texts.append(", ".join([name, *(printable(label(key, run[key])) for key in differ if key in run)]))
    return [text if texts.count(text) == 1 else f"{text} #{i}" for i, text in enumerate(texts, 1)]
