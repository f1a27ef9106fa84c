"""Parameter counts that configs mention beside the published ones, each worked out here as the config says."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile

import pytest
import torch

from minimodels.config import Part
from minimodels.loader import load
from minimodels.parts import make
from minimodels.run import parameters
from minimodels.transformer import Stack
from minimodels.unet_attention import TransformerBlock
from tests.config_files import text_of
from tests.test_suite import EXPLAINED, size

FRAMES = 'temporal={kind="pseudo-3d",conv=%s,attention=%s,kernel=%d}'


def glide(channels: int) -> list[str]:
    """The enlargement of GLIDE and DALL-E 2, of so many channels, without its attention."""
    levels = ",".join(f"{{channels={channels * multiple},res_blocks=2}}" for multiple in (1, 1, 2, 2, 4, 4))
    return [f"levels=[{levels}]", f"time_dim={4 * channels}"]


# What was tried to reach the counts of Make-A-Video, whose widths are not printed, and what it gave in billions
TRIED: dict[str, dict[str, list[str]]] = {
    "prior": {"1.22": [], "1.32": ["stack.depth=26"], "1.63": ["stack.gated=true"], "1.02": ["stack.depth=20"]},
    "decoder": {
        "2.25": [FRAMES % ("false", "false", 3)], "2.70": [FRAMES % ("true", "false", 3)], "2.93": [],
        "3.23": [FRAMES % ("true", "true", 5)], "2.96": ['levels.0.attention={kind="appended",num_heads=8}'],
        "3.08": ["context_dim=4096"], "3.60": [f"levels.{index}.res_blocks=4" for index in range(4)],
    },
    "super_resolution_1": {
        "0.73": [FRAMES % ("false", "false", 3)], "0.91": [], "1.03": [FRAMES % ("true", "false", 5)],
        "1.14": [FRAMES % ("true", "false", 7)],
        "1.09": [FRAMES % ("true", "true", 3), 'middle={kind="appended",num_heads=20}',
                 *(f'levels.{index}.attention={{kind="appended",num_heads={5 * (index + 1)}}}' for index in (1, 2, 3))],
        "1.11": [f"levels.{index}.res_blocks=4" for index in range(4)],
        "1.41": glide(384),
    },
    "super_resolution_2": {
        "0.73": [], "0.28": glide(192),
        "0.57": [f"levels.{index}.res_blocks=2" for index in range(4)],
    },
}  # fmt: skip


def part(name: str, key: str, *overrides: str) -> Part:
    """A part of an architecture, with some of its numbers changed."""
    return dict(load(name, [f"{key}.{override}" for override in overrides]).parts())[key]


def layers(name: str, key: str, *overrides: str, only: str = "") -> int:
    """Parameters of the layers of a part's stacks, or of the stack of one name."""
    with torch.device("meta"):
        modules = make(part(name, key, *overrides)).named_modules()
    return sum(parameters(m.layers) for path, m in modules if isinstance(m, Stack) and (not only or path == only))


def stand_in(**changes: int | None) -> int:
    """Parameters of the stand-in's UNet for texts of other widths."""
    return size(dict(load("prod-image").parts())["unet"].model_copy(update=changes))


def two_attentions() -> int:
    """Parameters of the stand-in's UNet if the second text had norm, queries and output projection of its own."""
    with torch.device("meta"):
        unet = make(dict(load("prod-image").parts())["unet"])
    blocks = [block for block in unet.modules() if isinstance(block, TransformerBlock)]
    own = [m for b in blocks for m in (b.cross_norm, b.cross_attention.to_q, b.cross_attention.to_out)]
    return parameters(unet) + sum(parameters(module) for module in own)


