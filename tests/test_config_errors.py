"""What a wrong config says."""

from __future__ import annotations

from pathlib import Path

import pytest

from minimodels.kinds import KINDS
from minimodels.loader import MAX_FILE, load, names, parse
from tests.config_files import error_of, text_of, written

# Errors: names and files


def test_an_unknown_model_lists_near_names_or_all() -> None:
    assert "unknown model 'parti-20'; did you mean parti-20b" in error_of("parti-20")
    assert "did you mean llama2-7b" in error_of("llama-2-7b")
    message = error_of("xyz")
    assert all(name in message for name in names()) and "minibench list" in message and ".toml" in message


@pytest.mark.parametrize("name", ("", ".", "..", "/", "-config"))
def test_what_is_no_name_is_not_answered_with_all_names(name: str, tmp_path: Path) -> None:
    message = error_of(name)
    assert "unknown model" in message and "minibench list" in message and ".toml" in message
    assert sum(known in message for known in names()) == 1
    assert "unknown base" in error_of(written(tmp_path, f'base = "{name}"'))


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
        ("", "kind is missing; allowed: autoregressive-image, language-model, latent-diffusion"),
        ('kind = "languge-model"', f"kind is 'languge-model'; allowed: {', '.join(KINDS)}; did you mean language"),
        ("kind = 3", "kind is 3; allowed"),
        ('base = "llama-tiny"\ntitel = "x"', "unknown key 'titel' in the top level; did you mean title"),
        ('base = "llama-tiny"\n[language_model]\nvocabulary = 3',
         "unknown key 'vocabulary' in language_model; did you mean vocab"),
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
        ("language_model.decoder.activation=swish",
         "decoder.activation: input should be 'gelu', 'gelu_quick', 'gelu_tanh', 'relu' or 'silu'"),
        ("language_model.decoder.norm.kind=rmss", "norm.kind: input should be 'layer' or 'rms', not 'rmss'"),
        ("language_model.decoder.norm=3", "decoder.norm: must be a section, not 3"),
        ("language_model.decoder.position=[1]", "decoder.position: must be a section, not a list"),
        ("language_model.decoder.norm=none", "decoder.norm: must be a section, not 'none'"),
        ("language_model.decoder.position={}", "decoder.position.kind is missing"),
        ("language_model.decoder.position.kind=rotery",
         "position.kind is 'rotery'; allowed: 'learned', 'learned-axes', 'relative', 'rotary'"),
        ('language_model.decoder.position={kind="relative"}', "language_model.decoder.position.buckets is missing"),
        ("title=3", "title: input should be a valid string, not 3"),
    ),
)  # fmt: skip
def test_a_wrong_value_names_its_key_and_what_is_allowed(override: str, message: str) -> None:
    assert message in error_of("llama-tiny", override)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    (
        ("llama-tiny", ("language_model.decoder.dim=49",),
         "language_model.decoder: dim 49 is not divisible by num_heads 6"),
        ("llama-tiny", ("language_model.decoder.num_kv_heads=4",), "num_heads 6 is not divisible by num_kv_heads 4"),
        ("llama-tiny", ("language_model.decoder.head_dim=7",), "rotary positions need an even head_dim, not 7"),
        ("llama-tiny", ("language_model.decoder.dim=18",), "rotary positions need an even head_dim, not 3"),
        (
            "llama-tiny",
            ('language_model.decoder.position={kind="relative",buckets=8,max_distance=4}',),
            "max_distance 4 must exceed half the buckets (4)",
        ),
        ("llama-tiny", ("run.gen_len=23",),
         "run.prompt_len 7 + run.gen_len 23 = 30 tokens exceed language_model.context_len 29"),
        ("parti-tiny", ("transformer.image_tokens=24",),
         "transformer.image_tokens 24 is not detokenizer.grid 5 squared"),
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
        ("languagemodel.decoder.depth=3",
         "llama-tiny has no key 'languagemodel' in the top level; did you mean language_model"),
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


@pytest.mark.parametrize(
    ("name", "override", "message"),
    (
        ("imagen", "scales=[4]", "imagen: scales: list should have at least 2 items after validation, not 1"),
        ("imagen", "unet.levels=[]", "imagen: unet.levels: list should have at least 1 item after validation, not 0"),
        ("imagen", "unet.levels.0.channels=513",
         "imagen: unet: levels.0.channels 513 is not divisible by norm_groups 32"),
        ("imagen", "run.image_size=3", "imagen: run.image_size 3 is not divisible by scales 16"),
        ("imagen", "unet.levels.0.chanels=3",
         "--set unet.levels.0.chanels: imagen has no key 'chanels' in unet.levels.0; did you mean channels"),
    ),
)  # fmt: skip
def test_a_message_names_its_key_once_and_what_was_given_once(name: str, override: str, message: str) -> None:
    assert error_of(name, override) == message


def test_a_file_of_one_section_says_that_an_architecture_needs_a_base(tmp_path: Path) -> None:
    section = text_of("imagen").partition("[unet]")[2].partition("[super_resolution_1]")[0]
    message = error_of(written(tmp_path, f"[unet]{section}"))
    assert "[unet] is a section of an architecture" in message and 'base = "NAME"' in message
    assert "kind is missing" in error_of(written(tmp_path, '[unet]\nkind = "wheel"\n'))


def test_a_length_of_an_architecture_whose_run_is_no_section_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, 'kind = "language-model"\nrun = 3\n')
    with pytest.raises(ValueError, match="no such length; its run options are none"):
        load(path, lengths={"steps": 3})


