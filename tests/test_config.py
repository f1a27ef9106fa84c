"""Configs: names, bases, overrides, every kind of error, and the source of every number."""

from __future__ import annotations

import json
import tomllib
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from minimodels.config import Architecture, AutoregressiveImage, Config, LanguageModel, Learned, Relative, Rotary
from minimodels.loader import MAX_FILE, json_schema, load, names, parse

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


# Names


@pytest.mark.parametrize("name", names())
def test_every_name_loads_with_and_without_config_behind_it(name: str) -> None:
    config = load(name)
    assert config == load(f"{name}-config")
    assert config.name == name and isinstance(config, Architecture)
    assert list(config.parts())


def test_the_promised_names_are_there() -> None:
    assert set(names()) >= {
        "parti-350m", "parti-750m", "parti-3b", "parti-20b", "llama2-7b", "llama2-13b", "llama2-70b",
        "parti-tiny", "llama-tiny",
    }  # fmt: skip
    assert names() == sorted(names())


def test_a_path_loads_and_is_called_as_its_file(tmp_path: Path) -> None:
    path = written(tmp_path, text_of("llama2-7b"), "my-llama.toml")
    config = load(path)
    assert config.name == "my-llama"
    assert config.model_copy(update={"name": "llama2-7b"}) == load("llama2-7b")


@pytest.mark.parametrize("name", names())
def test_a_base_that_is_built_in_has_a_base_that_is_whole(name: str) -> None:
    """So that no chain is longer than two, and a reader opens three files at most."""
    base = tomllib.loads(text_of(name)).get("base")
    assert base is None or "base" not in tomllib.loads(text_of(base))


@pytest.mark.parametrize("name", names())
def test_a_config_survives_json(name: str) -> None:
    config = load(name)
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_parts_come_in_the_order_they_run() -> None:
    assert [key for key, _ in load("parti-20b").parts()] == ["transformer", "detokenizer", "super_resolution"]


# Base


def test_a_base_is_merged_key_by_key(tmp_path: Path) -> None:
    path = written(tmp_path, 'base = "llama2-7b"\n[language_model.decoder]\ndepth = 3\nnorm = { eps = 0.5 }\n')
    config, base = language_model(path), language_model("llama2-7b")
    decoder, base_decoder = config.language_model.decoder, base.language_model.decoder
    assert decoder.depth == 3 and decoder.norm.eps == 0.5
    assert decoder.norm.kind == base_decoder.norm.kind == "rms"
    changed = {"depth", "norm"}
    assert decoder.model_dump(exclude=changed) == base_decoder.model_dump(exclude=changed)
    assert config.run == base.run and config.title == base.title and config.name == "mine"


def test_another_kind_replaces_the_section(tmp_path: Path) -> None:
    """A learned position has no theta: what the rotary one says must not remain."""
    path = written(tmp_path, 'base = "llama2-7b"\n[language_model.decoder.position]\nkind = "learned"\n')
    assert language_model(path).language_model.decoder.position == Learned(kind="learned")
    path = written(
        tmp_path,
        'base = "llama-tiny"\n[language_model.decoder]\n'
        'position = { kind = "relative", buckets = 6, max_distance = 9 }\n',
    )
    assert language_model(path).language_model.decoder.position == Relative(kind="relative", buckets=6, max_distance=9)


def test_the_same_kind_keeps_the_rest_of_the_section(tmp_path: Path) -> None:
    path = written(tmp_path, 'base = "llama-tiny"\n[language_model.decoder.position]\nkind = "rotary"\n')
    assert language_model(path).language_model.decoder.position == Rotary(kind="rotary", theta=10000.0)


def test_a_base_leaves_its_own_file_alone(tmp_path: Path) -> None:
    before = load("parti-20b")
    load(written(tmp_path, 'base = "parti-20b-config"\n[detokenizer]\ncode_dim = 5\n'))
    assert load("parti-20b") == before


