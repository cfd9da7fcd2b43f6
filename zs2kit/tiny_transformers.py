"""Tiny checkpoints, with random weights, of each family whose denoiser is a transformer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from zs2kit.quiet import quiet

WIDTH = 16  # of text embeddings
_HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
_FLUX_SIZES: dict[str, Any] = {"patch_size": 1, "num_layers": 1, "num_single_layers": 2, **_HEADS}
_FLUX_SCALE: dict[str, Any] = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
_ENCODER = {"hidden_size": WIDTH, "intermediate_size": 16, "num_attention_heads": 2}
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_transformer(kind: str, folder: Path, seed: int = 0) -> Path:
    """Save a checkpoint of the family ``kind``, one of `TRANSFORMERS`, to ``folder``; return it.

    It has the real diffusers and transformers classes, for pictures of 32x32 pixels, of which the transformer
    sees 16 tokens. Every part of it has an effect, unlike in an untrained one. If there are ControlNets for
    the family, it has some (``controlnet_pose``, ``controlnet_depth``, ``controlnet_edges``).
    """
    import diffusers

    make = TRANSFORMERS[kind]
    torch.manual_seed(seed)
    cls, parts = make()
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as in `zs2kit.Model.load_network`
        pipeline = getattr(diffusers, cls)(**parts)
        _drawn(pipeline.transformer)
        pipeline.save_pretrained(folder)
        for name, (cls, config) in _CONTROLNETS.get(kind, {}).items():
            made = getattr(diffusers, cls)
            given = dict(pipeline.transformer.config) | config
            controlnet = made(**{key: given[key] for key in signature(made).parameters if key in given})
            _drawn(controlnet)
            controlnet.save_pretrained(folder / f"controlnet_{name}")
    return folder


def _drawn(network: Any) -> None:
    """Draw all weights anew: untrained, the gates of attention are zero, and some tokens aren't set."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and not name.endswith("pad_token"):
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith("pad_token"):
            torch.nn.init.normal_(parameter, std=0.5)


def _vae(cls: str = "AutoencoderKL", **scale: Any) -> Any:
    import diffusers

    return getattr(diffusers, cls)(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **scale,
    )


def _letters() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    return {word: index for index, word in enumerate(words)}


def _qwen_tokenizer() -> Any:
    """Return a tokenizer that only knows single bytes, with a chat template of one line."""
    import transformers

    special = [each for each in _letters() if each.startswith("<|")]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=_letters(), merges=[], additional_special_tokens=special, padding_side="right"
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _language(layers: int) -> dict[str, int]:
    """Return the sizes of a language model that reads prompts."""
    return {
        **_ENCODER,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": len(_letters()),
        "max_position_embeddings": 1024,
    }


def _qwen3(cls: str, layers: int) -> Any:
    import transformers

    return getattr(transformers, cls)(transformers.Qwen3Config(**_language(layers))).eval()


def _qwen_vl() -> Any:
    import transformers

    words = _letters()
    text = {
        **_ENCODER,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(words),
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "patch_size": 14,
        "fullatt_block_indexes": [1],
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=words["<|image_pad|>"],
        video_token_id=words["<|video_pad|>"],
        vision_start_token_id=words["<|vision_start|>"],
        vision_end_token_id=words["<|vision_end|>"],
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def _clip(*, pooled: bool) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        **_ENCODER,
        vocab_size=300,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if pooled else transformers.CLIPTextModel
    return kind(config).eval()


def _clip_tokenizer() -> Any:
    import transformers

    characters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *characters, *(each + "</w>" for each in characters)]
    vocab = {word: index for index, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def _t5(width: int = WIDTH) -> Any:
    import transformers

    config = transformers.T5Config(
        vocab_size=200,
        d_model=width,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return transformers.T5EncoderModel(config).eval()


def _t5_tokenizer() -> Any:
    import transformers

    characters = ["<pad>", "</s>", "<unk>", "\u2581", *(chr(code) for code in range(33, 127))]
    return transformers.T5Tokenizer(
        vocab=[(each, -1.0) for each in characters], extra_ids=0, model_max_length=512
    )


def _euler(**config: Any) -> Any:
    import diffusers

    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    return diffusers.FlowMatchEulerDiscreteScheduler(**(config or dynamic))


def _z_image() -> tuple[str, dict[str, Any]]:
    import diffusers

    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 32, 32],
    )
    return "ZImagePipeline", {
        "transformer": transformer,
        "vae": _vae(**_FLUX_SCALE),
        "scheduler": _euler(shift=3.0),
        "text_encoder": _qwen3("Qwen3Model", 2),
        "tokenizer": _qwen_tokenizer(),
    }


