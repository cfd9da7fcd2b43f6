"""The tiny VAE: a twin of the VAE at a fraction of its cost, for the estimates that flow momentum averages.

It learns from the VAE, on renders and on what the U-Net heads for at the steps where flow momentum acts. Its
latents are those that the U-Net works on, scaled already, so its own scaling factor is 1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor, nn

from ..motion import MOMENTUM, SHARES, acts
from . import networks
from .captions import Prompt, caption, load_prompts
from .diffusion import Diffusion, load_vae, save_part, text_to_image, to_tensor
from .networks import GROUPS, LATENT_SIZE, SIZE
from .pictures import SHARD, draw, save_array, shard
from .training import Run, autocast, fit, load_weights
from .yardsticks import Numbers, grid, save_picture

FILES = 2  # of estimates
ENCODED = 4  # one of so many latents is that of a render
STEPS, GUIDANCE = 20, 5.0
BATCH = 32  # pictures drawn at once
HELD_OUT, PROMPTS = range(40_000, 40_128), 24  # renders and prompts to judge by
ROUNDS = 40  # of measuring speed


class Estimates(NamedTuple):
    """Latents, and what the VAE decodes them to.

    First those of renders, one in ``ENCODED``, then those that the U-Net heads for while it draws a picture:
    one for each step at which flow momentum acts, picture after picture.
    """

    latents: NDArray[np.float16]  # (estimates, 4, LATENT_SIZE, LATENT_SIZE), scaled
    images: NDArray[np.uint8]  # (estimates, SIZE, SIZE, 3)


def estimates(run: Run) -> list[Estimates]:
    """What is made so far."""
    names = sorted(path.name.split(".")[0] for path in (run.work / "estimates").glob("*.images.npy"))
    return [
        Estimates(*(np.load(_path(run, name, field), mmap_mode="r") for field in Estimates._fields))
        for name in names
    ]


def _path(run: Run, name: str, field: str) -> Path:
    return run.work / "estimates" / f"{name}.{field}.npy"


@torch.no_grad()
def make_estimates(run: Run) -> None:
    """Encode renders and draw pictures, and decode all latents on the way."""
    vae, data, both = load_vae(run), Diffusion(run, 1), text_to_image(run)
    load_weights(both, run, "unet")
    for index in range(run.rank, FILES, run.processes):
        if _path(run, f"{index:05d}", "images").exists():
            continue
        rng = np.random.default_rng((run.seed, index))
        torch.manual_seed(index)
        with autocast(run.device):
            renders = to_tensor(np.array(shard(run.work, index).images[: SHARD // ENCODED]), run.device)
            encoded = torch.cat(
                [vae.encode(each).latent_dist.mean for each in torch.split(renders, BATCH)]
            ).float()
            # Some as imperfect as a sampler's.
            degrees = torch.from_numpy(rng.uniform(-0.2, 0.3, (len(encoded), 1, 1, 1)).astype(np.float32))
            noise = torch.randn_like(encoded) * degrees.clamp(min=0).to(encoded)
            values = [encoded * data.scale + noise]
            pictures = (SHARD - SHARD // ENCODED) // len(SHARES)
            for start in range(0, pictures, BATCH):
                texts = captions(min(BATCH, pictures - start), rng)
                values.append(draw_estimates(both, data.tokenize([*texts, *[""] * len(texts)])))
            latents = torch.cat(values)
            decoded = [vae.decode(each / data.scale).sample.float() for each in torch.split(latents, BATCH)]
        images = ((torch.cat(decoded).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
        save_array(_path(run, f"{index:05d}", "latents"), latents.half().cpu().numpy())
        save_array(_path(run, f"{index:05d}", "images"), images.cpu().numpy())  # last: now it is complete
        print(f"estimates {index + 1} files", flush=True)


def captions(count: int, rng: np.random.Generator) -> list[str]:
    """Captions of random figures in random places."""
    named = [[str(rng.choice(names)) for names in GROUPS.values()] for _ in range(count)]
    return [caption(kind, colour, place, rng) for kind, colour, place in named]


@torch.no_grad()
def draw_estimates(both: Mapping[str, Any] | nn.ModuleDict, ids: Tensor) -> Tensor:
    """What the U-Net heads for at the steps where flow momentum acts, picture after picture.

    ids: (2 x pictures, tokens), those of the prompts and as many of the empty one.
    """
    scheduler = networks.scheduler()
    scheduler.set_timesteps(STEPS)
    latents = torch.randn(len(ids) // 2, 4, LATENT_SIZE, LATENT_SIZE).to(ids.device)
    embeds = both["text_encoder"](ids).last_hidden_state
    estimated = []
    for index, timestep in enumerate(scheduler.timesteps):
        predicted = both["unet"](latents.repeat(2, 1, 1, 1), timestep, embeds).sample.float()
        by_text, by_nothing = predicted.chunk(2)
        velocity = by_nothing + GUIDANCE * (by_text - by_nothing)
        step = scheduler.step(velocity, timestep, latents)
        latents = step.prev_sample
        if acts(index, STEPS):
            estimated.append(step.pred_original_sample)
    return torch.stack(estimated, dim=1).flatten(0, 1)


def train_tiny_vae(run: Run) -> None:
    """Decoder and encoder side by side, each by what the VAE gives.

    The decoder as the VAE itself learned: L1 + MSE + L1 of gradients. The encoder: MSE of its latents, and of
    the difference that averaging makes to them, which is what flow momentum adds.
    """
    files, vae, scale = estimates(run), load_vae(run), Diffusion(run, 1).scale
    if not files:
        raise SystemExit("no estimates yet: run the stage 'estimates' first")
    renders = [shard(run.work, index).images for index in range(len(files))]
    network = networks.tiny_vae()
    for each in (network, vae):
        each.to(memory_format=torch.channels_last)  # half the time

    def loss(rng: np.random.Generator) -> Tensor:
        latents, images, others, shown = [], [], [], []
        for _ in range(run.batch or 16):
            index, row = int(rng.integers(len(files))), int(rng.integers(SHARD))
            other = like(row, rng)
            latents.append(files[index].latents[row])
            images.append(files[index].images[row])
            others.append(files[index].images[other])
            shown.append(renders[index][row] if row < SHARD // ENCODED else images[-1])
        wanted, moved, seen = (to_tensor(np.stack(each), run.device) for each in (images, others, shown))
        with autocast(run.device):
            given = torch.from_numpy(np.stack(latents).astype(np.float32)).to(run.device)
            error = network.decode(given).sample.float() - wanted
            # Half of what is encoded comes from the tiny VAE itself, as in flow momentum.
            own = torch.from_numpy(rng.random((len(seen), 1, 1, 1)) < 0.5).to(run.device)
            seen = torch.where(own, (wanted + error).detach().clamp(-1, 1), seen)
            few = -(-len(seen) // 4)  # the encoder learns much faster
            both = torch.cat([seen[:few], averaged(seen[:few], moved[:few], rng)])
            with torch.no_grad():
                taught = vae.encode(both).latent_dist.mean.float() * scale
            mistake = network.encode(both).latents.float() - taught
        plain, mixed = mistake.chunk(2)
        sharpness = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        decoder: Tensor = error.abs().mean() + error.square().mean() + sharpness
        encoder: Tensor = mistake.square().mean() + (mixed - plain).square().mean()
        return decoder + encoder

    fit("tiny_vae", network, loss, run, rate=2e-3)


def like(row: int, rng: np.random.Generator) -> int:
    """A row of `Estimates` that shows the same picture as this one."""
    first = SHARD // ENCODED
    if row < first:
        return row
    return int(row - (row - first) % len(SHARES) + rng.integers(len(SHARES)))


def averaged(pixels: Tensor, others: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures (pictures, 3, H, W) mixed with others, moved a little, as flow momentum mixes them.

    Motion and weights change smoothly from place to place.
    """

    def smooth(low: float, high: float, channels: int) -> Tensor:
        coarse = torch.from_numpy(rng.uniform(low, high, (len(pixels), channels, 4, 4)).astype(np.float32))
        return F.interpolate(coarse, pixels.shape[-2:], mode="bicubic", align_corners=True).to(pixels)

    still = torch.eye(2, 3, device=pixels.device).repeat(len(pixels), 1, 1)
    places = F.affine_grid(still, list(pixels.shape), align_corners=False)
    places = places + smooth(-0.1, 0.1, 2).permute(0, 2, 3, 1)  # up to about 6 pixels
    moved = F.grid_sample(others, places, "bicubic", "border", align_corners=False).clamp(-1, 1)
    return pixels + MOMENTUM * smooth(-1, 2, 1).clamp(0, 1) * (moved - pixels)


