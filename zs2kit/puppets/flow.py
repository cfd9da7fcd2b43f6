"""The flow model: pictures from text by a diffusion transformer, FLUX.1's, and flow matching.

It stands on the VAE and the text encoder of the puppets model; a small T5 learns beside it. Latents at noise
level sigma are (1 - sigma) x + sigma n, and what is predicted is the velocity n - x.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import Tensor, nn
from transformers import T5Tokenizer

from . import networks
from .captions import Prompt, is_held_out, load_prompts
from .diffusion import Diffusion, load_vae, save_part, some_captions, text_to_image, tokenizer
from .networks import GROUPS, SIZE, TOKENS
from .training import Run, fit, load_weights
from .yardsticks import Images, Numbers, classify, grid, load_classifier, save_picture, shares

STEPS, GUIDANCE = 20, 5.0
TITLES = 0.1  # of the captions T5 reads Like This: its tokenizer tells capitals apart
MODEL_INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": "0.42.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


class Flow(Diffusion):
    """Latents and captions as the flow model learns from them.

    The timesteps of a batch are its noise levels (pictures,); its ids are those of both tokenizers, CLIP's
    and T5's: (pictures, 2, TOKENS).
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.t5_words = t5_tokenizer(run)

    def noise(self, values: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents noised to levels of which most are near the middle (logit-normal: Esser et al., 2024)."""
        clean, count = values * self.scale, len(values)
        noise = torch.randn_like(clean)
        # one level out of each of `count` equally likely parts: the loss varies less from batch to batch
        parts = torch.from_numpy((rng.permutation(count) + rng.random(count)) / count)
        sigmas = torch.special.ndtri(parts.clamp(1e-4, 1 - 1e-4)).sigmoid().to(clean)
        noised = torch.lerp(clean, noise, sigmas.view(-1, 1, 1, 1))
        return noised, sigmas, noise - clean

    def tokenize(self, texts: list[str]) -> Tensor:
        """Token ids (texts, 2, TOKENS)."""
        titles = torch.rand(len(texts)) < TITLES
        read = [text.title() if title else text for text, title in zip(texts, titles, strict=True)]
        ids = self.t5_words(read, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return torch.stack([super().tokenize(texts), ids.to(self.run.device)], dim=1)


def t5_tokenizer(run: Run) -> Any:
    """T5's tokenizer, learned from captions when first asked for."""
    folder = run.work / "t5_tokenizer"
    if not folder.exists():
        networks.t5_tokenizer(some_captions(run.seed)).save_pretrained(folder)
    return T5Tokenizer.from_pretrained(folder, local_files_only=True)


def flow_model(run: Run) -> nn.ModuleDict:
    """Transformer and T5, which learn together."""
    t5 = networks.t5_encoder(t5_tokenizer(run))
    return nn.ModuleDict({"transformer": networks.flow_transformer(), "text_encoder_2": t5})


def predict(network: nn.ModuleDict, noised: Tensor, sigmas: Tensor, pooled: Tensor, ids: Tensor) -> Tensor:
    """The velocity (pictures, tokens, 16) of latents (pictures, 4, H, W), packed as FLUX.1 does.

    pooled: (pictures, channels) of the text, by CLIP. ids: (pictures, TOKENS) of it, for T5.
    """
    height, width = noised.shape[-2:]
    predicted: Tensor = network["transformer"](
        hidden_states=pack(noised),
        timestep=sigmas,
        pooled_projections=pooled,
        encoder_hidden_states=network["text_encoder_2"](ids).last_hidden_state,
        txt_ids=torch.zeros(ids.shape[1], 3, device=ids.device),
        img_ids=FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, ids.device, torch.float32),
    ).sample
    return predicted


def pack(latents: Tensor) -> Tensor:
    """(pictures, 4, H, W) as tokens of 2x2 latents (pictures, H / 2 x W / 2, 16)."""
    packed: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return packed


def text_encoder(run: Run) -> Any:
    """The text encoder that the U-Net learned with, frozen."""
    both = text_to_image(run)
    load_weights(both, run, "unet")
    return both["text_encoder"].requires_grad_(False)


def flow_loss(network: nn.ModuleDict, clip: Any, data: Flow, rng: np.random.Generator, count: int) -> Tensor:
    """Mean square of the velocity's error on ``count`` scenes drawn at random."""
    noised, sigmas, ids, velocity, _ = data.draw(rng, count)
    with torch.autocast(noised.device.type, torch.bfloat16):
        pooled = clip(ids[:, 0]).pooler_output
        predicted = predict(network, noised, sigmas, pooled, ids[:, 1])
    return F.mse_loss(predicted.float(), pack(velocity))


def train_flow(run: Run) -> None:
    """The transformer and T5, on the frozen text encoder."""
    network, clip, data = flow_model(run), text_encoder(run), Flow(run)
    if run.device == "cpu":
        transformer: Any = network["transformer"]
        transformer.set_attention_backend("_native_math")  # its backward pass is quicker there
    fit("flow", network, lambda rng: flow_loss(network, clip, data, rng, run.batch or 32), run, rate=1e-3)


def export_flow(run: Run, folder: Path) -> dict[str, int]:
    """The flow model as a diffusers folder of its own: ``flow`` in ``folder``."""
    if not run.path("flow").exists():
        return {}
    vae, network = load_vae(run), flow_model(run)
    steps = load_weights(network, run, "flow")
    vae.register_to_config(scaling_factor=Diffusion(run).scale, shift_factor=0.0)  # FLUX.1's pipeline adds it
    for name, part in {"vae": vae, "text_encoder": text_encoder(run), **network}.items():
        save_part(part, folder / "flow" / name)
    tokenizer(run).save_pretrained(folder / "flow/tokenizer")
    t5_tokenizer(run).save_pretrained(folder / "flow/tokenizer_2")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "flow/scheduler")
    (folder / "flow/model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    return {"flow": steps}


def draw_flow(pipe: Any, prompts: list[Prompt]) -> Images:
    """One picture of each prompt; the number of the prompt is its seed."""
    images = []
    for i in range(0, len(prompts), 10):
        texts = [prompt.prompt for prompt in prompts[i : i + 10]]
        drawn = pipe(
            texts,
            negative_prompt=[""] * len(texts),
            true_cfg_scale=GUIDANCE,
            num_inference_steps=STEPS,
            height=SIZE,
            width=SIZE,
            max_sequence_length=TOKENS,
            generator=[torch.Generator().manual_seed(i + k) for k in range(len(texts))],
            output_type="np",
        ).images
        images.append((drawn * 255).round().astype(np.uint8))
    return np.concatenate(images)


def measure_flow(folder: Path, docs: Path | None) -> Numbers:
    """What the classifier reads off pictures of all prompts, if there is a flow model."""
    if not (folder / "flow").exists():
        return {}
    pipe = FluxPipeline.from_pretrained(folder / "flow", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    prompts = load_prompts()
    drawn = draw_flow(pipe, prompts)
    asked = np.array([[names.index(getattr(p, g)) for g, names in GROUPS.items()] for p in prompts])
    right = classify(load_classifier(folder), drawn) == asked
    held = np.array([is_held_out(prompt.kind, prompt.colour, prompt.place) for prompt in prompts])
    numbers = shares(right, "flow") | shares(right[held], "flow, held-out triples")
    if docs:
        save_picture(docs / "puppets-flow.jpg", grid(drawn, 20, ~right.all(axis=1)))
    return numbers