def _flux(
    *, guidance: bool = True, kind: str = "FluxPipeline", channels: int = 4
) -> tuple[str, dict[str, Any]]:
    import diffusers

    transformer = diffusers.FluxTransformer2DModel(
        **_FLUX_SIZES,
        in_channels=4 * channels,
        out_channels=16,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=guidance,
    )
    return kind, {
        "transformer": transformer,
        "vae": _vae(**_FLUX_SCALE),
        "scheduler": _euler() if guidance else _euler(shift=1.0),
        "text_encoder": _clip(pooled=False),
        "tokenizer": _clip_tokenizer(),
        "text_encoder_2": _t5(),
        "tokenizer_2": _t5_tokenizer(),
    }


def _flux2(*, kind: str) -> tuple[str, dict[str, Any]]:
    import diffusers

    transformer = diffusers.Flux2Transformer2DModel(
        **_FLUX_SIZES,
        in_channels=16,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=kind == "dev",
    )
    vae = _vae("AutoencoderKLFlux2")
    torch.nn.init.normal_(vae.bn.running_mean, std=0.3)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    parts = {"transformer": transformer, "vae": vae, "scheduler": _euler()}
    if kind == "dev":
        return "Flux2Pipeline", {**parts, "text_encoder": _mistral(), "tokenizer": _pixtral()}
    return "Flux2KleinPipeline", {
        **parts,
        "text_encoder": _qwen3("Qwen3ForCausalLM", 28),  # its states after layers 9, 18 and 27 are taken
        "tokenizer": _qwen_tokenizer(),
        "is_distilled": kind == "klein",
    }


def _mistral() -> Any:
    import transformers

    text = transformers.MistralConfig(**_language(31))  # the states after layers 10, 20 and 30 are taken
    vision = transformers.PixtralVisionConfig(**_ENCODER, num_hidden_layers=1, patch_size=14)
    config = transformers.Mistral3Config(text_config=text, vision_config=vision)
    return transformers.Mistral3ForConditionalGeneration(config).eval()


def _pixtral() -> Any:
    import transformers

    tokenizer = _qwen_tokenizer()
    return transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(),
        tokenizer=tokenizer,
        chat_template=_TEMPLATE,
        image_token="<|image_pad|>",
        image_break_token="<|vision_start|>",
        image_end_token="<|vision_end|>",
    )


def _sd3(*, dual: bool = False) -> tuple[str, dict[str, Any]]:
    import diffusers

    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        dual_attention_layers=(0,) if dual else (),
        qk_norm="rms_norm" if dual else None,
    )
    return "StableDiffusion3Pipeline", {
        "transformer": transformer,
        "vae": _vae(scaling_factor=1.5305, shift_factor=0.0609),
        "scheduler": _euler(shift=3.0),
        "text_encoder": _clip(pooled=True),
        "tokenizer": _clip_tokenizer(),
        "text_encoder_2": _clip(pooled=True),
        "tokenizer_2": _clip_tokenizer(),
        "text_encoder_3": _t5(2 * WIDTH),
        "tokenizer_3": _t5_tokenizer(),
    }


