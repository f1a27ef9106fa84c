"""Tables in narrow terminals and in pipes: names are folded, numbers stand whole."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from minimodels import load, simulate
from minimodels.cli import main

COMMANDS = {
    "profile": "profile make-a-video",
    "category": "profile imagen --by category",
    "module": "profile phenaki --by module",
    "attention": "profile make-a-video --by attention",
    "attention of decoding": "profile parti-20b --by attention",
    "memory": "memory llama-tiny",
    "list": "list",
    "show": "show make-a-video",
    "devices": "devices",
    "compare": "compare a.json b.json",
    "compare four": "compare a.json b.json b.json a.json",
}


def shown(command: str, columns: int | None) -> str:
    environment = {"COLUMNS": None if columns is None else str(columns)}
    result = CliRunner(env=environment).invoke(main, command.split())
    assert result.exit_code == 0, result.output
    return result.stdout


def numbers(text: str) -> Counter[str]:
    """The numbers in a text, each with the unit after it cut off."""
    return Counter(re.findall(r"(?<!\S)[<>≥]?[+-]?\d[\d.,]*x?(?!\S)", text))


@pytest.fixture(scope="module", autouse=True)
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profiles")
    for name, model in (("a", "parti-3b"), ("b", "make-a-video")):
        simulate(load(model)).save(folder / f"{name}.json")
    return folder


@pytest.mark.parametrize("columns", (80, pytest.param(60, marks=pytest.mark.slow)))
@pytest.mark.parametrize("name", COMMANDS)
def test_no_number_is_cropped(name: str, columns: int, profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(profiles)
    wide, narrow = numbers(shown(COMMANDS[name], 400)), shown(COMMANDS[name], columns)
    assert "…" not in narrow and max(map(len, narrow.splitlines())) <= columns
    assert wide and not wide - numbers(narrow)


def test_a_pipe_is_as_wide_wherever_it_is(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(profiles)
    assert (
        shown("profile make-a-video", None) == shown("profile make-a-video", 120) != shown("profile make-a-video", 80)
    )
