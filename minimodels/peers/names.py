"""Their name of a weight that a file lacks, told from the names that it has.

A replacement by regular expressions has no inverse, but the file has other weights that its name can be made of: of the
same layer elsewhere, or the bias beside it. A name is believed only if the peer turns it into ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product

from minimodels.peers import Peer

NUMBER = re.compile(r"((?<=\.)\d+(?=\.|$))")


def their_name(name: str, theirs: Mapping[str, str], peer: Peer) -> str | None:
    """Their name of our weight `name`; None where nothing tells it. theirs: their names of those found, by ours."""
    for candidate in (*_whole(name, peer), *_alike(name, theirs)):
        if peer.rename(candidate) == name:
            return candidate
    return None


def _alike(name: str, theirs: Mapping[str, str]) -> Iterator[str]:
    """Names made of those that differ from it in numbers, or in the last word, alone."""
    stem, _, leaf = name.rpartition(".")
    numbers = sorted(set(NUMBER.findall(stem)))
    for ours, other in theirs.items():
        if NUMBER.sub("#", ours.rpartition(".")[0]) == NUMBER.sub("#", stem):
            pieces = NUMBER.split(other.rpartition(".")[0])  # every second one is a number
            for chosen in product(*([piece, *numbers] if i % 2 else [piece] for i, piece in enumerate(pieces))):
                yield f"{''.join(chosen)}.{leaf}"


def _whole(name: str, peer: Peer) -> Iterator[str]:
    """Names of which one replacement, of a literal, is all but the last word."""
    for pattern, replacement in peer.names:
        literal = pattern.removeprefix("^").replace(r"\.", ".")
        if pattern.startswith("^") and re.fullmatch(r"[\w.]+", literal) and name.startswith(replacement):
            rest = name.removeprefix(replacement)
            if re.fullmatch(r"\.?\w+", rest):
                yield literal + rest
