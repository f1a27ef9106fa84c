"""What the numbers of a config mean, by the last name of their key, and where they leave a trace in a model.

`where` says how `tour` finds it: in the shape of a weight, in a call of attention, in the steps of a loop, in the
length of a list of layers; empty where it changes what happens and no size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Where = Literal["weight", "heads", "kv_heads", "head_dim", "steps", "layers", ""]


@dataclass(frozen=True, slots=True)
class Term:
    """A name that configs use."""

    meaning: str
    where: Where = ""
    near: str = ""  # names of weights that it is looked for near


GLOSSARY = {
    "depth": Term("layers, one behind the other", "layers"),
    "middle_depth": Term("blocks in the middle of the network", "layers"),
    "dim": Term("features of each token", "weight"),
    "num_heads": Term("heads of attention, each with features of its own", "heads"),
    "stem_num_heads": Term("heads of attention behind the first convolution", "heads"),
    "num_kv_heads": Term("heads of keys and values; fewer than heads of queries share them", "kv_heads"),
    "stage_heads": Term("heads of attention of each stage", "heads"),
    "head_dim": Term("features of one head", "head_dim"),
    "stem_head_dim": Term("features of one head behind the first convolution", "head_dim"),
    "ff_dim": Term("features inside the feed-forward block", "weight"),
    "ff_mult": Term("features inside the feed-forward block, as a multiple of the width"),
    "vocab": Term("tokens that there are", "weight"),
    "text_vocab": Term("text tokens that there are", "weight"),
    "image_vocab": Term("image tokens that there are", "weight"),
    "condition_vocab": Term("tokens that there are of the smaller image", "weight"),
    "codebook_size": Term("codes that a token may stand for", "weight"),
    "code_dim": Term("features of a code", "weight"),
    "text_len": Term("tokens of a text"),
    "context_len": Term("tokens that the model can look back on"),
    "prompt_len": Term("tokens that are given"),
    "gen_len": Term("tokens that are generated"),
    "image_tokens": Term("tokens of an image, generated one by one", "steps"),
    "tokens": Term("tokens"),
    "axes": Term("tokens along each side", "weight"),
    "condition_axes": Term("tokens along each side of the smaller image"),
    "grid": Term("codes along each side"),
    "patch": Term("latents of a token along each side, or in time and along each side"),
    "axis_dims": Term("features of a head that the frame, the row and the column rotate"),
    "classes": Term("classes that an image may be of; one more stands for none"),
    "patch_size": Term("pixels of a code along each side"),
    "frame_patch": Term("frames of a code"),
    "frame_skip": Term("frames between two that are generated before those between them"),
    "channels": Term("channels of this resolution, or of this network", "weight"),
    "stem_channels": Term("channels behind the first convolution", "weight"),
    "res_blocks": Term("residual blocks of this resolution, down; one more on the way up", "layers"),
    "in_channels": Term("channels that go in", "weight", "enter"),
    "out_channels": Term("channels that come out", "weight", "leave"),
    "latent_channels": Term("channels of the latent image", "weight"),
    "time_dim": Term("features of the time embedding", "weight"),
    "embedding_dim": Term("features of an embedding", "weight"),
    "context_dim": Term("features of the text where attention meets it", "weight", "cross_attention.to_k"),
    "second_context_dim": Term("features of the second text", "weight", "cross_attention.to_k"),
    "text_dim": Term("features of the text as its encoder gives them", "weight"),
    "projection": Term("features that a text is projected to", "weight"),
    "pooled_dim": Term("features of the pooled text", "weight"),
    "numbers": Term("sizes and crops that the network is told"),
    "number_dim": Term("sines and cosines of each of them"),
    "norm_groups": Term("groups of channels that a norm takes together"),
    "groups": Term("groups of channels that a norm takes together"),
    "expansion": Term("channels inside a block, as a multiple"),
    "doublings": Term("times that the image's side is doubled"),
    "convs": Term("convolutions over frames after each residual block"),
    "kernel": Term("frames that a convolution sees"),
    "max_frames": Term("frames that have positions"),
    "buckets": Term("distances between tokens that are told apart", "weight"),
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