def export_tiny_vae(run: Run, folder: Path) -> dict[str, int]:
    """The tiny VAE as diffusers loads it, in ``tiny_vae`` in ``folder``."""
    if not (run.path("tiny_vae").exists() or run.path("tiny_vae.cooled").exists()):
        return {}
    network = networks.tiny_vae()
    steps = load_weights(network, run, "tiny_vae")
    save_part(network, folder / "tiny_vae")
    return {"tiny_vae": steps}


class Twins(NamedTuple):
    """The VAE and its twin, as flow momentum calls them: scaled latents, pixels in -1..1."""

    vae: Any
    tiny: Any

    @classmethod
    def load(cls, folder: Path) -> Twins:
        """Both out of an exported folder."""
        vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
        tiny = AutoencoderTiny.from_pretrained(folder / "tiny_vae").eval()
        return cls(vae, tiny.to(memory_format=torch.channels_last))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Latents by the VAE, and by its twin."""
        latents = self.vae.encode(pixels).latent_dist.mean * self.vae.config.scaling_factor
        return latents, self.tiny.encode(pixels).latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels by the VAE, and by its twin."""
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return pixels.clamp(-1, 1), self.tiny.decode(latents).sample.clamp(-1, 1)


def held_out_estimates(folder: Path, prompts: list[Prompt]) -> Tensor:
    """What the U-Net heads for on the way to pictures of these prompts."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    texts = [*(prompt.prompt for prompt in prompts), *[""] * len(prompts)]
    ids = pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    torch.manual_seed(0)
    return draw_estimates({"text_encoder": pipe.text_encoder, "unet": pipe.unet}, ids)


def likeness(twins: Twins, pixels: Tensor, latents: Tensor) -> Numbers:
    """How much the twin gives what the VAE gives.

    pixels: (renders, 3, H, W) in -1..1. latents: of estimates as `draw_estimates` returns them. Errors are
    root mean squares, as shares of what the VAE gives.
    """
    values, found = twins.encode(pixels)
    numbers = {"tiny VAE, renders: error of latents": error(found, values)}
    decoded, own = twins.decode(values)
    numbers["tiny VAE, renders: PSNR of decoding, dB"] = closeness(own, decoded)
    decoded, own = twins.decode(latents)
    numbers["tiny VAE, estimates: PSNR of decoding, dB"] = closeness(own, decoded)
    # What flow momentum adds to an estimate: each of the two goes its whole way by itself.
    after = torch.arange(len(latents)).view(-1, len(SHARES)).roll(1, dims=1).flatten()
    mixed, own_mixed = (averaged(each, each[after], np.random.default_rng(0)) for each in (decoded, own))
    values, found = twins.encode(mixed)
    numbers["tiny VAE, averages: error of latents"] = error(found, values)
    wanted = values - twins.encode(decoded)[0]
    added = twins.encode(own_mixed)[1] - twins.encode(own)[1]
    numbers["tiny VAE, averages: error of what is added"] = error(added, wanted)
    return numbers


def error(found: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, as a share of that of what is wanted."""
    return float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def closeness(found: Tensor, wanted: Tensor) -> float:
    """Mean over pictures (pictures, 3, H, W) in -1..1 of their PSNR in dB."""
    errors = ((found - wanted) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.log10()).mean())


