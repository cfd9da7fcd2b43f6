"""What every stage that learns on latents starts from: the frozen VAE, tokenizer, U-Net, noised latents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor, nn

from . import networks
from .captions import caption
from .networks import GROUPS, LATENT_SIZE, TOKENS
from .pictures import SHARD, latents
from .training import Run, load_weights

EMPTY_PROMPTS = 0.1


def to_tensor(images: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """(pictures, H, W, 3) bytes to (pictures, 3, H, W) in -1..1."""
    return as_pixels(torch.from_numpy(images).to(device))


def as_pixels(images: Tensor) -> Tensor:
    """(pictures, H, W, 3) bytes to (pictures, 3, H, W) in -1..1."""
    return images.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def load_vae(run: Run) -> Any:
    """The VAE as trained so far, float32."""
    network = networks.vae()
    load_weights(network, run, "decoder" if run.path("decoder").exists() else "vae")
    return network


class Batch(NamedTuple):
    """What one step learns from."""

    noised: Tensor  # (pictures, 4, LATENT_SIZE, LATENT_SIZE)
    timesteps: Tensor  # (pictures,)
    ids: Tensor  # (pictures, TOKENS): the captions
    velocity: Tensor  # as noised: what is to be predicted
    numbers: list[int]  # of the scenes


class Diffusion:
    """What the U-Net and its ControlNets learn from: noised latents, fresh captions, v as the target."""

    def __init__(self, run: Run, shards: int | None = None, *, human: bool = False) -> None:
        """Learn from the first ``shards`` files of latents, or from all.

        With ``human``, also from the scenes of figures that stand as people do; their numbers come last.
        """
        self.run = run
        self.shards = latents(run.work)[:shards]
        if not self.shards:
            raise SystemExit("no latents yet: run the stage 'latents' first")
        self.scale = 1 / float(np.std(self.shards[0][0].astype(np.float32)))
        if human:
            self.shards += latents(run.work, "human_latents")
        self.scheduler = networks.scheduler()
        self.words = tokenizer(run)

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """Scenes at random, noised to all degrees."""
        picked, texts, numbers = np.empty((count, 4, LATENT_SIZE, LATENT_SIZE), np.float32), [], []
        for i in range(count):
            index = int(rng.integers(len(self.shards)))
            row = int(rng.integers(SHARD))
            values, _, labels = self.shards[index]
            picked[i] = values[row]
            numbers.append(index * SHARD + row)
            kind, colour, place = (
                names[label] for names, label in zip(GROUPS.values(), labels[row], strict=True)
            )
            texts.append("" if rng.random() < EMPTY_PROMPTS else caption(kind, colour, place, rng))
        noised, timesteps, velocity = self.noise(torch.from_numpy(picked).to(self.run.device), rng)
        return Batch(noised, timesteps, self.tokenize(texts), velocity, numbers)

    def noise(self, values: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (pictures, ...) noised to all degrees, the timesteps (pictures,) and v (pictures, ...)."""
        clean, count = values * self.scale, len(values)
        noise = torch.randn_like(clean)
        # one timestep out of each of `count` equal parts: the loss varies less from batch to batch
        timesteps = torch.from_numpy(
            ((rng.permutation(count) + rng.random(count)) / count * 1000).astype(np.int64)
        )
        timesteps = timesteps.to(self.run.device)
        noised = self.scheduler.add_noise(clean, noise, timesteps)
        return noised, timesteps, self.scheduler.get_velocity(clean, noise, timesteps)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Token ids (texts, TOKENS)."""
        ids: Tensor = self.words(
            texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).input_ids
        return ids.to(self.run.device)


def keep(folder: Path, learn: Callable[[list[str]], Any], run: Run) -> None:
    """Save a tokenizer that ``learn`` makes of captions, unless ``folder`` has it already."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")  # it may be killed while it saves
        learn(some_captions(run.seed)).save_pretrained(part)
        part.rename(folder)


def tokenizer(run: Run) -> Any:
    """The tokenizer, learned from captions when first asked for."""
    folder = run.work / "tokenizer"
    if run.rank == 0:
        keep(folder, networks.tokenizer, run)
    if run.processes > 1:
        torch.distributed.barrier()
    return networks.load_tokenizer(folder)


def some_captions(seed: int) -> list[str]:
    """Captions for a tokenizer to learn from."""
    rng = np.random.default_rng(seed)
    kinds, colours, places = ([str(name) for name in rng.choice(names, 20_000)] for names in GROUPS.values())
    return [caption(*named, rng) for named in zip(kinds, colours, places, strict=True)]


def text_to_image(run: Run) -> nn.ModuleDict:
    """Text encoder and U-Net, which learn together."""
    both = nn.ModuleDict({"text_encoder": networks.text_encoder(tokenizer(run)), "unet": networks.unet()})
    train_faster(both["unet"], run)
    return both


def train_faster(network: Any, run: Run) -> None:
    """Give a network the attention whose backward pass is quick."""
    # The backward pass of torch's fused attention on CPUs takes a third of a training step at these sizes.
    if run.device == "cpu":
        network.set_attn_processor(AttnProcessor())


def save_part(network: Any, folder: Path) -> None:
    """Write a network to ``folder`` as float16 safetensors, to be loaded as float32."""
    network.half().save_pretrained(folder)
    # transformers loads float16 weights as float16, diffusers as float32: a pipeline of both would fail
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    if "dtype" in settings:
        config.write_text(json.dumps(settings | {"dtype": "float32"}, indent=2) + "\n")
