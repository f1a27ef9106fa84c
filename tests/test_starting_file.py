"""`minibench new`: a file that starts from a base, all of it in sight and nothing of it changed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from minimodels import loader
from minimodels.kinds import Config
from minimodels.starting_file import starting_file
from tests.config_files import text_of


def architecture(config: Config) -> dict[str, Any]:
    return config.model_dump(exclude={"name", "title"})


def loaded(folder: Path, text: str) -> Config:
    (folder / "mine.toml").write_text(text, "utf-8")
    return loader.load(folder / "mine.toml")


def uncommented(text: str) -> str:
    """A starting file whose every line of TOML is uncommented, its base taken out."""
    lines = re.sub(r"^# (?=\[\[?[\w.]+\]\]?$|[\w-]+ = )", "", text, flags=re.MULTILINE)
    return lines.replace("base = ", "# ", 1)


@pytest.mark.parametrize("name", loader.names())
def test_a_starting_file_loads_as_its_base(name: str, tmp_path: Path) -> None:
    text = starting_file("what if", name)
    config = loaded(tmp_path, text)
    assert architecture(config) == architecture(loader.load(name))
    assert config.title == "what if"
    assert set(tomllib.loads(text)) == {"base", "title"}


@pytest.mark.parametrize("name", loader.names())
def test_every_key_of_the_base_stands_in_a_comment(name: str, tmp_path: Path) -> None:
    whole = loaded(tmp_path, uncommented(starting_file("what if", name)))
    assert architecture(whole) == architecture(loader.load(name))


@pytest.mark.parametrize("name", loader.names())
def test_the_source_of_every_number_is_kept(name: str) -> None:
    text = starting_file("what if", name)
    for line in text_of(name).splitlines():
        if found := re.fullmatch(r"(\w+) = [^#\"]*# (.*)", line):
            assert re.search(rf"^# {found[1]} = .*# {re.escape(found[2])}$", text, re.MULTILINE), line


SET = {
    "value": ("parti-20b", ["transformer.decoder.depth=128"]),
    "deep": ("stable-diffusion-1.5", ["unet.middle.depth=3", "run.steps=7"]),
    "item of a list": ("stable-diffusion-1.5", ["unet.levels.1.attention.depth=4"]),
    "base with a base": ("parti-3b", ["transformer.decoder.ff_dim=4096"]),
    "another kind": ("llama2-7b", ["language_model.decoder.position={kind='learned'}"]),
    "list": ("stable-diffusion-1.5", ["decoder.channels=[512, 256]"]),
    "added": ("llama2-7b", ["language_model.decoder.head_dim=64"]),
}


@pytest.mark.parametrize("case", SET)
def test_values_set_from_the_start_stand_uncommented(case: str, tmp_path: Path) -> None:
    base, overrides = SET[case]
    text = starting_file("what if", base, overrides)
    assert architecture(loaded(tmp_path, text)) == architecture(loader.load(base, overrides))
    assert architecture(loader.load(base, overrides)) != architecture(loader.load(base))


def test_a_changed_number_keeps_no_source() -> None:
    text = starting_file("deep", "parti-20b", ["transformer.decoder.depth=128"])
    assert re.findall(r"^depth = .*$", text, re.MULTILINE) == ["depth = 128"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", "parti-20b"), "called by a word"),
        (("x", "parti-2b"), "parti-20b"),
        (("x", "mine.toml"), "can be copied"),
        (("x", "parti-20b", ["transformer.deep=3"]), "decoder"),
        (("x", "parti-20b", ["transformer.decoder.depth=0"]), "greater"),
    ],
)
def test_what_cannot_be_started_from_is_said(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        starting_file(*arguments)
