"""How a config is found and put together: names, paths, bases, overrides."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from minimodels.config import Architecture, AutoregressiveImage, LanguageModel, Learned, Relative, Rotary
from minimodels.diffusion_config import LatentDiffusion
from minimodels.loader import load, names
from tests.config_files import error_of, image_model, language_model, text_of, written

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


def test_a_section_that_gives_its_kind_takes_nothing_of_the_base(tmp_path: Path) -> None:
    """As one that was imported: what is optional and not in it is not there."""
    unet = text_of("stable-diffusion-1.5").partition("[unet]")[2].partition("[decoder]")[0].replace("768", "2048")
    config, base = load(written(tmp_path, f'base = "sdxl"\n[unet]{unet}')), load("sdxl")
    assert isinstance(config, LatentDiffusion) and isinstance(base, LatentDiffusion)
    assert config.unet.vector is None and base.unet.vector is not None
    assert config.decoder == base.decoder and config.schedule == base.schedule
    path = written(tmp_path, 'base = "sdxl"\n[unet]\nkind = "unet"\nin_channels = 4\n')
    with pytest.raises(ValueError, match=r"unet\.out_channels is missing"):
        load(path)


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


def test_a_published_total_goes_with_the_first_part_that_changes(tmp_path: Path) -> None:
    assert load("make-a-video").published is not None and load("make-a-video-tiny").published is None
    assert load("make-a-video", ["run.prior.steps=3"]).published is not None
    assert load("make-a-video", ["prior.stack.depth=3"]).published is None
    kept, gone = "[run.prior]\nsteps = 3\n", "[prior.stack]\ndepth = 3\n"
    assert load(written(tmp_path, f'base = "make-a-video"\n{kept}')).published is not None
    assert load(written(tmp_path, f'base = "make-a-video"\n{gone}')).published is None
    message = error_of(written(tmp_path, 'base = "muse-632m"\npublished = { params = 3, source = "", of = ["unet"] }'))
    assert "published.of: 'unet' is no part; parts are text_encoder, transformer" in message


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


def test_a_path_is_loaded_as_its_text_is_and_other_things_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, 'base = "llama-tiny"')
    assert load(Path(path)) == load(path)
    for wrong in (None, 3, load("llama-tiny")):
        with pytest.raises(ValueError, match="by its name or the path of a .toml file, not by"):
            load(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a list of key.path=value, not the string"):
        load("llama-tiny", "run.prompt_len=3")


def test_none_takes_out_what_is_optional_and_is_a_word_elsewhere() -> None:
    config = load("stable-diffusion-tiny", ["unet.levels.0.attention=none"])
    assert isinstance(config, LatentDiffusion) and config.unet.levels[0].attention is None
    again = load("stable-diffusion-tiny", ["unet.levels.2.attention=none", "unet.middle=none"])
    assert isinstance(again, LatentDiffusion) and again.unet.middle is None, "a level that had none has none"
    plain = load("parti-tiny", ["transformer.decoder.bias=none"])
    assert isinstance(plain, AutoregressiveImage) and plain.transformer.decoder.bias == "none"
    with pytest.raises(
        ValueError, match=r"must be a section, or none \(--set unet.levels.0.attention=none\), not False"
    ):
        load("stable-diffusion-tiny", ["unet.levels.0.attention=false"])
