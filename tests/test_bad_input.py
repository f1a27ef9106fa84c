"""Whatever is done to a valid config: it runs, or one message says what is wrong and the exit code is 2."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minimodels import loader
from minimodels.cli import main
from minimodels.config import Architecture

TINY = [name for name in loader.names() if name.endswith("-tiny")]
TABLES = {name: loader.load(name).model_dump(mode="python", exclude_none=True) for name in loader.names()}
WRITTEN = ("true", "0", "-3", "1" + 21 * "0", "2.5", "nan", "inf", "'word'", "word", "[]", "[1, 2]", "{}", "{a = 1}", "''", "2", "3", "8", "=", "\x00")  # fmt: skip
VALUES = st.sampled_from([True, 0, -3, 10**21, 2.5, float("nan"), "word", "", [], [1, 2], {}, {"kind": "word"}, None])


def paths(node: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key of a table, sections included."""
    for key, value in node.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


def parent_of(table: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path[:-1]:
        table = table[key]
    return table


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_changed_key_runs_or_is_one_message_and_exit_2(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(TINY))
    path = ".".join(data.draw(st.sampled_from(list(paths(TABLES[name])))))
    written = data.draw(st.sampled_from(WRITTEN))
    result = CliRunner().invoke(main, ["profile", name, "--device", "h200", "--set", f"{path}={written}"])
    assert result.exit_code in (0, 2), (path, written, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if result.exit_code == 2:
        assert result.stderr.startswith("Error: ")
        assert len(result.stderr.strip().splitlines()) <= 6  # five problems at most, and how many more


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_table_is_a_config_or_an_error_that_names_the_file(data: st.DataObject) -> None:
    table = copy.deepcopy(TABLES[data.draw(st.sampled_from(list(TABLES)))])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(paths(table))))
        node, key = parent_of(table, path), path[-1]
        what = data.draw(st.sampled_from(["delete", "rename", "replace", "add"]))
        if what == "delete":
            del node[key]
        elif what == "rename":
            node[key[1:] + "x"] = node.pop(key)
        elif what == "replace":
            node[key] = copy.deepcopy(data.draw(VALUES))
        else:
            node[data.draw(st.text(max_size=5))] = copy.deepcopy(data.draw(VALUES))
        if not table:
            break
    try:
        config = loader.parse(table, "mutant.toml")
    except ValueError as error:
        assert str(error).startswith("mutant.toml: ")
        assert all(line.startswith("mutant.toml: ") for line in str(error).splitlines())
    else:
        assert isinstance(config, Architecture)


@pytest.mark.parametrize("name", TINY)
def test_every_size_of_a_tiny_config_is_required(name: str) -> None:
    optional = {"published", "head_dim"}
    for path in paths(TABLES[name]):
        table = copy.deepcopy(TABLES[name])
        del parent_of(table, path)[path[-1]]
        if not optional & set(path):
            with pytest.raises(ValueError, match="missing|kind"):
                loader.parse(table, "mutant.toml")