@pytest.mark.parametrize(
    ("name", "section", "key", "keys"),
    (
        ("imagen", "published", "params=3", "of, params, source"),
        ("stable-diffusion-1.5", "unet.vector", "pooled_dim=768", "number_dim, numbers, pooled_dim"),
    ),
)
def test_a_key_of_an_absent_section_says_that_the_section_is_set_whole(
    name: str, section: str, key: str, keys: str
) -> None:
    message = error_of(name, f"{section}.{key}")
    assert f"--set {section}.{key.partition('=')[0]}: {name} has no section {section}; set it whole" in message
    assert f"--set '{section}={{KEY = VALUE, ...}}'" in message and message.endswith(f"whose keys are {keys}")


def test_an_absent_section_set_whole_is_there() -> None:
    config = load("imagen", ['published={params=3, source="mine"}'])
    assert config.published is not None and config.published.params == 3


@pytest.mark.parametrize(
    ("name", "override", "message"),
    (
        ("sdxl", 'unet.middle.kind="appended"',
         "unknown key 'depth' in unet.middle; allowed: kind, num_heads, only_text"),
        ("sdxl", "unet.middle.depht=3", "no key 'depht' in unet.middle; did you mean depth"),
        ("make-a-video", "decoder.temporal.max_frames=3",
         "no key 'max_frames' in decoder.temporal; allowed: attention, conv, kernel, kind"),
        ("stable-diffusion-1.5", "unet.projection.x=3", "unet.projection is the value 'conv', not a section"),
        ("llama-tiny", "language_model.decoder.head_dim.x=3",
         "language_model.decoder.head_dim is a value, not a section"),
    ),
)  # fmt: skip
def test_keys_of_sections_of_several_kinds_are_listed(name: str, override: str, message: str) -> None:
    assert message in error_of(name, override)


@pytest.mark.parametrize(
    ("frames", "message"),
    (
        (10, "run.frames 10 is not 1 and a multiple of decoder.frame_patch 2; nearest are 9 and 11"),
        (2, "nearest are 1 and 3"),
        (12, "run.frames 12 exceed 11: 1 and then 2 for each further frame of tokens"),
        (13, "transformer.axes has 6 and decoder.max_frames is 6"),
    ),
)
def test_frames_that_cannot_be_name_those_that_can(frames: int, message: str) -> None:
    assert message in error_of("phenaki", f"run.frames={frames}")
    load("phenaki", ["run.frames=9"])
