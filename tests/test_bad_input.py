"""Whatever is done to a valid config or profile: it is used, or one message says what is wrong, exit code 2."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minimodels import loader
from minimodels.cli import main
from minimodels.config import Architecture
from tests.sim.profiles import image, language

TINY = [name for name in loader.names() if name.endswith("-tiny")]
TABLES = {name: loader.load(name).model_dump(mode="python", exclude_none=True) for name in loader.names()}
WRITTEN = (
    "true", "0", "-3", "1" + 21 * "0", "2.5", "nan", "inf", "'word'", "word", "[]", "[1, 2]", "{}", "{a = 1}", "''",
    "2", "3", "8", "=", "\x00",
)  # fmt: skip
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


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
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


@settings(max_examples=300)
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


def places(node: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*prefix, key)
        if isinstance(value, dict | list):
            yield from places(value, (*prefix, key))


PROFILES = [json.loads(profile.to_json()) for profile in (image(), language())]
JUNK = st.sampled_from([
    True, 0, 1, -3, 2.5, -0.5, 1e-320, 1e300, 10**21, 10**400, "word", "", "$\\frac$", "\x00", [], [1, 2], [[1, 2]], {},
    {"kind": "word"}, None,
])  # fmt: skip
SMALL = ("device", "device", "run", "run", "memory", "stages")  # as likely as the long list of ops
READERS = [["plot", kind] for kind in ("breakdown", "stages", "roofline", "memory", "seqlen")]


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_mutated_profile_is_shown_or_is_one_message_and_exit_2(data: st.DataObject) -> None:
    document: Any = copy.deepcopy(data.draw(st.sampled_from(PROFILES)))
    for _ in range(data.draw(st.integers(1, 2))):
        section = data.draw(st.sampled_from([*document, *(name for name in SMALL if name in document)]))
        inside = list(places(document[section])) if isinstance(document[section], dict | list) else []
        *above, key = (section, *data.draw(st.sampled_from([(), *inside, *inside])))
        node: Any = document
        for step in above:
            node = node[step]
        what = data.draw(st.sampled_from(["delete", "rename", "replace", "replace", "replace"]))
        if what == "replace" or isinstance(node, list):
            node[key] = copy.deepcopy(data.draw(JUNK))
        elif what == "rename":
            node[key + "x"] = node.pop(key)
        else:
            del node[key]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.json"
        path.write_text(json.dumps(document))
        for command in (["compare"], data.draw(st.sampled_from(READERS))):
            out = [] if command == ["compare"] else ["--out", f"{folder}/x.png"]
            result = CliRunner().invoke(main, [*command, str(path), str(path), *out])
            assert result.exception is None or isinstance(result.exception, SystemExit), (command, result.exception)
            assert result.exit_code in (0, 2)
            if result.exit_code == 2:
                assert result.stderr.startswith("Error: ")
                assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("device", "peak_flops"), "word"), (("device", "bandwidth"), -1), (("device", "memory_bytes"), [1]),
        (("device", "title"), 3), (("run", "batch"), "one"), (("run", "steps"), {"a": 1}), (("config", "kind"), 5),
        (("ops", 0, "device_seconds"), -1.0), (("ops", 0, "bytes_read"), -1), (("ops", 0, "launches"), -1),
        (("ops", 1, "flops"), -1), (("stages", 0, "seconds"), -1.0), (("memory", "peak"), -1),
    ],
)  # fmt: skip
def test_a_profile_with_an_impossible_fact_is_refused_by_name(
    path: tuple[str | int, ...], value: object, tmp_path: Path
) -> None:
    document: Any = copy.deepcopy(PROFILES[0])
    node = document
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    file = tmp_path / "mutant.json"
    file.write_text(json.dumps(document))
    for command in (
        ["compare"],
        ["plot", "roofline", "--out", str(tmp_path / "x.png")],
        ["plot", "memory", "--out", str(tmp_path / "x.png")],
    ):
        result = CliRunner().invoke(main, [*command, str(file), str(file)])
        assert result.exit_code == 2, (command, result.exception)
        assert "mutant.json is not a minimodels profile: " in result.stderr
        assert str(path[-1]) in result.stderr


@pytest.mark.parametrize("name", TINY)
def test_every_size_of_a_tiny_config_is_required(name: str) -> None:
    whole = loader.json_schema()["$defs"].items()
    optional = {
        key
        for title, record in whole
        for key in record.get("properties", {})
        if not title.startswith("Partial") and key not in record.get("required", ())
    }
    assert {"published", "head_dim"} <= optional and not {"depth", "channels", "steps", "res_blocks"} & optional
    for path in paths(TABLES[name]):
        table = copy.deepcopy(TABLES[name])
        del parent_of(table, path)[path[-1]]
        if not optional & set(path):
            with pytest.raises(ValueError, match="missing|kind"):
                loader.parse(table, "mutant.toml")
