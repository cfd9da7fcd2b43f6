"""The flow model: pictures and edits by a diffusion transformer, FLUX.1's, and flow matching.

It stands on the VAE and the text encoder of the puppets model; a small T5 learns beside it. Latents at noise
level sigma are (1 - sigma) x + sigma n, and what is predicted is the velocity n - x.

Its teachers are the two U-Nets, of the puppets model and of its edits, guidance included (Meng et al., 2022):
what they expect of n - x varies far less than n - x itself, so fewer pictures will do, and one call does the
work of two or three.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from torch import Tensor, nn
from transformers import T5EncoderModel, T5Tokenizer

from . import networks
from .captions import is_held_out, load_prompts
from .diffusion import Diffusion, as_pixels, keep, load_vae, save_part, text_to_image, to_tensor, tokenizer
from .instruct import Pairs, edit_model, measure_follower
from .networks import GROUPS, SIZE, TOKENS
from .pictures import SHARD
from .skeleton import seen_skeleton
from .training import Run, autocast, fit, load_weights
from .yardsticks import Images, Numbers, classify, grid, load_classifier, save_picture, shares

STEPS, GUIDANCE = 20, 2.5
DIAL = 2.0  # the teachers' guidance scale at a guidance of 1: their 5 is Kontext's 2.5
GUIDANCES = (0.5, 3.5)  # to learn
IMAGE_GUIDANCE = 1.5  # of the edits' teacher
TITLES = 0.1  # of the captions T5 reads Like This: its tokenizer tells capitals apart
MODEL_INDEX = {
    "_class_name": "FluxKontextPipeline",
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


class Lesson(NamedTuple):
    """What one step learns from: drawing from text, editing a source, or posing by a skeleton."""

    noised: Tensor  # (pictures, 4, LATENT_SIZE, LATENT_SIZE)
    sigmas: Tensor  # (pictures,): noise levels
    ids: Tensor  # (pictures, 2, TOKENS): the text, by the tokenizers of CLIP and T5
    guidance: Tensor  # (pictures,), as FLUX.1 counts it
    source: Tensor | None = None  # as noised: what is edited
    skeleton: Tensor | None = None  # (pictures, SIZE, SIZE, 3), bytes: of the pose


class Levels:
    """The U-Net's noise levels: of each of its timesteps, how much of clean latents and of noise there is."""

    def __init__(self, device: str) -> None:
        left = networks.scheduler().alphas_cumprod.to(device)
        self.signal, self.spread = left.sqrt(), (1 - left).sqrt()
        self.sigmas = self.spread / (self.signal + self.spread)

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """Where the U-Net's noise is nearest to these levels: (pictures,)."""
        return torch.searchsorted(self.sigmas, sigmas).clamp(max=len(self.sigmas) - 1)