def test_a_changed_part_loses_its_published_size(tmp_path: Path) -> None:
    path = written(tmp_path, 'base = "parti-350m"\n[transformer.decoder]\ndepth = 3\n')
    config = image_model(path)
    assert config.transformer.published is None
    assert config.detokenizer.published == image_model("parti-20b").detokenizer.published is not None

    path = written(tmp_path, 'base = "parti-350m"\n[run]\nguidance_scale = 1.0\n')
    assert image_model(path).transformer.published == image_model("parti-350m").transformer.published is not None


def test_a_part_may_bring_its_own_published_size(tmp_path: Path) -> None:
    size = 'published = { params = 5, source = "mine" }'
    path = written(tmp_path, f'base = "parti-350m"\n[transformer]\n{size}\ndecoder = {{ depth = 3 }}\n')
    published = image_model(path).transformer.published
    assert published is not None and (published.params, published.source) == (5, "mine")


# Overrides


def test_set_changes_one_value_and_nothing_else() -> None:
    before, after = load("llama-tiny"), load("llama-tiny", ["language_model.decoder.depth=5"])
    expected = before.model_dump()
    expected["language_model"]["decoder"]["depth"] = 5
    assert after.model_dump() == expected


@pytest.mark.parametrize(
    ("override", "path", "value"),
    (
        ("run.temperature=0.5", "run.temperature", 0.5),
        ("run.temperature=2", "run.temperature", 2.0),
        ("language_model.decoder.ff_dim=1_000", "language_model.decoder.ff_dim", 1000),
        ("language_model.decoder.gated=false", "language_model.decoder.gated", False),
        ("language_model.decoder.activation=relu", "language_model.decoder.activation", "relu"),
        ('language_model.decoder.activation="relu"', "language_model.decoder.activation", "relu"),
        ("title=a = b", "title", "a = b"),
        ("language_model.decoder.norm.kind=layer", "language_model.decoder.norm.kind", "layer"),
        ('language_model.decoder.norm={kind="layer",eps=0.5}', "language_model.decoder.norm.eps", 0.5),
        ('language_model.decoder.position={kind="learned"}', "language_model.decoder.position.kind", "learned"),
        ("language_model.decoder.head_dim=10", "language_model.decoder.head_dim", 10),
    ),
)
def test_set_reads_toml_and_bare_words(override: str, path: str, value: Any) -> None:
    node: Any = load("llama-tiny", [override])
    for key in path.split("."):
        node = getattr(node, key)
    assert node == value and type(node) is type(value)


def test_set_reaches_an_optional_size_that_the_file_does_not_give() -> None:
    """The error of an indivisible dim advises to give head_dim."""
    indivisible = "language_model.decoder.dim=49"
    assert "give head_dim" in error_of("llama-tiny", indivisible)
    config = language_model("llama-tiny", indivisible, "language_model.decoder.head_dim=10")
    assert config.language_model.decoder.head_width == 10


def test_later_overrides_win_and_build_on_earlier_ones() -> None:
    config = language_model(
        "llama-tiny",
        'language_model.decoder.position={kind="relative",buckets=6,max_distance=9}',
        "language_model.decoder.position.buckets=8",
        "run.gen_len=3",
        "run.gen_len=4",
    )
    assert config.language_model.decoder.position == Relative(kind="relative", buckets=8, max_distance=9)
    assert config.run.gen_len == 4


def test_set_of_a_size_drops_the_published_one_of_its_part() -> None:
    config = image_model("parti-350m", "transformer.decoder.depth=3")
    assert config.transformer.published is None and config.detokenizer.published is not None
    assert image_model("parti-350m", "run.temperature=0.5").transformer.published is not None


def test_set_of_a_published_size_is_kept() -> None:
    published = image_model("parti-350m", "transformer.published.params=5").transformer.published
    assert published is not None and published.params == 5


def test_named_lengths_set_run_options() -> None:
    config = load("llama-tiny", lengths={"prompt_len": 3, "gen_len": None})
    assert isinstance(config, LanguageModel)
    assert (config.run.prompt_len, config.run.gen_len) == (3, 11)
    with pytest.raises(ValueError, match="--prompt-len: parti-tiny has no such length"):
        load("parti-tiny", lengths={"prompt_len": 3})