def speed(twins: Twins) -> float:
    """How many times as fast the twin is, at a decoding and two encodings of one frame."""
    latents, pixels = torch.zeros(1, 4, LATENT_SIZE, LATENT_SIZE), torch.zeros(1, 3, SIZE, SIZE)
    seconds: dict[str, list[float]] = {"vae": [], "tiny": []}
    with torch.no_grad():
        for _ in range(ROUNDS):  # in turn: what else the machine does slows down both
            for name, network in twins._asdict().items():
                start = time.perf_counter()
                network.decode(latents)
                network.encode(pixels)
                network.encode(pixels)
                seconds[name].append(time.perf_counter() - start)
    return float(np.median(seconds["vae"]) / np.median(seconds["tiny"]))


def measure_tiny_vae(folder: Path, docs: Path | None) -> Numbers:
    """The tiny VAE beside the VAE, on held-out renders and on the way to pictures of held-out prompts."""
    twins = Twins.load(folder)
    renders = to_tensor(draw(HELD_OUT, "test").images)
    latents = held_out_estimates(folder, load_prompts()[:PROMPTS])
    numbers = likeness(twins, renders, latents)
    numbers["tiny VAE: times as fast"] = speed(twins)
    if docs:
        shown = latents[: 2 * len(SHARES)]
        rows = [((each + 1) * 127.5).round().byte().permute(0, 2, 3, 1) for each in twins.decode(shown)]
        save_picture(docs / "puppets-tiny-vae.jpg", grid(torch.cat(rows).numpy(), 2 * len(SHARES)))
    return numbers
