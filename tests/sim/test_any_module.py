"""Modules that are not ours: walked, measured on a CPU, and counted as torch counts them."""

from __future__ import annotations

import math
import random
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import minimodels
from minimodels.sim import views
from minimodels.sim.formulas import work_of
from minimodels.sim.formulas_matrix import copy_bytes
from minimodels.sim.profile import Profile


class ConvNet(nn.Module):
    """Convolutions, norms and pooling, as in torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 7, 2, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        for block in self.blocks:
            x = x + block(x)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    def features(self, x: Tensor) -> Tensor:
        return self.stem(x)


def conv_net() -> tuple[nn.Module, tuple[Any, ...]]:
    return ConvNet().eval(), (torch.randn(2, 3, 33, 33),)


def diffusers_unet() -> tuple[nn.Module, tuple[Any, ...]]:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, cross_attention_dim=24,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return unet.eval(), (torch.randn(2, 4, 8, 8), torch.tensor([3.0, 3.0]), torch.randn(2, 7, 24))


def transformers_llama() -> tuple[nn.Module, tuple[Any, ...]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval(), (torch.randint(50, (2, 9)),)


MODULES = {"conv net": conv_net, "diffusers UNet": diffusers_unet, "transformers LLaMA": transformers_llama}


def flops(profile: Profile) -> float:
    return sum(op.weight * (op.flops or 0) for op in profile.ops)


@pytest.mark.parametrize("name", MODULES)
def test_flops_of_any_module_are_those_torch_counts(name: str) -> None:
    module, inputs = MODULES[name]()
    # Taken apart, or the counter does not see attention on a CPU
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*inputs)
    assert counter.get_total_flops() > 0
    assert flops(minimodels.simulate(module, *inputs, device="h100-sxm")) == counter.get_total_flops()


@pytest.mark.parametrize("name", MODULES)
def test_a_cpu_run_has_the_operators_of_the_walk(name: str) -> None:
    module, inputs = MODULES[name]()
    profile = minimodels.measure(module, *inputs, device="cpu")  # raises where they differ
    assert profile.source == "measured" and all(op.device_seconds is not None for op in profile.ops)
    assert flops(profile) == flops(minimodels.simulate(module, *inputs, device="a100-80gb"))


def test_attention_of_others_runs_on_the_backend_of_the_run() -> None:
    module, inputs = diffusers_unet()
    module.half()
    inputs = tuple(x.half() for x in inputs)
    calls = {
        backend: [
            (call.facts.role, call.facts.query_length, call.facts.key_length, call.facts.backend)
            for call in views.attention_calls(minimodels.simulate(module, *inputs, device="h200", attention=backend))
        ]
        for backend in ("baseline", "efficient")
    }  # fmt: skip
    assert calls["baseline"] and {call[3] for call in calls["baseline"]} == {"baseline"}
    assert [call[:3] for call in calls["baseline"]] == [call[:3] for call in calls["efficient"]]
    assert {call[:3] for call in calls["efficient"]} == {
        ("self", 64, 64),
        ("cross", 64, 7),
        ("self", 16, 16),
        ("cross", 16, 7),
    }


def test_submodules_are_scopes_and_attention_blocks_are_modules() -> None:
    module, inputs = transformers_llama()
    profile = minimodels.simulate(module, *inputs, device="a100-80gb")
    scopes = {op.scope for op in profile.ops}
    assert "model/layers_0/attention.self_attn" in scopes and "model/layers_1/mlp" in scopes
    linear = [op for op in profile.ops if op.module == "attention" and op.category == "Linear"]
    assert sum(op.weight for op in linear) == 2 * 4, "four projections in each of two layers"


def test_a_method_and_modules_on_meta_can_be_simulated() -> None:
    with torch.device("meta"):
        module = ConvNet().eval()
    whole = minimodels.simulate(module, torch.empty(2, 3, 33, 33), device="a100-80gb")
    stem = minimodels.simulate(module.features, torch.empty(2, 3, 33, 33), device="a100-80gb")
    assert 0 < flops(stem) < flops(whole)
    assert next(module.parameters()).device.type == "meta" and not module._forward_hooks


def test_simulating_leaves_the_module_as_it_was() -> None:
    module, inputs = conv_net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    minimodels.simulate(module, *inputs, device="h100-sxm")
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())


class Watching(nn.Module):
    """Notes at every call whether somebody has hooks on it, or a mode around it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4))
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((bool(self.inner._forward_pre_hooks), torch._C._len_torch_function_stack() > 0))
        return self.inner(x)