# Errors: names and files


def test_an_unknown_model_lists_near_names_or_all() -> None:
    assert "unknown model 'parti-20'; did you mean parti-20b" in error_of("parti-20")
    assert "did you mean llama2-7b" in error_of("llama-2-7b")
    message = error_of("xyz")
    assert all(name in message for name in names()) and "minibench list" in message and ".toml" in message


def test_a_missing_file_a_directory_and_an_odd_name_say_so(tmp_path: Path) -> None:
    path = str(tmp_path / "none.toml")
    assert path in error_of(path) and "No such file" in error_of(path)
    (tmp_path / "folder.toml").mkdir()
    message = error_of(str(tmp_path / "folder.toml"))
    assert "folder.toml" in message and "directory" in message
    assert "must end in .toml" in error_of(str(tmp_path))
    assert "cannot read" in error_of("nul\0byte.toml")


def test_a_binary_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    assert f"{path} is not a text file" in error_of(str(path))
    path.write_bytes(b"title = 'a'\n\x00\x00")
    assert f"{path} is not valid TOML" in error_of(str(path))


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = written(tmp_path, "#" * (MAX_FILE + 1))
    assert "1,048,576 bytes" in error_of(path)
    endless = tmp_path / "endless.toml"
    endless.symlink_to("/dev/zero")
    assert "1,048,576 bytes" in error_of(str(endless))


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, 'base = "llama-tiny"\n\n[language_model\ndepth = 3\n')
    assert f"{path} is not valid TOML" in error_of(path) and "line 3" in error_of(path)


@pytest.mark.parametrize("text", ("a." * 3000 + "b = 1", "x = " + "[" * 5000 + "]" * 5000), ids=("tables", "lists"))
def test_deep_nesting_is_an_error_not_a_crash(tmp_path: Path, text: str) -> None:
    assert error_of(written(tmp_path, text)).startswith(str(tmp_path))


def test_a_base_must_be_known(tmp_path: Path) -> None:
    assert "unknown base 'parti-20'; did you mean parti-20b" in error_of(written(tmp_path, 'base = "parti-20"'))
    assert "base must be the name of a built-in architecture, not 3" in error_of(written(tmp_path, "base = 3"))


def test_a_name_inside_the_file_is_refused(tmp_path: Path) -> None:
    assert "unknown key 'name'" in error_of(written(tmp_path, 'base = "llama-tiny"\nname = "other"\n'))


@pytest.mark.parametrize("value", ("3", '"published"', "[1]", '{ kind = "wdsr" }', "{ kind = 3 }"))
@pytest.mark.parametrize("base", ("llama2-7b", "llama-tiny"))
def test_a_part_that_is_no_such_section_is_an_error_not_a_crash(tmp_path: Path, base: str, value: str) -> None:
    message = error_of(written(tmp_path, f'base = "{base}"\nlanguage_model = {value}\n'))
    assert "mine.toml: language_model" in message


# Errors: keys and values


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("", "kind is missing; allowed: autoregressive-image, language-model"),
        ('kind = "languge-model"', "kind is 'languge-model'; allowed: autoregressive-image, language-model; did you mean"),
        ("kind = 3", "kind is 3; allowed"),
        ('base = "llama-tiny"\ntitel = "x"', "unknown key 'titel' in the top level; did you mean title"),
        ('base = "llama-tiny"\n[language_model]\nvocabulary = 3', "unknown key 'vocabulary' in language_model; did you mean vocab"),
        (
            'base = "llama-tiny"\n[language_model.decoder]\ndimm = 3',
            "unknown key 'dimm' in language_model.decoder; did you mean dim",
        ),
        (
            'base = "llama-tiny"\n[language_model.decoder.position]\ntheta_base = 3',
            "unknown key 'theta_base' in language_model.decoder.position; did you mean theta",
        ),
        (
            'base = "llama-tiny"\n[language_model.decoder.position]\nzzz = 3',
            "unknown key 'zzz' in language_model.decoder.position; allowed: kind, theta",
        ),
    ),
)  # fmt: skip
def test_unknown_keys_are_named_with_their_section_and_the_nearest(tmp_path: Path, text: str, message: str) -> None:
    assert message in error_of(written(tmp_path, text))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    text = text_of("llama2-7b").replace("depth = 32", "#").replace("context_len = 4096", "#")
    message = error_of(written(tmp_path, text))
    assert "language_model.decoder.depth is missing" in message and "language_model.context_len is missing" in message


