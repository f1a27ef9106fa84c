"""What kernels are compared with: other packages where installed, each right in its own layout, a wrong one told.

The packages here are those of `fake_packages`.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.kernels import packages
from minimodels.kernels.baselines import FLEX, PINNED, REARRANGED, ways
from minimodels.kernels.bench import Row, as_json, bench, work_of
from minimodels.kernels.case import Case
from minimodels.kernels.ceilings import Ceilings
from minimodels.kernels.operator import COMPOSITES, every
from minimodels.kernels.protocol import CpuTimer
from tests.kernels.fake_packages import Install

CEILINGS = Ceilings(copy=1e18, l2_copy=1e18, matmul={"float32": 1e21}, launch=0.0, launches={}, l2_bytes=0)


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape).half()


def _heads(b: int, n: int, heads: int, d: int) -> Tensor:
    """(1, b, heads, n, d) as a view of a projection."""
    return _draw(b, n, heads * d).unflatten(-1, (heads, d)).transpose(1, 2)[None]


def _flash(n: int = 5, m: int = 7, d: int = 24, kv_heads: int = 3, causal: bool = False) -> Case:
    q, k, v = _heads(2, n, 3, d), _heads(2, m, kv_heads, d), _heads(2, m, kv_heads, d)
    return Case.of("minimodels::flash_attention", (q, k, v, None, causal, d**-0.5))


def _temporal(causal: bool = False) -> Case:
    q, k, v = (_draw(2, 5, 3, 2 * 16).unflatten(-1, (2, 16)).permute(0, 2, 3, 1, 4) for _ in range(3))
    return Case.of("minimodels::temporal_attention", (q, k, v, None, None, None, causal, 0.25))


def _decode(n: int = 1) -> Case:
    q, k, v = (_draw(2, n, heads, 16).transpose(1, 2) for heads in (6, 2, 2))
    caches = [_draw(2, 2, 13, 16) for _ in range(2)]
    return Case.of("minimodels::decode_attention", (q, k, v, *caches, None, None, 9, 0.25))


def _norm(rms: bool, total: bool = False, modulated: bool = False) -> Case:
    x, weight, bias = _draw(3, 5, 24), _draw(24), None if rms else _draw(24)
    scale, shift = (_draw(3, 24), _draw(3, 24)) if modulated else (None, None)
    given = (x, _draw(3, 5, 24)) if total else (x,)
    name = "add_layer_norm" if total else "layer_norm"
    return Case.of(f"minimodels::{name}", (*given, weight, bias, scale, shift, 1e-5, rms))


def _gated(activation: str) -> Case:
    gate, value = _draw(3, 5, 2 * 24).chunk(2, -1)
    return Case.of("minimodels::gated", (gate, value, activation))


def _rows(case: Case) -> dict[str, Row]:
    rows = bench([case], CpuTimer(1 << 14), CEILINGS, 5, lambda *_: None, compiled=False)
    return {row.implementation: row for row in rows}


FLASH_ATTN, FLASH_ATTN_3, XFORMERS_, LIGER_, APEX_ = packages.MODULES
COMPARED = [
    (_flash(), {FLASH_ATTN, FLASH_ATTN_3, XFORMERS_}),
    (_flash(causal=True), {FLASH_ATTN, FLASH_ATTN_3, XFORMERS_}),
    (_flash(kv_heads=1, causal=True), {FLASH_ATTN, FLASH_ATTN_3, XFORMERS_}),
    (Case.of("minimodels::cross_attention", (_heads(2, 9, 3, 8), *(_heads(2, 7, 3, 8),) * 2, 0.3)),
     {FLASH_ATTN, FLASH_ATTN_3, XFORMERS_}),
    (_temporal(), {FLASH_ATTN, FLASH_ATTN_3, XFORMERS_}),
    (_decode(), {FLASH_ATTN, FLASH_ATTN_3}),
    (_decode(n=3), {FLASH_ATTN, FLASH_ATTN_3}),
    (_norm(rms=True), {LIGER_, APEX_}),
    (_norm(rms=False), {LIGER_, APEX_}),
    (_norm(rms=True, total=True), {LIGER_}),
    (_gated("silu"), {LIGER_}),
    (_gated("gelu_tanh"), {LIGER_}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "compared"), COMPARED, ids=lambda value: getattr(value, "operator", "")[12:])
def test_a_package_that_is_installed_is_compared_and_right(case: Case, compared: set[str], install: Install) -> None:
    install()
    rows = _rows(case)
    assert {name for name in rows if name in packages.MODULES} == compared
    for name in compared:
        assert rows[name].seconds and rows[name].wrong == () and rows[name].note == "", rows[name]


@pytest.mark.parametrize(
    ("case", "old", "new"),
    [
        (_flash(causal=True), "triu(m - n + 1)", "triu(1)"),
        (_temporal(), "* scale\n", "* scale * 1.1\n"),
        (_decode(), "k_cache[:, cache_seqlens:end], v_cache[:, cache_seqlens:end] = k, v", "pass"),
        (_norm(rms=True), "W.float() + offset", "W.float() * 1.05 + offset"),
        (_gated("gelu_tanh"), 'F.gelu(a.float(), approximate="tanh")', "F.silu(a.float())"),
    ],
    ids=["causal mask at the wrong end", "scale", "nothing appended", "weight", "another activation"],
)
def test_a_package_that_is_wrong_is_told_so(case: Case, old: str, new: str, install: Install) -> None:
    install(old, new)
    rows = _rows(case)
    found = [row for name, row in rows.items() if name in (FLASH_ATTN, LIGER_)]
    assert found and all(row.wrong and row.percent is None for row in found)
    assert rows["ours"].wrong == () and rows["eager"].wrong == ()


@pytest.mark.parametrize(
    ("case", "limits"),
    [
        (_flash(d=20), {FLASH_ATTN: "head_dim is a multiple of 8 up to 256, not 20",
                        XFORMERS_: "head_dim is a multiple of 8 in float16, not 20"}),
        (Case.of("minimodels::flash_attention", (*(torch.randn(1, 2, 3, 5, 8),) * 3, None, False, 1.0)),
         {FLASH_ATTN: "needs float16 or bfloat16, not float32"}),
        (Case.of("minimodels::flash_attention", (*(_heads(2, 5, 3, 8),) * 3, _draw(3, 5, 5), False, 1.0)),
         {FLASH_ATTN: "takes no bias", XFORMERS_: "bias"}),
        (_norm(rms=True, modulated=True), {LIGER_: "has no modulation", APEX_: "has no modulation"}),
        (_norm(rms=False, total=True), {LIGER_: "has no sum before LayerNorm"}),
        (_gated("gelu"), {LIGER_: "has no gelu"}),
    ],
    ids=["head_dim", "dtype", "bias", "modulation", "sum", "activation"],
)  # fmt: skip
def test_what_a_package_cannot_do_is_said_and_not_tried(case: Case, limits: dict[str, str], install: Install) -> None:
    install()
    rows = _rows(case)
    for name, limit in limits.items():
        assert rows[name].seconds is None and rows[name].wrong == () and limit in rows[name].note


def test_a_package_that_fails_is_a_note_and_no_end(install: Install) -> None:
    install(
        "def attend(q, k, v, causal, scale):", "def attend(q, k, v, causal, scale):\n    assert False, 'no kernel'\n"
    )
    rows = _rows(_flash())
    assert rows[FLASH_ATTN].note == "no kernel" and rows[FLASH_ATTN].seconds is None
    install("import torch\n", "import torch, nothing_of_this_name\n")
    sys.modules.pop("flash_attn")
    assert "cannot be imported: No module named 'nothing_of_this_name'" in _rows(_flash())[FLASH_ATTN].note


def test_a_record_says_which_packages_were_there(install: Install) -> None:
    before = as_json([], CEILINGS)["packages"]
    assert before == dict.fromkeys(packages.MODULES, "not installed")
    install()
    after = as_json([], CEILINGS)["packages"]
    assert after[FLASH_ATTN] == after[FLASH_ATTN_3] == "0.0.test"
    assert after[APEX_] == "of unknown version"


def test_without_packages_torch_alone_is_compared() -> None:
    rows = _rows(_temporal())
    assert set(rows) == {"ours", "eager", *PINNED, *(REARRANGED + name for name in PINNED)}
    for name in ("math", REARRANGED + "math"):
        assert rows[name].seconds and rows[name].wrong == ()


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_flex_attention_takes_biases_grouped_keys_and_masks_at_the_last_key(causal: bool) -> None:
    known = every()["minimodels::flash_attention"]
    q, k, v = _heads(2, 5, 6, 24), _heads(2, 7, 2, 24), _heads(2, 7, 2, 24)
    for bias in (None, _draw(6, 5, 7), _draw(1, 2, 6, 5, 7)):
        args = (q, k, v, bias, causal, 0.2)
        way = ways("flash_attention", known, args, True)[FLEX]
        assert not isinstance(way, str)
        found = way.restore(way.call(*way.arrange(*args)))
        torch.testing.assert_close(found, known.reference(*args), atol=5e-3, rtol=0)  # float16 of order one


def test_layouts_of_others_are_made_beforehand_and_the_rearranged_ways_make_them() -> None:
    """Of the ways to attend over frames only those named for it copy q, k and v inside what is timed."""
    arguments = _temporal().make("cpu")
    arguments.refill()
    found = ways("temporal_attention", every()["minimodels::temporal_attention"], arguments.args, False)
    for name, copies in (("math", False), (REARRANGED + "math", True)):
        way = found[name]
        assert not isinstance(way, str)
        given = way.arrange(*arguments.args)
        assert (given[0].dim() == 5) == copies
        with torch.profiler.profile() as profile:
            result = way.call(*given)
        cloned = [event for event in profile.events() or () if event.name == "aten::clone"]
        assert len(cloned) == (3 if copies else 0)
        torch.testing.assert_close(
            way.restore(result), every()["minimodels::temporal_attention"].reference(*arguments.args),
            atol=5e-3, rtol=0,  # float16 of values of order one
        )  # fmt: skip
    rearranged = found[REARRANGED + "math"]
    assert not isinstance(rearranged, str)
    assert rearranged.call(*arguments.args).stride() == arguments.args[0].stride(), "back where the next layer reads"


@pytest.mark.parametrize("residual", [False, True])
def test_a_convolution_over_frames_is_compared_with_rearranging(residual: bool) -> None:
    last = torch.channels_last_3d
    x, weight = (_draw(2, 8, 5, 3, 7).to(memory_format=last), _draw(24, 8, 3, 1, 1).to(memory_format=last))
    more = (_draw(2, 24, 5, 3, 7).to(memory_format=last), _draw(24)) if residual else (None, None)
    row = _rows(Case.of("minimodels::temporal_conv", (x, weight, _draw(24), *more)))["conv1d"]
    assert row.seconds and row.wrong == ()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_upsampling_folded_into_a_convolution_is_compared_with_both(layout: torch.memory_format) -> None:
    x, weight = _draw(2, 5, 6, 7).to(memory_format=layout), _draw(8, 5, 3, 3).to(memory_format=layout)
    case = Case.of("minimodels::upsample_conv", (x, weight, _draw(8)))
    rows = _rows(case)
    assert {name: row.wrong for name, row in rows.items()} == {"ours": (), "eager": ()}
    work = work_of(every()[case.operator], case)
    assert work.flops == 2 * (2 * 12 * 14) * 8 * 4 * 5 and work.bytes_written == 2 * 2 * 12 * 14 * 8
    assert work.bytes_read == 2 * (2 * 5 * 6 * 7 + 16 * 8 * 5 + 8)


def test_a_composite_is_judged_as_an_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "minimodels::upsample_conv"
    case = Case.of(name, (_draw(1, 3, 5, 6), _draw(4, 3, 3, 3), _draw(4)))
    known: Any = every()[name]

    def off(*args: Any) -> Tensor:
        out = known.run(*args)
        out[0, 0, 0, 0] += 1
        return out

    broken = type(known)(known.schema, known.prepare, off, known.reference, known.eager, known.work)
    monkeypatch.setitem(COMPOSITES, name, broken)
    assert _rows(case)["ours"].wrong
