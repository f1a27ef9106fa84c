"""The shipped configs: a source per number, and a JSON Schema that agrees with the loader."""

from __future__ import annotations

import json
import tomllib
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import TypeAdapter

from minimodels.kinds import KINDS, Config
from minimodels.loader import json_schema, load, names, parse
from tests.config_files import text_of

# Sources


def numbers_in(value: Any) -> int:
    """How many numbers stand in a parsed value; a truth value is none."""
    if isinstance(value, dict):
        return sum(map(numbers_in, value.values()))
    if isinstance(value, list):
        return sum(map(numbers_in, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.parametrize("name", names())
def test_every_number_has_its_source_on_its_line(name: str) -> None:
    found = 0
    for number, line in enumerate(text_of(name).splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", "[")):
            continue
        (value,) = tomllib.loads(
            stripped
        ).values()  # raises where a value spans lines: then its source would not be seen
        if not numbers_in(value):
            continue
        found += 1
        source = value.get("source", "") if isinstance(value, dict) else ""
        comment = stripped.rpartition("#")[2] if stripped != without_comment(stripped) else ""
        assert len((source or comment).strip()) >= 10, f"{name}.toml, line {number}: {stripped}"
    assert found > 5 or "base" in tomllib.loads(text_of(name)), "one that starts from another may change no number"


def without_comment(line: str) -> str:
    """The line without its comment: the longest beginning before a # that still parses to the same."""
    expected = tomllib.loads(line)
    cuts = [index for index, letter in enumerate(line) if letter == "#"]
    for cut in cuts:
        try:
            if tomllib.loads(line[:cut]) == expected:
                return line[:cut]
        except tomllib.TOMLDecodeError:
            continue
    return line


def test_the_check_of_sources_sees_a_number_without_one() -> None:
    assert without_comment("a = 3  # b") == "a = 3  " and without_comment('a = "#"') == 'a = "#"'
    assert numbers_in({"a": [1, 2.5, True, {"b": 3}], "c": "4"}) == 3


# Schema


def valid(table: dict[str, Any]) -> bool:
    """Whether the JSON Schema accepts a config file; where jsonschema is missing, whether the types behind it do."""
    if find_spec("jsonschema") is not None:
        validators: Any = import_module("jsonschema.validators")
        schema = json_schema()
        checker = validators.validator_for(schema)
        checker.check_schema(schema)
        return checker(schema).is_valid(table)
    try:
        parse(table | {"name": "mine"}, "mine")
    except ValueError:
        return False
    return True


def file_table(name: str) -> dict[str, Any]:
    """What a shipped file says, merged over its base: JSON as an editor sees it."""
    table = load(name).model_dump(mode="json", exclude_none=True)
    del table["name"]
    return table


@pytest.mark.parametrize("name", names())
def test_the_schema_accepts_every_shipped_config(name: str) -> None:
    assert valid(file_table(name))
    assert TypeAdapter(Config).validate_python(file_table(name) | {"name": name}) == load(name)


@pytest.mark.skipif(find_spec("jsonschema") is None, reason="needs jsonschema, which nothing else here does")
@pytest.mark.parametrize("name", names())
def test_the_schema_accepts_every_shipped_file_as_it_is_written(name: str) -> None:
    assert valid(tomllib.loads(text_of(name)))


def test_the_schema_rejects_what_the_loader_rejects() -> None:
    for key, value in (("depth", 0), ("depth", "3"), ("dimm", 3), ("position", {"kind": "learned", "theta": 3.0})):
        table = file_table("llama-tiny")
        table["language_model"]["decoder"][key] = value
        assert not valid(table), (key, value)


def resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """The definition that a $ref of the schema points to."""
    while "$ref" in node:
        folder, _, name = node["$ref"].rpartition("/")
        assert folder == "#/$defs"
        node = schema["$defs"][name]
    return node


def test_the_schema_asks_for_everything_or_for_a_base() -> None:
    """Without a base every architecture size is required; with one, nothing is."""
    schema = json_schema()
    variants = [resolve(schema, option) for option in schema["anyOf"]]
    whole = [variant for variant in variants if "base" not in variant["properties"]]
    partial = [variant for variant in variants if "base" in variant["properties"]]
    assert len(whole) == len(partial) == len(KINDS)
    kinds = {model.__name__: model for model in KINDS.values()}
    for variant in whole:
        fields = kinds[variant["title"]].model_fields
        assert set(variant["required"]) == {key for key in variant["properties"] if fields[key].is_required()}
    for variant in partial:
        assert variant["required"] == ["base"] and variant["properties"]["base"]["enum"] == names()
    for variant in variants:
        assert "name" not in variant["properties"] and variant["additionalProperties"] is False
    stack, part = schema["$defs"]["Stack"], schema["$defs"]["PartialStack"]
    assert set(stack["properties"]) - set(stack["required"]) == {"head_dim", "multi_axis"}
    assert "required" not in part and set(part["properties"]) == set(stack["properties"])


def test_every_reference_of_the_schema_leads_somewhere_and_it_is_json() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema == json_schema()

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    assert {reference.removeprefix("#/$defs/") for reference in references(schema)} <= set(schema["$defs"])