def test_a_key_of_another_kind_is_unknown() -> None:
    message = error_of("llama-tiny", "language_model.decoder.position.kind=learned")
    assert "unknown key 'theta' in language_model.decoder.position; allowed: kind" in message


@pytest.mark.parametrize("path", ("language_model.decoder.depth", "language_model.vocab", "run.gen_len"))
@pytest.mark.parametrize(
    ("value", "message"),
    (
        ("true", "should be a valid integer, not True"),
        ("2.0", "should be a valid integer, not 2.0"),
        ("three", "should be a valid integer, not 'three'"),
        ("", "should be a valid integer, not ''"),
        ("[1, 2]", "should be a valid integer, not a list"),
        ("{ a = 1 }", "should be a valid integer, not a section"),
        ("1979-05-27", "should be a valid integer, not datetime.date"),
        ("nan", "should be a valid integer, not nan"),
        ("0", "should be greater than or equal to"),
        ("-3", "should be greater than or equal to"),
        ("1" + 21 * "0", "should be less than or equal to"),
        ("0x" + 5000 * "f", "should be less than or equal to"),
        ("1" + 5000 * "0", "should be a valid integer"),
    ),
)
def test_a_wrong_integer_names_its_key_and_what_was_given(path: str, value: str, message: str) -> None:
    found = error_of("llama-tiny", f"{path}={value}")
    assert found.startswith(f"llama-tiny: {path}: ") and message in found
    assert len(found) < 200, "in one short line"


@pytest.mark.parametrize(
    ("override", "message"),
    (
        ("run.temperature=true", "run.temperature: input should be a valid number, not True"),
        ("run.temperature=0", "run.temperature: input should be greater than 0, not 0"),
        ("run.temperature=inf", "run.temperature: input should be a finite number, not inf"),
        ("language_model.decoder.norm.eps=-1e-5", "norm.eps: input should be greater than 0, not -1e-05"),
        ("language_model.decoder.norm.eps=nan", "norm.eps: input should be a finite number, not nan"),
        ("language_model.decoder.gated=1", "decoder.gated: input should be a valid boolean, not 1"),
        ("language_model.decoder.activation=swish", "decoder.activation: input should be 'gelu', 'gelu_tanh', 'relu' or 'silu'"),
        ("language_model.decoder.norm.kind=rmss", "norm.kind: input should be 'layer' or 'rms', not 'rmss'"),
        ("language_model.decoder.norm=3", "decoder.norm: must be a section, not 3"),
        ("language_model.decoder.position=[1]", "decoder.position: must be a section, not a list"),
        ("language_model.decoder.position={}", "decoder.position.kind is missing"),
        ("language_model.decoder.position.kind=rotery", "position.kind is 'rotery'; allowed: 'learned', 'relative', 'rotary'"),
        ('language_model.decoder.position={kind="relative"}', "language_model.decoder.position.buckets is missing"),
        ("title=3", "title: input should be a valid string, not 3"),
    ),
)  # fmt: skip
def test_a_wrong_value_names_its_key_and_what_is_allowed(override: str, message: str) -> None:
    assert message in error_of("llama-tiny", override)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    (
        ("llama-tiny", ("language_model.decoder.dim=49",), "language_model.decoder: dim 49 is not divisible by num_heads 6"),
        ("llama-tiny", ("language_model.decoder.num_kv_heads=4",), "num_heads 6 is not divisible by num_kv_heads 4"),
        ("llama-tiny", ("language_model.decoder.head_dim=7",), "rotary positions need an even head_dim, not 7"),
        ("llama-tiny", ("language_model.decoder.dim=18",), "rotary positions need an even head_dim, not 3"),
        (
            "llama-tiny",
            ('language_model.decoder.position={kind="relative",buckets=8,max_distance=4}',),
            "max_distance 4 must exceed half the buckets (4)",
        ),
        ("llama-tiny", ("run.gen_len=23",), "run.prompt_len 7 + run.gen_len 23 = 30 tokens exceed language_model.context_len 29"),
        ("parti-tiny", ("transformer.image_tokens=24",), "transformer.image_tokens 24 is not detokenizer.grid 5 squared"),
        ("parti-tiny", ("detokenizer.codebook_size=38",), "image_vocab 37 differs from detokenizer.codebook_size 38"),
    ),
)  # fmt: skip
def test_impossible_sizes_say_which_two_do_not_fit(name: str, overrides: tuple[str, ...], message: str) -> None:
    found = error_of(name, *overrides)
    assert found.startswith(f"{name}: ") and message in found


