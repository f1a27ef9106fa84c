"""Pipelines of diffusers in toy sizes, as their own library makes them."""

from __future__ import annotations

from typing import Any

import pytest

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


def clip(kind: str, dim: int, projection_dim: int = 17) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=53, hidden_size=dim, num_attention_heads=2, num_hidden_layers=3, intermediate_size=43,
        max_position_embeddings=7, projection_dim=projection_dim, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def unet(**more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=6, block_out_channels=(12, 24), norm_num_groups=4, attention_head_dim=3,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    )  # fmt: skip


def autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 12, 24), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=0.7,
    )  # fmt: skip


def stable_diffusion() -> Any:
    return diffusers.StableDiffusionPipeline(
        text_encoder=clip("CLIPTextModel", 22), unet=unet(cross_attention_dim=22), vae=autoencoder(), tokenizer=None,
        scheduler=diffusers.PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.0009, beta_end=0.013, prediction_type="v_prediction",
            steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl() -> Any:
    told = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 10,
        "projection_class_embeddings_input_dim": 17 + 60,
    }  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        text_encoder=clip("CLIPTextModel", 22), text_encoder_2=clip("CLIPTextModelWithProjection", 14), tokenizer=None,
        tokenizer_2=None, unet=unet(cross_attention_dim=36, **told), vae=autoencoder(),
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="linear", beta_start=0.001, num_train_timesteps=900),
    )  # fmt: skip


def refiner() -> Any:
    """SDXL's, as released: the second text encoder alone, five numbers told."""
    told = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 10,
        "projection_class_embeddings_input_dim": 14 + 50,
    }  # fmt: skip
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        text_encoder=None, text_encoder_2=clip("CLIPTextModelWithProjection", 14, projection_dim=14), tokenizer=None,
        tokenizer_2=None, unet=unet(cross_attention_dim=14, **told), vae=autoencoder(),
        scheduler=diffusers.HeunDiscreteScheduler(), requires_aesthetics_score=True,
    )  # fmt: skip


def modelscope() -> Any:
    network = diffusers.UNet3DConditionModel(
        sample_size=6, block_out_channels=(12, 24), norm_num_groups=4, attention_head_dim=3, cross_attention_dim=22,
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D"), up_block_types=("CrossAttnUpBlock3D", "UpBlock3D"),
    )  # fmt: skip
    return diffusers.TextToVideoSDPipeline(
        text_encoder=clip("CLIPTextModel", 22), unet=network, vae=autoencoder(), tokenizer=None,
        scheduler=diffusers.DDIMScheduler(),
    )  # fmt: skip


def animatediff() -> Any:
    adapter = diffusers.MotionAdapter(
        block_out_channels=(12, 24), motion_norm_num_groups=4, motion_num_attention_heads=3, motion_max_seq_length=19
    )
    return diffusers.AnimateDiffPipeline(
        text_encoder=clip("CLIPTextModel", 22), unet=unet(cross_attention_dim=22), vae=autoencoder(), tokenizer=None,
        motion_adapter=adapter, scheduler=diffusers.EulerDiscreteScheduler(),
    )  # fmt: skip


def amused() -> Any:
    network = diffusers.UVit2DModel(
        hidden_size=24, num_attention_heads=3, intermediate_size=31, num_hidden_layers=2, block_out_channels=18,
        block_num_heads=3, num_res_blocks=1, vocab_size=51, codebook_size=47, in_channels=18, encoder_hidden_size=22,
        cond_embed_dim=17, micro_cond_embed_dim=50, micro_cond_encode_dim=10, sample_size=6,
    )  # fmt: skip
    codes = diffusers.VQModel(
        block_out_channels=(8, 12, 24), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, num_vq_embeddings=47, latent_channels=7, layers_per_block=1,
    )  # fmt: skip
    return diffusers.AmusedPipeline(
        vqvae=codes, tokenizer=None, text_encoder=clip("CLIPTextModelWithProjection", 22), transformer=network,
        scheduler=diffusers.AmusedScheduler(mask_token_id=50),
    )  # fmt: skip
