"""Directories that cannot be read as they are: each is a ValueError that names what is wrong and where."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import minimodels
from minimodels import weights
from minimodels.peers.names import their_name
from minimodels.weights import from_pretrained
from tests.parity import pipelines
from tests.parity.peers import randomise

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
State = dict[str, Tensor]
NORM, QUERY = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A directory with a small LLaMA."""
    make_llama().save_pretrained(tmp_path)
    return tmp_path


def make_llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=37, hidden_size=30, num_attention_heads=3, num_hidden_layers=2, intermediate_size=43,
        max_position_embeddings=19,
    )  # fmt: skip
    return randomise(transformers.LlamaForCausalLM(config))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, edit: Callable[[State], object]) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    edit(state)
    save_file(state, path)


def refusal(folder: Path) -> str:
    """The one message of a directory that cannot be read; it names where."""
    with pytest.raises(ValueError) as caught:
        from_pretrained(folder)
    assert type(caught.value) is ValueError and str(folder) in str(caught.value)
    return str(caught.value)


def test_what_comes_back_is_frozen_in_evaluation_and_of_the_files_dtype(llama: Path) -> None:
    edit_weights(llama, lambda state: state.update({name: value.bfloat16() for name, value in state.items()}))
    decoder = from_pretrained(llama)
    assert not decoder.training and not any(parameter.requires_grad for parameter in decoder.parameters())
    assert {value.dtype for value in (*decoder.parameters(), *decoder.buffers())} == {torch.bfloat16}
    assert {value.device.type for value in (*decoder.parameters(), *decoder.buffers())} == {"cpu"}
    assert torch.equal(decoder.get_parameter("stack.norm.weight"), load_file(llama / "model.safetensors")[NORM])


def test_a_dtype_asked_for_is_that_of_every_weight(llama: Path) -> None:
    decoder = from_pretrained(llama, dtype=torch.float64)
    assert {value.dtype for value in (*decoder.parameters(), *decoder.buffers())} == {torch.float64}
    assert decoder(torch.tensor([[3, 1, 4]])).dtype == torch.float64


def test_shards_with_an_index_are_the_same_model(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    shards = tmp_path_factory.mktemp("shards")
    make_llama().save_pretrained(shards, max_shard_size="10KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    whole, joined = from_pretrained(llama).state_dict(), from_pretrained(str(shards)).state_dict()
    assert whole.keys() == joined.keys()
    assert all(torch.equal(value, joined[name]) for name, value in whole.items())
    sorted(shards.glob("*.safetensors"))[1].unlink()
    assert "00002-of-" in refusal(shards)


def test_an_index_that_names_a_file_elsewhere_is_refused(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "sub.safetensors")
    for name in ("../model.safetensors", "/etc/passwd", "absent.safetensors", ".."):
        (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NORM: name}}))
        assert repr(name) in refusal(llama)
    for index in ({}, {"weight_map": []}, {"weight_map": {}}):
        (llama / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "weight_map" in refusal(llama)


def test_a_missing_weight_is_named_by_both_names(llama: Path) -> None:
    edit_weights(llama, lambda state: state.pop(NORM))
    assert refusal(llama).endswith(f": 1 weight missing from the file: {NORM} (here stack.norm.weight)")
    edit_weights(llama, lambda state: state.pop(QUERY))
    message = refusal(llama)
    assert "2 weights missing" in message and f"{QUERY} (here stack.layers.0.self_attention.to_q.weight)" in message


@pytest.mark.parametrize("make", [lambda: pipelines.unet(cross_attention_dim=22), lambda: pipelines.modelscope().unet,
                                  lambda: pipelines.amused().transformer, pipelines.autoencoder,
                                  lambda: pipelines.clip("CLIPTextModel", 22)])  # fmt: skip
def test_no_missing_weight_is_given_a_name_that_it_does_not_have(make: Callable[[], Any]) -> None:
    """Nor, for most, none: what has no like in the file is called by our name."""
    model = make()
    peer = weights.peers()[type(model).__name__]
    theirs = {peer.rename(name): name for name in model.state_dict() if peer.rename(name)}
    named = 0
    for ours, name in theirs.items():
        found = their_name(ours, {key: value for key, value in theirs.items() if key != ours}, peer)
        assert found in (name, None)
        named += found is not None
    assert named >= 0.4 * len(theirs)


def test_a_surplus_weight_is_named(llama: Path) -> None:
    edit_weights(llama, lambda state: state.update({"model.layers.0.self_attn.q_proj.lora_A": torch.ones(3)}))
    assert "model.layers.0.self_attn.q_proj.lora_A" in refusal(llama)


def test_a_weight_of_another_shape_is_named_with_both_shapes(llama: Path) -> None:
    edit_weights(llama, lambda state: state.update({QUERY: torch.ones(30, 31)}))
    message = refusal(llama)
    assert QUERY in message and "(30, 31)" in message and "(30, 30)" in message


def test_a_class_that_is_not_known_is_named_with_those_that_are(llama: Path) -> None:
    for changes in ({"architectures": ["MistralForCausalLM"]}, {"architectures": []}, {"architectures": None}):
        edit_config(llama, **changes)
        assert "LlamaForCausalLM" in refusal(llama)
    edit_config(llama, _class_name="SD3Transformer2DModel")
    assert "'SD3Transformer2DModel'" in refusal(llama)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [("attention_bias", True, "attention_bias True"), ("quantization_config", {"bits": 4}, "quantization_config"),
     ("num_attention_heads", 7, "num_heads 7"), ("hidden_size", "30", "hidden_size"),
     ("rms_norm_eps", -1e-5, "rms_norm_eps"), ("rope_parameters", {"rope_type": "yarn"}, "rope_parameters"),
     ("num_key_value_heads", [1], "num_kv_heads"), ("head_dim", 9, "head_dim")],
)  # fmt: skip
def test_a_setting_that_is_not_supported_is_named(setting: str, value: Any, message: str, llama: Path) -> None:
    edit_config(llama, **{setting: value})
    assert message in refusal(llama)