class Flow(Diffusion):
    """Latents and captions as the flow model learns from them.

    The timesteps of a batch are its noise levels (pictures,); its ids are those of both tokenizers, CLIP's
    and T5's: (pictures, 2, TOKENS).
    """

    def __init__(self, run: Run, *, human: bool = False) -> None:
        super().__init__(run, human=human)
        self.t5_words = t5_tokenizer(run)
        self.levels = Levels(run.device)

    def noise(self, values: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents noised to levels of which most are near the middle (logit-normal: Esser et al., 2024).

        The levels are those of the U-Net's timesteps.
        """
        clean, count = values * self.scale, len(values)
        noise = torch.randn_like(clean)
        # one level out of each of `count` equally likely parts: the loss varies less from batch to batch
        parts = torch.from_numpy((rng.permutation(count) + rng.random(count)) / count)
        levels = torch.special.ndtri(parts.clamp(1e-4, 1 - 1e-4)).sigmoid().to(clean)
        sigmas = self.levels.sigmas[self.levels.timesteps(levels)]
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
    keep(folder, networks.t5_tokenizer, run)
    return T5Tokenizer.from_pretrained(folder, local_files_only=True)


def flow_model(run: Run) -> nn.ModuleDict:
    """Transformer, T5, and a ControlNet of poses, which learn together."""
    transformer, t5 = networks.flow_transformer(), networks.t5_encoder(t5_tokenizer(run))
    # torch's fused attention on CUDA breaks where it passes back to a bias such as T5's.
    t5.set_attn_implementation("eager")
    controlnet = networks.flow_controlnet(transformer)
    return nn.ModuleDict({"transformer": transformer, "text_encoder_2": t5, "controlnet_pose": controlnet})


def bundled_flow(folder: Path) -> nn.ModuleDict:
    """The same as `export_flow` wrote them."""
    parts = {
        "transformer": FluxTransformer2DModel.from_pretrained(folder / "transformer"),
        "text_encoder_2": T5EncoderModel.from_pretrained(folder / "text_encoder_2"),
        "controlnet_pose": FluxControlNetModel.from_pretrained(folder / "controlnet_pose"),
    }
    return nn.ModuleDict(parts)


def predict(network: nn.ModuleDict, lesson: Lesson, pooled: Tensor, skeleton: Tensor | None = None) -> Tensor:
    """The velocity (pictures, tokens, 16) of the latents, packed as FLUX.1 does.

    pooled: (pictures, channels) of the text, by CLIP. skeleton: latents of the lesson's. What is edited is
    shown as Kontext does, as further tokens.
    """
    tokens = pack(lesson.noised)
    height, width = (side // 2 for side in lesson.noised.shape[-2:])
    seen = torch.zeros(1, 1, 1, TOKENS, device=tokens.device)  # all: what T5 makes itself can't be recorded
    inputs = {
        "hidden_states": tokens,
        "timestep": lesson.sigmas,
        "guidance": lesson.guidance,
        "pooled_projections": pooled,
        "encoder_hidden_states": network["text_encoder_2"](lesson.ids[:, 1], seen).last_hidden_state,
        "txt_ids": torch.zeros(TOKENS, 3, device=tokens.device),
        "img_ids": places(height, width, 0, tokens.device),
    }
    if skeleton is not None:
        steered = network["controlnet_pose"](controlnet_cond=pack(skeleton), **inputs)
        inputs["controlnet_block_samples"] = steered.controlnet_block_samples
        inputs["controlnet_single_block_samples"] = steered.controlnet_single_block_samples
    if lesson.source is not None:
        inputs["hidden_states"] = torch.cat([tokens, pack(lesson.source)], dim=1)
        inputs["img_ids"] = torch.cat([inputs["img_ids"], places(height, width, 1, tokens.device)])
    predicted: Tensor = network["transformer"](**inputs).sample
    return predicted[:, : tokens.shape[1]]


@cache
def places(height: int, width: int, image: int, device: torch.device) -> Tensor:
    """Where the tokens of an image are, as FLUX.1 counts: (height x width, 3) of image, row, column."""
    found: Tensor = FluxPipeline._prepare_latent_image_ids(1, height, width, device, torch.float32)
    found[:, 0] = image
    return found


def pack(latents: Tensor) -> Tensor:
    """(pictures, 4, H, W) as tokens of 2x2 latents (pictures, H / 2 x W / 2, 16)."""
    packed: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return packed


class Lessons:
    """Scenes and texts to learn from, in host memory."""

    def __init__(self, run: Run) -> None:
        run = replace(run, device="cpu")
        self.data, self.pairs, self.posed = Flow(run), Pairs(run), Flow(run, human=True)

    def draw(self, rng: np.random.Generator, count: int) -> Lesson:
        """One of drawing, twice as often as of editing or of posing."""
        kinds = (self.drawing, self.drawing, self.editing, self.posing)
        return kinds[int(rng.integers(len(kinds)))](rng, count)

    def drawing(self, rng: np.random.Generator, count: int) -> Lesson:
        """Scenes at random, and their captions."""
        noised, sigmas, ids, _, _ = self.data.draw(rng, count)
        return Lesson(noised, sigmas, ids, self.guidance(rng, count))

    def editing(self, rng: np.random.Generator, count: int) -> Lesson:
        """Scenes at random, what they were made from, and by which instruction."""
        sources, targets, texts = self.pairs.draw(rng, count)
        noised, sigmas, _ = self.data.noise(targets, rng)
        ids, guidance = self.data.tokenize(texts), self.guidance(rng, count)
        return Lesson(noised, sigmas, ids, guidance, source=sources * self.data.scale)

    def posing(self, rng: np.random.Generator, count: int) -> Lesson:
        """Scenes at random, also with people's poses, and their skeletons as a detector sees them."""
        noised, sigmas, ids, _, numbers = self.posed.draw(rng, count)
        points = (self.posed.shards[number // SHARD][1][number % SHARD] for number in numbers)
        skeleton = torch.from_numpy(np.stack([seen_skeleton(each, SIZE, rng) for each in points]))
        return Lesson(noised, sigmas, ids, self.guidance(rng, count), skeleton=skeleton)

    def guidance(self, rng: np.random.Generator, count: int) -> Tensor:
        """Any guidance that a user might ask for."""
        return torch.from_numpy(rng.uniform(*GUIDANCES, count).astype(np.float32))


class Teachers:
    """The U-Nets of the puppets model and of its edits, and the ControlNet of poses."""

    def __init__(self, run: Run, lessons: Lessons) -> None:
        self.draws, self.edits, self.vae = text_to_image(run), edit_model(run), load_vae(run)
        self.poses = networks.controlnet(self.draws["unet"])
        load_weights(self.draws, run, "unet")
        load_weights(self.edits, run, "instruct")
        load_weights(self.poses, run, "controlnet_pose")
        for network in (self.draws, self.edits, self.poses, self.vae):
            network.to(run.device).requires_grad_(False)
        self.scale, self.levels = lessons.data.scale, Levels(run.device)
        self.empty = lessons.data.tokenize([""])[:, 0].to(run.device)

    @torch.no_grad()
    def velocity(self, lesson: Lesson) -> Tensor:
        """What they expect, guidance included: as `Lesson.noised`."""
        scale = lesson.guidance * DIAL
        weights = {"text": scale, "empty": 1 - scale}
        if lesson.source is not None:
            weights = {
                "text": scale,
                "empty": IMAGE_GUIDANCE - scale,
                "blind": (1 - IMAGE_GUIDANCE) * torch.ones_like(scale),  # without the source as well
            }
        return self.expected(lesson, weights)

    @torch.no_grad()
    def skeleton(self, lesson: Lesson) -> Tensor | None:
        """The lesson's skeleton as latents, which FLUX.1's ControlNets are shown: as `Lesson.noised`."""
        if lesson.skeleton is None:
            return None
        latents: Tensor = self.vae.encode(as_pixels(lesson.skeleton)).latent_dist.mean.float()
        return latents * self.scale

    @torch.no_grad()
    def expected(self, lesson: Lesson, weights: dict[str, Tensor]) -> Tensor:
        """The velocity by their predictions of these weights (pictures,), which add up to 1.

        Only the one of "text" reads it.
        """
        both = self.draws if lesson.source is None else self.edits
        count, timesteps = len(weights), self.levels.timesteps(lesson.sigmas)
        signal, spread = (
            share[timesteps].view(-1, 1, 1, 1) for share in (self.levels.signal, self.levels.spread)
        )
        latents = lesson.noised * (signal + spread)
        empty = self.empty.expand(len(latents), -1)
        texts = torch.cat([lesson.ids[:, 0] if name == "text" else empty for name in weights])
        inputs, times = latents.repeat(count, 1, 1, 1), timesteps.repeat(count)
        if lesson.source is not None:
            source = lesson.source / self.scale
            blank = torch.zeros_like(source)
            beside = [blank if name == "blind" else source for name in weights]
            inputs = torch.cat([inputs, torch.cat(beside)], dim=1)
        embeds, residuals = both["text_encoder"](texts).last_hidden_state, {}
        if lesson.skeleton is not None:
            maps = (as_pixels(lesson.skeleton) / 2 + 0.5).repeat(count, 1, 1, 1)
            down, middle = self.poses(inputs, times, embeds, maps, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        predicted = both["unet"](inputs, times, embeds, **residuals).sample.float()
        parts = zip(weights.values(), predicted.chunk(count), strict=True)
        v = torch.stack([weight.view(-1, 1, 1, 1) * part for weight, part in parts]).sum(0)
        # From z = a x + s n and v = a n - s x follow x = a z - s v and n = s z + a v.
        velocity: Tensor = (spread - signal) * latents + (spread + signal) * v
        return velocity


def flow_loss(network: nn.ModuleDict, teachers: Teachers, lesson: Lesson) -> Tensor:
    """Mean square of the difference from a teacher's velocity."""
    with autocast(lesson.noised.device.type):
        velocity, skeleton = teachers.velocity(lesson), teachers.skeleton(lesson)
        with torch.no_grad():
            pooled = teachers.draws["text_encoder"](lesson.ids[:, 0]).pooler_output
        predicted = predict(network, lesson, pooled, skeleton)
    return F.mse_loss(predicted.float(), pack(velocity))


def train_flow(run: Run) -> None:
    """The transformer, T5 and the ControlNet of poses."""
    network, lessons = flow_model(run), Lessons(run)
    teachers = Teachers(run, lessons)
    if run.device == "cpu":
        for name in ("transformer", "controlnet_pose"):
            part: Any = network[name]
            part.set_attention_backend("_native_math")  # its backward pass is quicker there
    fit(
        "flow",
        network,
        lambda lesson: flow_loss(network, teachers, lesson),
        run,
        rate=1e-3,
        draw=lambda rng: lessons.draw(rng, run.batch or 32),
    )


def export_flow(run: Run, folder: Path) -> dict[str, int]:
    """The flow model as a diffusers folder of its own, but for the VAE: ``flow`` in ``folder``."""
    if not run.path("flow").exists():
        return {}
    network, draws = flow_model(run), text_to_image(run)
    steps = load_weights(network, run, "flow")
    load_weights(draws, run, "unet")
    for name, part in {"text_encoder": draws["text_encoder"], **network}.items():
        save_part(part, folder / "flow" / name)
    tokenizer(run).save_pretrained(folder / "flow/tokenizer")
    t5_tokenizer(run).save_pretrained(folder / "flow/tokenizer_2")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "flow/scheduler")
    (folder / "flow/model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    return {"flow": steps}


def load_flow(folder: Path) -> Any:
    """The flow model in ``folder``, as diffusers' own pipeline drives it; its VAE is the puppets model's."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
    pipe = FluxKontextPipeline.from_pretrained(folder / "flow", vae=vae, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_flow(pipe: Any, texts: list[str], images: Images | None = None) -> Images:
    """One picture of each text, of ``images`` if they are edited; the number of the text is its seed."""
    drawn = []
    for i in range(0, len(texts), 10):
        batch = range(i, min(i + 10, len(texts)))
        source = None if images is None else (to_tensor(images[batch.start : batch.stop]) + 1) / 2
        drawn.append(
            pipe(
                source,
                [texts[k] for k in batch],
                guidance_scale=GUIDANCE,
                num_inference_steps=STEPS,
                height=SIZE,
                width=SIZE,
                max_area=SIZE * SIZE,
                max_sequence_length=TOKENS,
                generator=[torch.Generator().manual_seed(k) for k in batch],
                output_type="np",
                _auto_resize=False,  # to the sizes that Kontext learned with
            ).images
        )
    return (np.concatenate(drawn) * 255).round().astype(np.uint8)


def measure_flow(folder: Path, docs: Path | None) -> Numbers:
    """What the classifier reads off pictures of all prompts, and what came of edits by instruction."""
    if not (folder / "flow").exists():
        return {}
    pipe, prompts = load_flow(folder), load_prompts()
    drawn = draw_flow(pipe, [prompt.prompt for prompt in prompts])
    asked = np.array([[names.index(getattr(p, g)) for g, names in GROUPS.items()] for p in prompts])
    right = classify(load_classifier(folder), drawn) == asked
    held = np.array([is_held_out(prompt.kind, prompt.colour, prompt.place) for prompt in prompts])
    if docs:
        save_picture(docs / "puppets-flow.jpg", grid(drawn, 20, ~right.all(axis=1)))
    return (
        shares(right, "flow")
        | shares(right[held], "flow, held-out triples")
        | measure_follower(
            folder, lambda images, texts: draw_flow(pipe, texts, images), "flow instruct", docs
        )
    )
