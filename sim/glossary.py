"""What the numbers of a config mean, by the last name of their key, and where they leave a trace in a model.

`where` says how `places` finds it: in the shape of a weight, in a call of attention, in the steps of a loop, in the
length of a list of layers; empty where it changes what happens and no size. `near` are names of modules, of which the
path of the weight or of the list has to hold one: equal numbers mean different things.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Where = Literal["weight", "heads", "kv_heads", "head_dim", "steps", "layers", ""]


@dataclass(frozen=True, slots=True)
class Term:
    """A name that configs use."""

    meaning: str
    where: Where = ""
    near: tuple[str, ...] = ()


GLOSSARY = {
    "depth": Term("layers, one behind the other", "layers", ("layers", "blocks")),
    "middle_depth": Term("blocks in the middle of the network", "layers", ("blocks",)),
    "text.depth": Term("layers that text and image have each their own weights in", "layers", ("joint_layers",)),
    "dim": Term("features of each token", "weight"),
    "uvit/dim": Term("features of each token", "weight", ("to_layers",)),
    "uvit/channels": Term("channels of the resolution around the layers", "weight", ("enter", "conv_blocks")),
    "text.dim": Term("features of each text token", "weight", ("text",)),
    "image_tokens.dim": Term("features of the embedding that becomes tokens", "weight", ("image_tokens",)),
    "num_heads": Term("heads of attention, each with features of its own", "heads"),
    "stem_num_heads": Term("heads of attention behind the first convolution", "heads"),
    "num_kv_heads": Term("heads of keys and values; fewer than heads of queries share them", "kv_heads"),
    "stage_heads": Term("heads of attention of each stage", "heads"),
    "head_dim": Term("features of one head", "head_dim"),
    "stem_head_dim": Term("features of one head behind the first convolution", "head_dim"),
    "ff_dim": Term("features inside the feed-forward block", "weight", ("feed_forward",)),
    "ff_mult": Term("features inside the feed-forward block, as a multiple of the width"),
    "vocab": Term("tokens that there are", "weight", ("embedding", "head")),
    "text_vocab": Term("text tokens that there are", "weight", ("encoder.embedding",)),
    "image_vocab": Term("image tokens that there are", "weight", ("decoder.head",)),
    "condition_vocab": Term("tokens that there are of the smaller image", "weight", ("condition.embedding",)),
    "codebook_size": Term("codes that a token may stand for", "weight", ("codebook", "head")),
    "code_dim": Term("features of a code", "weight", ("codebook",)),
    "text_len": Term("tokens of a text"),
    "context_len": Term("tokens that the model can look back on"),
    "prompt_len": Term("tokens that are given"),
    "gen_len": Term("tokens that are generated"),
    "image_tokens": Term("tokens of an image, generated one by one", "steps"),
    "tokens": Term("tokens"),
    "axes": Term("tokens along each side", "weight", ("axes",)),
    "condition_axes": Term("tokens along each side of the smaller image"),
    "grid": Term("codes along each side"),
    "patch": Term("latents of a token along each side, or in time and along each side"),
    "axis_dims": Term("features of a head that the frame, the row and the column rotate"),
    "classes": Term("classes that an image may be of; one more stands for none"),
    "patch_size": Term("pixels of a code along each side"),
    "frame_patch": Term("frames of a code"),
    "frame_skip": Term("frames between two that are generated before those between them"),
    "channels": Term("channels of this resolution, or of this network", "weight"),
    "stem_channels": Term("channels behind the first convolution", "weight", ("enter",)),
    "res_blocks": Term("residual blocks of a resolution", "layers", ("res_blocks", "conv_blocks", "blocks")),
    "unet/res_blocks": Term(
        "residual blocks of this resolution, down; one more on the way up", "layers", ("res_blocks",)
    ),
    "in_channels": Term("channels that go in", "weight", ("enter",)),
    "out_channels": Term("channels that come out", "weight", ("leave",)),
    "latent_channels": Term("channels of the latent image", "weight", ("enter", "from_code")),
    "time_dim": Term("features of the time embedding", "weight", ("time",)),
    "embedding_dim": Term("features of an embedding", "weight", ("image_embedding", "embedding")),
    "context_dim": Term("features of the text where attention meets it", "weight", ("cross_attention.to_k", "text_k")),
    "second_context_dim": Term("features of the second text", "weight", ("cross_attention.to_k",)),
    "text_dim": Term("features of the text as its encoder gives them", "weight", ("text", "cross_attention.to_k")),
    "projection": Term("features that a text is projected to", "weight", ("project",)),
    "pooled_dim": Term("features of the pooled text", "weight", ("pooled",)),
    "numbers": Term("sizes and crops that the network is told"),
    "number_dim": Term("sines and cosines of each of them"),
    "norm_groups": Term("groups of channels that a norm takes together"),
    "groups": Term("groups of channels that a norm takes together"),
    "expansion": Term("channels inside a block, as a multiple"),
    "doublings": Term("times that the image's side is doubled"),
    "convs": Term("convolutions over frames after each residual block"),
    "kernel": Term("frames that a convolution sees"),
    "max_frames": Term("frames that have positions"),
    "buckets": Term("distances between tokens that are told apart", "weight", ("relative", "relatives")),
    "max_distance": Term("tokens from which distances are one"),
    "side": Term("tokens along each side"),
    "block": Term("tokens along each side of a block"),
    "eps": Term("added to a variance, so that nothing is divided by zero"),
    "norm_eps": Term("added to a variance, so that nothing is divided by zero"),
    "theta": Term("base of the angles that positions are rotated by"),
    "latent_scale": Term("what latents are multiplied by, so that their variance is about one"),
    "latent_shift": Term("what is added to latents, so that their mean is about zero"),
    "augmentation": Term("noise put on the smaller image before it is enlarged"),
    "static_threshold": Term("the range that predictions are cut to"),
    "dynamic_threshold": Term("the share of pixels that predictions are scaled to hold"),
    "steps": Term("steps of the sampler, each a run of the network", "steps"),
    "super_resolution_steps": Term("steps of the second sampler", "steps"),
    "guidance_scale": Term("how far guidance goes; unless it is 1 the network also runs without text: twice the batch"),
    "told_guidance": Term("how far the guidance goes that the network imitates in one run"),
    "temperature": Term("how evenly tokens are drawn"),
    "choice_temperature": Term("noise in which tokens are kept"),
    "image_size": Term("pixels along each side"),
    "height": Term("pixels from top to bottom"),
    "width": Term("pixels from left to right"),
    "frames": Term("frames of the video"),
    "frame_rate": Term("frames per second"),
    "timesteps": Term("levels of noise that the network was made for"),
}


def term(kind: str, key: str) -> Term:
    """What a number of a part of this `kind` means, by its dotted key: the longest name that there is."""
    names = re.sub(r"(\.\d+)+(?=\.|$)", "", key).split(".")
    known = (f"{kind}/{names[-1]}", ".".join(names[-2:]), names[-1])
    return next(GLOSSARY[name] for name in known if name in GLOSSARY)
