"""Weights of others: a local directory in the format of diffusers or transformers -> our module with its weights.

The directory holds `config.json` and safetensors, one file or several with an index; pickles are never read. How
each class maps onto ours stands in `peers`.

What comes back is called as everything of ours: `unet(x, t, context)` and what it is told by name, `encoder(tokens,
mask=None)`, `autoencoder.encode(x)` and `autoencoder.decode(z)`, `llama(tokens, cache=None, pos=0)` with a cache of
`llama.empty_cache(batch, length)`, `t5(text, tokens)`, `uvit(tokens, context)` with a context of `uvit.context(text,
pooled, numbers)`. docs/weights.md has an example of each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from minimodels.blocks import Computed
from minimodels.config import Part
from minimodels.peers import Peer, State, Table
from minimodels.peers.names import their_name
from minimodels.run import DTYPES, NoInitialisation, device_of, dtype_of

FILES = ("unet", "video", "autoencoder", "tokens", "text", "transformer")
STEMS = "diffusion_pytorch_model", "model"
PICKLES = ".bin", ".pt", ".pth", ".ckpt"
SHOWN = 3  # names in a message
MAX_JSON = 1 << 26  # bytes: the index of a large model has some hundred thousand


def from_pretrained(
    directory: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    variant: str | None = None,
) -> nn.Module:
    """The module of a directory that diffusers or transformers wrote, in evaluation mode, with its weights.

    dtype: of all weights, by name or itself; None: the one they are stored in. variant: such as "fp16", of files named
    after it; None: those without, or where there are none, the only variant there is. Example: docs/python.md.

    Raises:
        ValueError: no such device or dtype; no safetensors, or not those of the variant; the class, a setting or a
            weight has no equal here; a weight is missing, not finite or quantised; shapes disagree; dtypes differ and
            none is given.
    """
    directory, device = Path(directory), device_of(device)
    chosen = None if dtype is None else dtype_of(dtype)
    peer, part = read(directory)
    return load(peer, part, directory, chosen, device, variant)


def read(directory: Path) -> tuple[Peer, Part]:
    """The class of a directory, and its config as a part of ours."""
    path = directory / "config.json"
    if directory.is_file():
        raise ValueError(f"{directory} is a file: name the directory it is in, {str(directory.parent)!r}")
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a directory: there is nothing of that name")
    if not path.is_file() and (directory / "model_index.json").is_file():
        raise ValueError(f"{directory} is a whole pipeline: name one of its components, such as {directory / 'unet'}")
    if not path.is_file():
        held = sorted(file.name for file in directory.iterdir())
        raise ValueError(
            f"{directory} is no model: it has no config.json, only {_some(held) or 'nothing'}; name a directory of a "
            f"network, such as a pipeline's unet"
        )
    table = read_json(path)
    architectures, known = table.get("architectures"), peers()
    name = table.get("_class_name") or (architectures[0] if isinstance(architectures, list) and architectures else None)
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{path}: class {name!r} is not supported; supported are {', '.join(known)}")
    try:
        return known[name], known[name].part(table)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        said = problem["msg"].removeprefix("Value error, ")
        raise ValueError(f"{path}: as {where or 'a part'} of ours: {said}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def peers() -> dict[str, Peer]:
    """All classes that can be read, by name."""
    found: dict[str, Peer] = {}
    for file in FILES:
        found |= import_module(f"minimodels.peers.{file}").PEERS
    return found


def load(
    peer: Peer,
    part: Part,
    directory: Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    variant: str | None = None,
) -> nn.Module:
    """The module of a part, with the weights of a directory of that class."""
    with torch.device("meta"), NoInitialisation():
        module = peer.build(part)
    state = peer.convert(_stored(directory, str(device), variant), part)
    _assign(module, peer, state, directory)
    for child in module.modules():
        if isinstance(child, Computed):
            child.to_empty(device=device)
            child.fill()
    stored = {weight.dtype for weight in module.state_dict().values()}  # not what is computed
    if dtype is None and len(stored) > 1:
        names = ", ".join(sorted(name for name, one in DTYPES.items() if one in stored))
        raise ValueError(f"{directory}: weights are stored in {names}; say which all shall have: dtype=")
    return module.to(dtype or stored.pop()).eval().requires_grad_(False)


def read_json(path: Path) -> Table:
    """The table in a JSON file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON + 1)
        table = json.loads(data) if len(data) <= MAX_JSON else None
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{path} holds no JSON table")
    return table