def _qwen(*, kind: str = "QwenImagePipeline") -> tuple[str, dict[str, Any]]:
    import diffusers

    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        **_HEADS,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
        zero_cond_t=kind == "QwenImageEditPlusPipeline",  # as in 2511
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 1.0, 2.0],
    )
    parts = {
        "transformer": transformer,
        "vae": vae,
        "scheduler": _euler(),
        "text_encoder": _qwen_vl(),
        "tokenizer": _qwen_tokenizer(),
    }
    if kind != "QwenImagePipeline":
        import transformers

        images = transformers.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
        parts["processor"] = transformers.Qwen2_5_VLProcessor(
            images, parts["tokenizer"], transformers.Qwen2VLVideoProcessor(), chat_template=_TEMPLATE
        )
    return kind, parts


TRANSFORMERS: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
    "z-image": _z_image,
    "flux-dev": _flux,
    "flux-schnell": lambda: _flux(guidance=False),
    "flux-kontext": lambda: _flux(kind="FluxKontextPipeline"),
    # The source and a mask beside the latents, of squares of 4x4 pixels
    "flux-fill": lambda: _flux(kind="FluxFillPipeline", channels=4 + 4 + 16),
    "flux-control": lambda: _flux(kind="FluxControlPipeline", channels=4 + 4),  # a map beside them
    "flux2-dev": lambda: _flux2(kind="dev"),
    "flux2-klein": lambda: _flux2(kind="klein"),
    "flux2-klein-base": lambda: _flux2(kind="klein-base"),
    "sd3": _sd3,
    "sd3.5": lambda: _sd3(dual=True),
    "qwen-image": _qwen,
    "qwen-image-edit": lambda: _qwen(kind="QwenImageEditPipeline"),
    "qwen-image-edit-plus": lambda: _qwen(kind="QwenImageEditPlusPipeline"),
}

_OF_FLUX: dict[str, Any] = {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}
_OF_SD3: dict[str, Any] = {"num_layers": 1, "dual_attention_layers": ()}
_OF_Z_IMAGE: dict[str, Any] = {
    "control_layers_places": [0],
    "control_refiner_layers_places": [0],
    "control_in_dim": 4,
}
_FLUX = {
    "pose": ("FluxControlNetModel", _OF_FLUX),
    "depth": ("FluxControlNetModel", _OF_FLUX | {"num_mode": 5}),  # a union
    # Takes pictures, as XLabs's do
    "edges": (
        "FluxControlNetModel",
        _OF_FLUX | {"num_single_layers": 0, "conditioning_embedding_channels": 16},
    ),
}
_SD3 = {
    "pose": ("SD3ControlNetModel", _OF_SD3),
    "depth": ("SD3ControlNetModel", _OF_SD3 | {"force_zeros_for_pooled_projection": False}),
    # As those of Stable Diffusion 3.5 Large
    "edges": (
        "SD3ControlNetModel",
        _OF_SD3
        | {
            "force_zeros_for_pooled_projection": False,
            "joint_attention_dim": None,
            "use_pos_embed": False,
            "pos_embed_type": None,
        },
    ),
}
# ControlNets of the kinds that there are, by the checkpoint that they are for
_CONTROLNETS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "flux-dev": _FLUX,
    "flux-schnell": _FLUX,
    "flux-kontext": _FLUX,
    "sd3": _SD3,
    "sd3.5": _SD3,
    "qwen-image": {
        name: ("QwenImageControlNetModel", {"num_layers": 1}) for name in ("pose", "depth", "edges")
    },
    "z-image": {
        "pose": ("ZImageControlNetModel", _OF_Z_IMAGE),
        "depth": (
            "ZImageControlNetModel",
            _OF_Z_IMAGE | {"add_control_noise_refiner": "control_noise_refiner", "control_in_dim": 9},
        ),
        "edges": ("ZImageControlNetModel", _OF_Z_IMAGE | {"add_control_noise_refiner": "control_layers"}),
    },
}