# The words before a count, the count, and how it comes about
BESIDE: dict[str, list[tuple[str, str, Callable[[], int]]]] = {
    "imagen": [
        ("text projected to 512 gives", "2.14 B", lambda: size(part("imagen", "unet", "context_dim=512"))),
        ("to 2048 (NeMo)", "2.26 B", lambda: size(part("imagen", "unet", "context_dim=2048"))),
        ("to 4096", "2.45 B", lambda: size(part("imagen", "unet", "context_dim=4096"))),
        ("4 residual blocks in its last block, not 8, would give", "0.37 B",
         lambda: size(part("imagen", "super_resolution_2", "levels.3.res_blocks=4"))),
    ],
    "muse-3b": [
        ("48 layers of 2048 are", "3.22 B", lambda: layers("muse-3b", "transformer")),
        ("a gated MLP would give", "4.07 B", lambda: size(part("muse-3b", "transformer", "stack.gated=true"))),
    ],
    "muse-632m": [
        ("the layers inferred are", "629 M", lambda: layers("muse-632m", "transformer")),
        ("16 layers that attend to the text would be", "269 M",
         lambda: layers("muse-632m", "super_resolution", "stack.depth=16", only="stack")),
        ("5 of those here do not, which leaves", "248 M", lambda: layers("muse-632m", "super_resolution")),
    ],
    "phenaki": [
        ("the layers are", "1.81 B", lambda: layers("phenaki", "transformer")),
        ("the layers are", "25.2 M", lambda: layers("phenaki", "decoder")),
    ],
    "phenaki-0.9b": [("the layers are", "0.91 B", lambda: layers("phenaki-0.9b", "transformer"))],
    "prod-image": [
        ("Two whole cross-attentions would give", "2.92 B", two_attentions),
        ("one text of 2048", "2.73 B", lambda: stand_in(context_dim=2048, second_context_dim=None)),
        ("T5-XXL", "3.01 B", lambda: stand_in(second_context_dim=4096)),
    ],
    "parti-350m": [("the layers are", "352 M", lambda: layers("parti-350m", "transformer"))],
    "parti-750m": [("the layers are", "755 M", lambda: layers("parti-750m", "transformer"))],
    "parti-3b": [("the layers are", "3.02 B", lambda: layers("parti-3b", "transformer"))],
    "parti-20b": [
        ("the layers are", "20.4 B", lambda: layers("parti-20b", "transformer")),
        ("32 layers of 1280 are", "629 M", lambda: layers("parti-20b", "detokenizer")),
        ("WDSR-A with expansion 4 reaches", "14.2 M", lambda: size(part("parti-20b", "super_resolution")) // 2),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, counts in BESIDE.items() for i in range(len(counts))])
def test_a_count_beside_the_published_one_is_what_it_says(name: str, index: int) -> None:
    words, count, worked_out = BESIDE[name][index]
    assert f"{words} {count}" in text_of(name).replace("\n# ", " ")
    unit = {"B": 1e9, "M": 1e6}[count[-1]]
    digits = len(count[:-2].partition(".")[2])
    assert f"{worked_out() / unit:.{digits}f} {count[-1]}" == count


@pytest.mark.parametrize("name", BESIDE)
def test_no_count_of_three_digits_is_typed_alone(name: str) -> None:
    said = re.findall(r"(?<![\d.])\d\.\d\d B\b", text_of(name))
    assert set(said) <= {count for _, count, _ in BESIDE[name]}


@pytest.mark.parametrize(("name", "key"), sorted(EXPLAINED))
def test_what_is_off_by_more_than_2_percent_says_more_than_where_the_count_stands(name: str, key: str) -> None:
    published = dict(load(name).parts())[key].published
    assert published is not None
    reasons = "on top", "tried", "gives", "would give", "never runs", "layers of", "not printed"
    assert any(reason in published.source for reason in reasons), published.source


@pytest.mark.parametrize(("key", "billions"), [(key, billions) for key, tried in TRIED.items() for billions in tried])
def test_what_was_tried_for_make_a_video_gives_what_its_config_says(key: str, billions: str) -> None:
    comment = text_of("make-a-video").partition(f"[{key}]")[2].partition("# Tried:")[2].splitlines()
    tried = [comment[0], *takewhile(lambda line: line.startswith("#"), comment[1:])]
    said = re.findall(r" (\d\.\d\d) B", " ".join(tried))
    assert said == list(TRIED[key])
    changed = load("make-a-video", [f"{key}.{override}" for override in TRIED[key][billions]])
    assert f"{size(dict(changed.parts())[key]) / 1e9:.2f}" == billions