def _stored(directory: Path, device: str, variant: str | None) -> State:
    """All tensors of a directory by the names they have there."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError("weights need the package safetensors: pip install 'minimodels[weights]'") from None
    state: State = {}
    for path in _files(directory, variant):
        try:
            state |= load_file(path, device=device)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"cannot read {str(path)!r}: {error}") from None
    return state


def pickles(directory: Path) -> list[str]:
    """The pickles among the files of a directory that has weights in no other form."""
    names = sorted(file.name for file in directory.iterdir())
    safe = any(name.endswith(".safetensors") for name in names)
    return [] if safe else [name for name in names if name.endswith(PICKLES)]


def _files(directory: Path, variant: str | None) -> list[Path]:
    """The safetensors files that make up a model: one, or the shards that an index names."""
    variants = _variants(directory)
    if variant is None and None not in variants and len(variants) == 1:
        variant = next(iter(variants))
    if variant in variants:
        path = variants[variant]
        return [path] if path.suffix == ".safetensors" else _shards(path)
    if variants:
        named = ", ".join(sorted(map(str, variants.keys() - {None}))) or "no variant"
        raise ValueError(f"{directory} has weights of {named}, none of variant {variant!r}; give one as variant=")
    reason = "it has neither"
    for path in sorted(directory.iterdir()):
        if path.suffix == ".safetensors":
            reason = f"it has {path.name}, which must have that name"
        elif path.suffix in PICKLES:
            reason = f"it has {path.name}, and pickles are never read: save it as safetensors"
    raise ValueError(f"{directory}: weights must be in {STEMS[0]}.safetensors or {STEMS[1]}.safetensors; {reason}")


def _variants(directory: Path) -> dict[str | None, Path]:
    """The file of each variant, None being that of files without one: weights, or an index of shards."""
    found: dict[str | None, Path] = {}
    for stem in STEMS:
        for pattern in (rf"{stem}(?:\.(\w+))?\.safetensors", rf"{stem}\.safetensors\.index(?:\.(\w+))?\.json"):
            for path in sorted(directory.iterdir()):
                match = re.fullmatch(pattern, path.name)
                if match and path.is_file():
                    found.setdefault(match[1], path)
    return found


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all beside it."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{index} names no shards: it has no weight_map")
    names = sorted(set(map(str, shards.values())))
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ValueError(f"{index} names {name!r}, which is no file beside it")
    return [index.parent / name for name in names]


def _assign(module: nn.Module, peer: Peer, state: State, directory: Path) -> None:
    """Give the module its weights, every one of them, and leave none over."""
    theirs = {peer.rename(name): name for name in state}
    theirs.pop("", None)
    found = {ours: state[name] for ours, name in theirs.items()}
    expected = module.state_dict()
    missing = [name for name in expected if name not in found]
    homes = {id(found[name]) for name in expected if name in found}
    surplus = [name for name in found if name not in expected and id(found[name]) not in homes]
    if missing or surplus:
        absent = sorted(missing)
        absent[:SHOWN] = [_both_names(name, theirs, peer) for name in absent[:SHOWN]]
        homeless = sorted(theirs[name] for name in surplus)
        raise ValueError(
            "; ".join(
                f"{directory}: {len(names)} weight{'s' * (len(names) > 1)} {what}: {_some(names)}"
                for names, what in (
                    (absent, "missing from the file"),
                    (homeless, "of the file without a place in ours"),
                )
                if names
            )
        )
    kept = {name: found[name] for name in expected}
    _check_values(kept, expected, theirs, directory)
    _check_shared(module, found, theirs, directory)
    module.load_state_dict(kept, assign=True)


def _check_values(found: State, expected: State, theirs: dict[str, str], directory: Path) -> None:
    """Raise unless every weight has its shape, a dtype of ours, and finite values."""
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise ValueError(
                f"{directory}: {theirs[name]} is {tuple(found[name].shape)} in the file, "
                f"{name} is {tuple(value.shape)} by config.json"
            )
        if found[name].dtype not in DTYPES.values():
            raise ValueError(
                f"{directory}: {theirs[name]} is {str(found[name].dtype).removeprefix('torch.')} in the file; "
                f"weights are read in {', '.join(DTYPES)}, quantised ones are not"
            )
    broken = [theirs[name] for name in found if not torch.stack(found[name].aminmax()).isfinite().all()]
    if broken:
        raise ValueError(f"{directory}: {len(broken)} of the weights hold NaN or infinity: {_some(broken)}")


def _check_shared(module: nn.Module, found: State, theirs: dict[str, str], directory: Path) -> None:
    """Names of ours that are one parameter must be one in the file as well."""
    first: dict[int, str] = {}
    for name, parameter in module.state_dict(keep_vars=True).items():
        other = first.setdefault(id(parameter), name)
        if found[other] is not found[name] and not torch.equal(found[other], found[name]):
            raise ValueError(f"{directory}: {theirs[other]} and {theirs[name]} differ; they are one in our module")


def _both_names(name: str, theirs: dict[str, str], peer: Peer) -> str:
    """A weight that is not there, by their name and ours."""
    other = their_name(name, theirs, peer)
    return f"{other} (here {name})" if other else f"{name} (its name here)"


def _some(names: Sequence[str]) -> str:
    """The first of the names."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
