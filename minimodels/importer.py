"""Directories of diffusers and transformers -> the TOML of an architecture of ours: sizes alone, no weights are read.

A pipeline and a language model become whole architectures, any other model a section of one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from minimodels import toml_writer
from minimodels.config import DecoderOnly, Part
from minimodels.loader import load, names, parse, parse_on_base
from minimodels.peers import Table
from minimodels.pipeline_importer import read_pipeline, sizes
from minimodels.weights import pickles, read

SECTIONS = {
    "kl-decoder": "decoder", "vq-decoder": "decoder", "causal-decoder": "decoder", "encoder-decoder": "transformer",
    "uvit": "transformer", "diffusion-transformer": "transformer",
}  # fmt: skip  # else as the kind
PROMPT_LEN, GEN_LEN = 2048, 128  # tokens, at most: those of our LLaMA-2 configs


class Imported(NamedTuple):
    """TOML text; section: which of an architecture it is, None where it is a whole one; notes: of weights."""

    text: str
    section: str | None
    notes: tuple[str, ...]


def to_toml(directory: Path, base: str | None = None) -> Imported:
    """The config of a directory as TOML, with comments that say where its numbers are from.

    base: the architecture that a single model is to be a section of; it gives the rest.

    Raises:
        ValueError: it cannot be read, or has what ours lacks, or does not fit the base.
    """
    if (directory / "model_index.json").is_file():
        found = read_pipeline(directory)
        return _whole(directory, found.table, found.comments, found.folders, base)
    part = read(directory)[1]
    source = f"from {directory / 'config.json'}"
    if isinstance(part, DecoderOnly):
        return _whole(directory, *_language_model(directory, part, source), [directory], base)
    kind = str(getattr(part, "kind", ""))
    section = SECTIONS.get(kind, kind.replace("-", "_"))
    where = Path(*directory.resolve().parts[-2:])  # such as my-model/unet
    table = {"title": f"{section} of {where}", "paper": source, section: sizes(part)}
    head = (
        "" if base else f'A section of an architecture: a line `base = "NAME"` above makes it the [{section}] of one.'
    )
    text = toml_writer.dumps(({"base": base} if base else {}) | table, {"": head, section: source})
    if base:
        try:
            parse_on_base(tomllib.loads(text), f"{directory} as [{section}] of {base}")
        except ValueError:
            _check_section(directory, section, part, base)
            raise
    return Imported(text, None if base else section, _notes([directory]))


def _whole(
    directory: Path, table: Table, comments: dict[str, str], folders: Iterable[Path], base: str | None
) -> Imported:
    """An architecture, once it is one by the rules of its kind."""
    if base is not None:
        raise ValueError(f"{directory} is a whole architecture by itself: it needs no --base")
    parse(table | {"name": directory.resolve().name or "imported"}, str(directory))
    return Imported(toml_writer.dumps(table, comments), None, _notes(folders))


def _check_section(directory: Path, section: str, part: Part, base: str) -> None:
    """Raise where a base has no such section, or one of another kind, and name those that have one."""

    def kind_in(name: str) -> str | None:
        return getattr(dict(load(name).parts()).get(section), "kind", None)

    known = names()
    name, kind = base.removesuffix("-config"), getattr(part, "kind", None)
    if name not in known or kind_in(name) == kind:
        return
    has = f"{base} has a [{section}] that is a {kind_in(name)}" if kind_in(name) else f"{base} has no [{section}]"
    fitting = [name for name in known if kind_in(name) == kind and not name.endswith("-tiny")]
    raise ValueError(
        f"{directory} is a {kind}, a [{section}] of an architecture, but --base {has}; bases with one: "
        f"{', '.join(fitting) or 'none'}"
    )


def _notes(folders: Iterable[Path]) -> tuple[str, ...]:
    """What is to be known of the weights beside the sizes."""
    warnings = [
        f"warning: {folder} has its weights in pickles alone ({', '.join(found)}), which from_pretrained never reads"
        for folder in folders
        if (found := pickles(folder))
    ]
    return ("Sizes are those of config.json; weights were not read.", *warnings)


def _language_model(directory: Path, part: DecoderOnly, source: str) -> tuple[Table, dict[str, str]]:
    gen_len = max(min(GEN_LEN, part.context_len // 2), 1)
    prompt_len = min(PROMPT_LEN, part.context_len - gen_len)
    table = {
        "title": directory.resolve().name, "family": "llama", "kind": "language-model", "paper": f"from {directory}",
        "run": {"prompt_len": prompt_len, "gen_len": gen_len, "temperature": 1.0}, "language_model": sizes(part),
    }  # fmt: skip
    chosen = "chosen: config.json gives no lengths of a run"
    comments = {
        "run.prompt_len": chosen, "run.gen_len": chosen, "run.temperature": "chosen: does not change the work",
        "language_model": source,
    }  # fmt: skip
    return table, comments