def test_several_problems_come_one_a_line_and_five_at_most() -> None:
    sizes = ("depth", "dim", "num_heads", "num_kv_heads", "ff_dim")
    lines = error_of("llama-tiny", *(f"language_model.decoder.{size}=0" for size in sizes)).splitlines()
    assert [line.split(": ")[1] for line in lines] == [f"language_model.decoder.{size}" for size in sizes]
    lines = error_of(
        "llama-tiny", *(f"language_model.decoder.{size}=0" for size in sizes), "title=3", "run=3"
    ).splitlines()
    assert len(lines) == 6 and lines[-1] == "llama-tiny: and 2 more"


@pytest.mark.parametrize(
    ("override", "message"),
    (
        ("language_model.decoder.deph=3", "llama-tiny has no key 'deph' in language_model.decoder; did you mean depth"),
        ("languagemodel.decoder.depth=3", "llama-tiny has no key 'languagemodel' in the top level; did you mean language_model"),
        ("language_model.encoder.depth=3", "llama-tiny has no key 'encoder' in language_model; did you mean decoder"),
        ("language_model.decoder.depth.x=3", "language_model.decoder.depth is the value 3, not a section"),
        ("language_model..depth=3", "llama-tiny has no key '' in language_model"),
        ("language_model.decoder.depth", "write it as key.path=value"),
        ("=3", "write it as key.path=value"),
        ("", "write it as key.path=value"),
    ),
)  # fmt: skip
def test_set_on_a_path_that_does_not_exist_says_what_does(override: str, message: str) -> None:
    found = error_of("llama-tiny", override)
    assert found.startswith("--set ") and message in found


def test_set_into_a_list_counts_its_items(tmp_path: Path) -> None:
    path = written(tmp_path, 'base = "llama-tiny"\nlevels = [1, { depth = 2 }]\n')
    assert "levels has items 0 to 1, not '2'" in error_of(path, "levels.2=1")
    assert "levels has items 0 to 1, not 'x'" in error_of(path, "levels.x=1")
    assert "levels has items 0 to 1, not '-1'" in error_of(path, "levels.-1=1")
    assert "levels.0 is the value 1, not a section" in error_of(path, "levels.0.depth=1")
    assert "unknown key 'levels'" in error_of(path, "levels.1.depth=3"), "a valid path; the list itself is not"


def test_parse_names_what_it_parses() -> None:
    with pytest.raises(ValueError, match="a table of mine: kind is missing"):
        parse({}, "a table of mine")


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
    assert found > 5


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
    assert len(whole) == len(partial) == 2
    for variant in whole:
        assert set(variant["required"]) == set(variant["properties"])
    for variant in partial:
        assert variant["required"] == ["base"] and variant["properties"]["base"]["enum"] == names()
    for variant in variants:
        assert "name" not in variant["properties"] and variant["additionalProperties"] is False
    stack, part = schema["$defs"]["Stack"], schema["$defs"]["PartialStack"]
    assert set(stack["properties"]) - set(stack["required"]) == {"head_dim"}
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
