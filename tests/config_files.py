"""Config files to test with: written on the spot, and the errors they cause."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from minimodels.config import AutoregressiveImage, LanguageModel
from minimodels.loader import load

CONFIGS = resources.files("minimodels") / "configs"


def text_of(name: str) -> str:
    return (CONFIGS / f"{name}.toml").read_text("utf-8")


def written(folder: Path, text: str, name: str = "mine.toml") -> str:
    """The path of a config file with this text."""
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def error_of(name: str, *overrides: str) -> str:
    """The message of the one error that loading gives."""
    with pytest.raises(ValueError) as error:
        load(name, overrides)
    assert type(error.value) is ValueError, "not one of its subclasses, whose text is not ours"
    return str(error.value)


def language_model(name: str, *overrides: str) -> LanguageModel:
    config = load(name, overrides)
    assert isinstance(config, LanguageModel)
    return config


def image_model(name: str, *overrides: str) -> AutoregressiveImage:
    config = load(name, overrides)
    assert isinstance(config, AutoregressiveImage)
    return config