def test_clocked_runs_are_of_the_module_as_it_is() -> None:
    module = Watching().eval()
    minimodels.measure(module, torch.randn(3, 4), device="cpu")
    assert module.seen.count((True, True)) == 3, "the profiled runs: a walk is of a copy on meta"
    assert module.seen.count((False, False)) == len(module.seen) - 3 >= 5


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("model", "inputs", "options", "message"),
    (
        ("parti-3b", (), {"device": "h200"}, "load it first"),
        (lambda x: x, (torch.ones(2),), {"device": "h200"}, "put a function into the forward of a module"),
        (Branches(), (torch.ones(2),), {"device": "h200"}, "must not depend on the values of tensors"),
        (ConvNet(), (torch.ones(1, 3, 9, 9),), {"device": "h2OO"}, "did you mean"),
        (ConvNet(), (torch.ones(1, 3, 9, 9),), {"device": "cpu"}, "is measured, not simulated"),
        (ConvNet(), (torch.ones(1, 3, 9, 9),), {"device": "h200", "attention": "flsh"}, "attention"),
        (ConvNet().bfloat16(), (torch.ones(1, 3, 9, 9).bfloat16(),), {"device": "t4"}, "--dtype float16, or"),
        (nn.Flatten(), (torch.ones(3, 5, 7),), {"device": "h200"}, "Flatten runs no operator that takes time"),
    ),
)
def test_what_cannot_be_simulated_is_said(model: Any, inputs: Any, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimodels.simulate(model, *inputs, **options)


def test_weights_elsewhere_are_an_error_when_measuring() -> None:
    with torch.device("meta"):
        module = ConvNet()
    with pytest.raises(ValueError, match="move them: model.to"):
        minimodels.measure(module, torch.ones(1, 3, 9, 9), device="cpu")


class Scaled(nn.Module):
    """A module whose second input is given by keyword alone."""

    def forward(self, x: Tensor, *, by: Tensor) -> Tensor:
        return x @ by


def test_inputs_by_keyword_are_given_as_a_partial() -> None:
    x, by = torch.randn(3, 5), torch.randn(5, 7)
    profile = minimodels.simulate(partial(Scaled(), by=by), x, device="h100-sxm")
    assert profile.config["name"] == "Scaled" and views.totals(profile.ops).flops == 2 * 3 * 5 * 7
    assert minimodels.measure(partial(Scaled(), by=by), x, device="cpu", repeats=2, warmup=1).source == "measured"
    with pytest.raises(ValueError, match=r"functools.partial\(module, by=...\)"):
        minimodels.simulate(Scaled(), x, by=by, device="h100-sxm")  # type: ignore[call-overload]


@torch.library.custom_op("minimodels_tests::shapeless", mutates_args=())
def shapeless(x: Tensor) -> Tensor:
    return x.clone()


class Shapeless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return shapeless(x)


def test_an_operator_without_a_shape_rule_is_one_message() -> None:
    with pytest.raises(ValueError, match="Shapeless cannot be walked.*register_fake"):
        minimodels.simulate(Shapeless(), torch.randn(3), device="h100-sxm")


SIZES = {"b": 3, "i": 5, "j": 7, "k": 4, "l": 2, "h": 6, "d": 8}


@pytest.mark.parametrize(
    "equation",
    ["bij,bjk->bik", "bhid,bhjd->bhij", "bij,kj->bik", "i,j->ij", "bi,bi->b", "bi,bi->", "bii->b", "bij->bji", "ij,jk",
     "bij,bjk,kl->bil", "...ij,...jk->...ik", "bij,bij->bij", "bij,bij->bi", "bhij,bijk->bhik"],
)  # fmt: skip
def test_einsum_counts_what_torch_counts(equation: str) -> None:
    operands = [torch.randn(*(2, 3) * ("." in text), *(SIZES[name] for name in text.strip("."))) for text in
                equation.split("->")[0].split(",")]  # fmt: skip
    with FlopCounterMode(display=False) as counter:
        out = torch.einsum(equation, operands)
    work = work_of(torch.ops.aten.einsum.default, (equation, operands), {}, (out,))
    assert work.flops == counter.get_total_flops()
    assert work.gemm is None if not work.flops else 2 * math.prod(work.gemm or ()) <= work.flops


class Copies(TorchDispatchMode):
    """Adds up the bytes of the copies that torch makes of operands, and those its batched products make in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.clone.default:
            self.bytes += out.nbytes
        elif func is torch.ops.aten.bmm.default:
            self.bytes += copy_bytes(args[0]) + copy_bytes(args[1])
        return out


@pytest.mark.parametrize(
    "equation",
    ["bij,bjk->bik", "bhid,bhjd->bhij", "bij,kj->bik", "bhij,bjhd->bihd", "bihd,bjhd->bhij", "bhij,bijk->bhik",
     "ij,jk->ki", "bi,bij->bj", "bhij,bhjk->hbik", "bhji,bhjk->kihb", "kij,kji->k", "hji,kij"],
)  # fmt: skip
def test_einsum_copies_what_torch_copies(equation: str) -> None:
    draw = random.Random(0)

    def laid_out(text: str) -> torch.Tensor:
        """A tensor whose dimensions lie in memory in any order, at times a part of a larger one."""
        order = draw.sample(range(len(text)), len(text))
        x = torch.randn([SIZES[text[place]] + draw.choice([0, 0, 3]) for place in order])
        return x.permute([order.index(place) for place in range(len(text))])[tuple(slice(SIZES[one]) for one in text)]

    for _ in range(12):
        operands = [laid_out(text) for text in equation.split("->")[0].split(",")]
        with Copies() as copied:
            out = torch.einsum(equation, operands)
        work = work_of(torch.ops.aten.einsum.default, (equation, operands), {}, (out,))
        assert work.workspace == copied.bytes, [x.stride() for x in operands]


def test_a_product_that_nothing_is_added_to_does_not_read_it() -> None:
    a, b = torch.randn(2, 3, 5), torch.randn(2, 5, 7)
    into = torch.empty(2, 3, 7)
    added, alone = (
        work_of(torch.ops.aten.baddbmm.default, (into, a, b), {"beta": beta}, (torch.baddbmm(into, a, b, beta=beta),))
        for beta in (1, 0)
    )
    assert added.bytes_read - alone.bytes_read == into.nbytes
    assert alone.bytes_read == a.nbytes + b.nbytes


def test_what_convolutional_networks_call_is_modelled() -> None:
    pools = [
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(3),
        nn.ConvTranspose2d(6, 5, 2),
        nn.Dropout(0.1),
        nn.InstanceNorm2d(5),
    ]
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.PReLU(), *pools, nn.Flatten(), nn.LogSoftmax(-1))
    profile = minimodels.simulate(network.eval(), torch.randn(2, 3, 19, 19), device="h100-sxm")
    assert not list(profile.unmodelled())
    assert {"batch_norm", "max_pool2d", "adaptive_avg_pool2d"} <= {op.name for op in profile.ops}


def test_a_batch_norm_that_learns_reads_its_input_twice() -> None:
    x = torch.randn(2, 3, 5, 7, device="meta")
    args = (x, None, None, None, None)
    frozen, learning = (
        work_of(torch.ops.aten.batch_norm.default, (*args, training, 0.1, 1e-5, True), {}, (x,))
        for training in (False, True)
    )
    assert learning.bytes_read - frozen.bytes_read == 4 * x.numel()