WRONG = (None, 0, -1, True, 1.5, float("nan"), 10**30, "x", [], [0] * 3, ["x"], [[1]], {"a": 1})


@pytest.mark.parametrize(
    ("kind", "config"),
    [("LlamaForCausalLM", "LlamaConfig"), ("T5EncoderModel", "T5Config"), ("T5ForConditionalGeneration", "T5Config"),
     ("CLIPTextModelWithProjection", "CLIPTextConfig")],
)  # fmt: skip
def test_no_value_of_a_setting_of_transformers_is_another_error_than_a_value_error(kind: str, config: str) -> None:
    check_every_setting(kind, getattr(transformers, config)().to_dict())


@pytest.mark.parametrize("kind", ["UNet2DConditionModel", "AutoencoderKL"])
def test_no_value_of_a_setting_of_diffusers_is_another_error_than_a_value_error(kind: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        check_every_setting(kind, json.loads(json.dumps(dict(getattr(diffusers, kind)().config))))


def check_every_setting(kind: str, table: dict[str, Any]) -> None:
    part = weights.peers()[kind].part
    part(table)
    for setting in table:
        for value in WRONG:
            with contextlib.suppress(ValueError):
                part(table | {setting: value})


def test_a_config_that_is_no_table_is_refused(llama: Path) -> None:
    path = llama / "config.json"
    for text in ("{", "[1, 2]", "null", "", "\ufeff{}", "[" * 100_000, '{"a": NaN}', "\x00"):
        path.write_text(text)
        refusal(llama)
    path.write_bytes(b"\xff\xfe\x00")
    refusal(llama)
    path.unlink()
    assert "config.json" in refusal(llama)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    assert "is not a directory" in refusal(tmp_path / "absent")


def test_a_pipeline_is_refused_with_the_name_of_a_component(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    assert str(tmp_path / "unet") in refusal(tmp_path)


class Trap:
    """What would run if it were ever unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (sys.exit, (1,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "diffusion_pytorch_model.bin", "weights.pt", "model.ckpt"])
def test_a_pickle_is_refused_unread(name: str, llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    torch.save(Trap(), llama / name)
    message = refusal(llama)
    assert name in message and "never read" in message


def test_a_pickle_named_as_safetensors_is_refused_unread(llama: Path) -> None:
    torch.save(Trap(), llama / "model.safetensors")
    assert "cannot read" in refusal(llama) and "model.safetensors" in refusal(llama)


def test_a_directory_without_weights_says_what_they_must_be_called(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "weights.safetensors")
    assert "weights.safetensors" in refusal(llama)
    (llama / "weights.safetensors").unlink()
    assert "model.safetensors" in refusal(llama)


def test_the_only_variant_is_read_and_of_several_the_one_asked_for(llama: Path) -> None:
    plain = from_pretrained(llama).state_dict()
    state = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").rename(llama / "model.fp16.safetensors")
    assert torch.equal(from_pretrained(llama).state_dict()["stack.norm.weight"], plain["stack.norm.weight"])
    save_file({name: 2 * value for name, value in state.items()}, llama / "model.non_ema.safetensors")
    assert "fp16, non_ema" in refusal(llama)
    other = from_pretrained(llama, variant="non_ema").state_dict()
    assert torch.equal(other["stack.norm.weight"], 2 * plain["stack.norm.weight"])
    with pytest.raises(ValueError, match=r"fp16, non_ema, none of variant 'bf16'"):
        from_pretrained(llama, variant="bf16")
    save_file({name: 3 * value for name, value in state.items()}, llama / "model.safetensors")
    without = from_pretrained(llama).state_dict()["stack.norm.weight"]
    assert torch.equal(without, 3 * plain["stack.norm.weight"]), "files without a variant come first"


def test_shards_of_a_variant_are_the_same_model(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for diffusers_too in (False, True):
        shards = tmp_path_factory.mktemp("shards")
        if diffusers_too:
            pipelines.unet(cross_attention_dim=22).save_pretrained(shards, max_shard_size="50KB", variant="fp16")
        else:
            make_llama().save_pretrained(shards, max_shard_size="10KB", variant="fp16")
        assert len(list(shards.glob("*.fp16-*.safetensors"))) > 1 and list(shards.glob("*.index.fp16.json"))
        from_pretrained(shards)


def test_a_torn_file_is_refused(llama: Path) -> None:
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors" in refusal(llama)


def test_without_safetensors_the_message_says_how_to_get_it(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match=r"minimodels\[weights\]"):
        from_pretrained(llama)


def test_from_pretrained_is_a_public_name() -> None:
    assert minimodels.from_pretrained is weights.from_pretrained


def test_dtypes_are_names_or_torchs_and_others_are_refused(llama: Path) -> None:
    for dtype in ("float16", torch.float16):
        assert {x.dtype for x in from_pretrained(llama, dtype=dtype).parameters()} == {torch.float16}
    for wrong in ("fp16", "half", torch.int8, torch.float8_e4m3fn, 3):
        with pytest.raises(ValueError, match="allowed are float32, float16, bfloat16, float64"):
            from_pretrained(llama, dtype=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="allowed are float32, float16, bfloat16, float64"):
            minimodels.build(minimodels.load("llama-tiny"), dtype=wrong)  # type: ignore[arg-type]
    parts = minimodels.build(minimodels.load("llama-tiny"), dtype="bfloat16")
    assert {x.dtype for x in parts.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("device", "message"),
    (
        ("cuda", "torch finds no CUDA device here"),
        ("cuda:1", "torch finds no CUDA device here"),
        ("gpu", "allowed are cpu, cuda, cuda:N and meta"),
        (None, "allowed are cpu"),
    ),
)
def test_a_device_that_is_not_there_is_said(llama: Path, device: Any, message: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=message):
        from_pretrained(llama, device=device)
    with pytest.raises(ValueError, match=message):
        minimodels.build(minimodels.load("llama-tiny"), device=device)


def test_a_device_beyond_the_last_is_said(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="'cuda:2': there are 2 CUDA devices"):
        from_pretrained(llama, device="cuda:2")


def test_a_file_names_the_directory_it_is_in(llama: Path) -> None:
    message = refusal(llama / "model.safetensors")
    assert f"is a file: name the directory it is in, {str(llama)!r}" in message


@pytest.mark.parametrize("value", (float("nan"), float("inf"), float("-inf")))
def test_weights_that_are_not_finite_are_refused(llama: Path, value: float) -> None:
    edit_weights(llama, lambda state: state[QUERY].view(-1)[7:8].fill_(value))
    assert f"1 of the weights hold NaN or infinity: {QUERY}" in refusal(llama)


def test_weights_of_several_dtypes_need_one_to_be_named(llama: Path) -> None:
    edit_weights(llama, lambda state: state.update({NORM: state[NORM].half()}))
    assert "weights are stored in float16, float32; say which all shall have: dtype=" in refusal(llama)
    assert {x.dtype for x in from_pretrained(llama, dtype="float32").parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", (torch.float8_e4m3fn, torch.int8), ids=str)
def test_quantised_weights_are_refused(llama: Path, dtype: torch.dtype) -> None:
    edit_weights(llama, lambda state: state.update({QUERY: state[QUERY].to(dtype)}))
    name = str(dtype).removeprefix("torch.")
    assert f"{QUERY} is {name} in the file; weights are read in float32, float16" in refusal(llama)


def test_a_setting_that_cannot_be_is_said_in_our_words(llama: Path) -> None:
    edit_config(llama, num_key_value_heads=2)
    message = refusal(llama)
    assert "num_heads 3 is not divisible by num_kv_heads 2" in message and "Value error" not in message
