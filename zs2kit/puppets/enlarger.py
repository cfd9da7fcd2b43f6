"""The enlarger: from 128 to 512 pixels, and rid of what VAE and U-Net get wrong.

It learns from the renderer, which draws the same scene at both sizes. What it is given is not the small
render but what the model makes of it. Most renders go through the VAE, with latents as imperfect as a
sampler's. The others are noised a little and drawn anew by the U-Net, so that figures stay where they are.
From neighbouring frames of moving figures, it learns not to flicker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from ..carry import Carry
from ..flow import flow, visible
from ..metrics import to_float, warp_error
from ..motion import settle
from ..networks.enlarger import Enlarger
from . import networks
from .captions import caption
from .diffusion import Diffusion, as_pixels, load_vae, save_part, text_to_image, to_tensor
from .networks import GROUPS, SIZE
from .pictures import SHARD, save_array, scene, shard
from .training import Run, autocast, fit, load_weights
from .world import MOTIONS, Scene, motion_scenes, render
from .yardsticks import Images, Numbers, psnr, reconstruct, save_picture

LARGE = 4 * SIZE  # pixels of a side of what it makes
FILES = 2  # of pairs
TWINS = 512  # neighbouring frames
STEADINESS = 2.0  # how much a change between these counts, beside errors
BATCH = 32  # pictures drawn at once
STEPS, GUIDANCE = 20, 5.0
FIRST = range(16, 20)  # of these steps, at which noised renders are taken up; earlier, figures would move
HELD_OUT = range(50_000, 50_064)  # renders to judge by
CLIPS, FRAMES = 8, 6  # of moving figures
SHOWN = 6  # renders
LAST, RIDGE = 240, 1e-4  # pictures that the last convolution is fitted to, and how much it stays as it was


class Pairs(NamedTuple):
    """Pictures as the model draws them, and the truth."""

    small: NDArray[np.uint8]  # (SHARD, SIZE, SIZE, 3)
    large: NDArray[np.uint8]  # (SHARD, LARGE, LARGE, 3)


class Twins(NamedTuple):
    """Neighbouring frames, by the VAE and in truth."""

    small: NDArray[np.uint8]  # (TWINS, 2, SIZE, SIZE, 3)
    large: NDArray[np.uint8]  # (TWINS, 2, LARGE, LARGE, 3)
    flow: NDArray[np.float16]  # (TWINS, LARGE, LARGE, 2), from the first to the second, in pixels
    seen: NDArray[np.bool_]  # (TWINS, LARGE, LARGE), what is visible in both


class Crops(NamedTuple):
    """What one step learns from: first twins, whose frames follow each other, then single pictures."""

    small: Tensor  # (crops, crop, crop, 3), bytes
    large: Tensor  # (crops, 4 x crop, 4 x crop, 3), bytes
    flow: Tensor  # (twins, 4 x crop, 4 x crop, 2)
    seen: Tensor  # (twins, 4 x crop, 4 x crop)


def pairs(run: Run) -> list[Pairs]:
    """What is made so far."""
    names = sorted(path.name.split(".")[0] for path in (run.work / "enlarger").glob("[0-9]*.small.npy"))
    return [
        Pairs(*(np.load(_path(run, name, field), mmap_mode="r") for field in Pairs._fields)) for name in names
    ]


def twins(run: Run) -> Twins:
    """Neighbouring frames."""
    return Twins(*(np.load(_path(run, "twins", field), mmap_mode="r") for field in Twins._fields))


def _path(run: Run, name: str, field: str) -> Path:
    return run.work / "enlarger" / f"{name}.{field}.npy"


@torch.no_grad()
def make_enlarger_pairs(run: Run) -> None:
    """Draw scenes at both sizes, the small ones as the model does."""
    vae, data, both = load_vae(run), Diffusion(run, 1), text_to_image(run)
    load_weights(both, run, "unet")
    for index in range(run.rank, FILES, run.processes):
        if _path(run, f"{index:05d}", "small").exists():
            continue
        rng = np.random.default_rng((run.seed, index))
        torch.manual_seed(index)
        renders = shard(run.work, index)
        small = np.empty_like(renders.images)
        for start in range(0, SHARD, BATCH):
            rows = slice(start, start + BATCH)
            with autocast(run.device):
                encoded = vae.encode(to_tensor(np.array(renders.images[rows]), run.device)).latent_dist.mean
                latents = encoded.float() * data.scale
                if start // BATCH % 4 == 3:
                    groups = list(GROUPS.values())
                    texts = [
                        caption(groups[0][kind], groups[1][colour], groups[2][place], rng)
                        for kind, colour, place in renders.labels[rows]
                    ]
                    latents = redraw(both, data.tokenize([*texts, *[""] * len(texts)]), latents, rng)
                else:
                    degrees = torch.from_numpy(rng.uniform(-0.2, 0.2, (len(latents), 1, 1, 1)))
                    latents = latents + torch.randn_like(latents) * degrees.clamp(min=0).to(latents)
                decoded = vae.decode(latents / data.scale).sample.float()
            small[rows] = to_bytes(decoded)
        large = np.empty((SHARD, LARGE, LARGE, 3), np.uint8)
        for row in range(SHARD):
            large[row] = render(scene(index * SHARD + row), LARGE, like=SIZE).image
        save_array(_path(run, f"{index:05d}", "large"), large)
        save_array(_path(run, f"{index:05d}", "small"), small)  # last: now it is complete
        print(f"enlarger_pairs {index + 1} files", flush=True)
    if run.rank == 0 and not _path(run, "twins", "seen").exists():
        _make_twins(run, vae)


def _make_twins(run: Run, vae: Any) -> None:
    made = []
    for number in range(TWINS):
        rng = np.random.default_rng((run.seed, TWINS, number))
        moving = motion_scenes(scene(100_000 + number), str(rng.choice(MOTIONS)), 8, travel=0.1)
        first = int(rng.integers(7))
        both = moving[first : first + 2]
        small = reconstruct(vae, np.stack([render(each, SIZE).image for each in both]))
        large = true_large(both)
        forward, backward = flow(*large), flow(large[1], large[0])
        made.append(Twins(small, large, forward.astype(np.float16), visible(forward, backward)))
    for name, arrays in zip(Twins._fields, zip(*made, strict=True), strict=True):
        save_array(_path(run, "twins", name), np.stack(arrays))
    print(f"enlarger_pairs {TWINS} twins", flush=True)


@torch.no_grad()
def redraw(both: Any, ids: Tensor, latents: Tensor, rng: np.random.Generator) -> Tensor:
    """Noise latents (pictures, 4, H, W), scaled, to one of the later steps and draw them from there.

    ids: (2 x pictures, tokens), those of the captions and as many of the empty one.
    """
    scheduler = networks.scheduler()
    scheduler.set_timesteps(STEPS)
    timesteps = scheduler.timesteps[int(rng.choice(FIRST)) :]
    latents = scheduler.add_noise(latents, torch.randn_like(latents), timesteps[:1])
    embeds = both["text_encoder"](ids).last_hidden_state
    for timestep in timesteps:
        predicted = both["unet"](latents.repeat(2, 1, 1, 1), timestep, embeds).sample.float()
        by_text, by_nothing = predicted.chunk(2)
        velocity = by_nothing + GUIDANCE * (by_text - by_nothing)
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    return latents


def to_bytes(pixels: Tensor) -> NDArray[np.uint8]:
    """(pictures, 3, H, W) in -1..1 to (pictures, H, W, 3) bytes."""
    scaled = (pixels.clamp(-1, 1) + 1) * 127.5
    return np.asarray(scaled.round().byte().permute(0, 2, 3, 1).cpu().numpy())


def train_enlarger(run: Run) -> None:
    """Crops: L1 + MSE + L1 of gradients, and how much neighbouring frames differ along the motion.

    Half of the crops are of twins.
    """
    files = pairs(run)
    if not files:
        raise SystemExit("no pairs yet: run the stage 'enlarger_pairs' first")
    neighbours = twins(run)
    network: Any = Enlarger()
    network.to(memory_format=torch.channels_last)
    crop, scale = min(run.crop, SIZE), LARGE // SIZE

    def draw(rng: np.random.Generator) -> Crops:
        count = max(1, (run.batch or 16) // 4)
        small, large, flows, masks = [], [], [], []
        for i in range(3 * count):  # as many twins as fill half of the batch, and then single ones
            rows, columns = (slice(at, at + crop) for at in rng.integers(SIZE - crop + 1, size=2))
            wide, high = (slice(each.start * scale, each.stop * scale) for each in (columns, rows))
            if i < count:
                row = int(rng.integers(len(neighbours.small)))
                small += [*neighbours.small[row, :, rows, columns]]
                large += [*neighbours.large[row, :, high, wide]]
                flows.append(neighbours.flow[row, high, wide])
                masks.append(neighbours.seen[row, high, wide])
            else:
                file, row = files[rng.integers(len(files))], int(rng.integers(SHARD))
                small.append(file.small[row, rows, columns])
                large.append(file.large[row, high, wide])
        return Crops(*(torch.from_numpy(np.stack(each)) for each in (small, large, flows, masks)))

    def loss(crops: Crops) -> Tensor:
        with autocast(run.device):
            enlarged = network(as_pixels(crops.small) / 2 + 0.5)
        made = enlarged.float() * 2 - 1
        error = made - as_pixels(crops.large)
        sharpness = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        count = len(crops.flow)
        first, second = made[0 : 2 * count : 2], made[1 : 2 * count : 2]
        moved, inside = warped(second, crops.flow.float())
        change = (moved - first) * (crops.seen[:, None] & inside)
        steadiness = STEADINESS * (change.abs().mean() + 3 * change.square().mean())
        total: Tensor = error.abs().mean() + 5 * error.square().mean() + sharpness + steadiness
        return total

    fit("enlarger", network, loss, run, rate=2e-3, draw=draw)


@torch.no_grad()
def fit_last(network: Any, small: Images, large: Images) -> None:
    """Set the last convolution to what is best for these pictures, by least squares.

    small, large: (pictures, SIZE, SIZE, 3) and (pictures, LARGE, LARGE, 3). Training aims at sharpness and
    steadiness, too. But an edit averages what is enlarged, so this needn't be as steady. Each picture counts
    by its error before, since decibels are what is averaged in the end.
    """
    weight, bias, scale = network.last.weight, network.last.bias, LARGE // SIZE
    before = torch.cat([weight.flatten(1), bias[:, None]], dim=1).T.double()
    left, right = torch.zeros(len(before), len(before)).double(), torch.zeros_like(before)
    for picture, truth in zip(small, large, strict=True):
        pixels, wanted = to_tensor(picture[None]), to_tensor(truth[None])
        missing = wanted - F.interpolate(pixels, scale_factor=scale, mode="bicubic")
        missing = F.pixel_unshuffle(missing, scale)[0].flatten(1).T
        seen = F.unfold(network.hidden(pixels), 3, padding=1)[0].T
        seen = F.pad(seen, (0, 1), value=1.0)  # for the bias
        share = 1 / (missing - seen @ before.float()).square().mean()
        left += share * (seen.T @ seen)
        right += share * (seen.T @ missing)
    stay = RIDGE * left.diagonal().mean()  # as it was, where the pictures don't tell
    best = torch.linalg.solve(left + stay * torch.eye(len(left)), right + stay * before).T.to(weight)
    weight.copy_(best[:, :-1].reshape(weight.shape))
    bias.copy_(best[:, -1])


def warped(pixels: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (pictures, 3, H, W) warped back along a flow (pictures, H, W, 2), and where it stays inside."""
    height, width = pixels.shape[2:]
    rows, columns = (torch.arange(side, device=pixels.device) for side in (height, width))
    x, y = columns + motion[..., 0], rows[:, None] + motion[..., 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    inside = (grid.abs() <= 1).all(dim=-1)[:, None]
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False), inside


def export_enlarger(run: Run, folder: Path) -> dict[str, int]:
    """The enlarger as `Enlarger.from_pretrained` loads it, in ``enlarger`` in ``folder``.

    If there are pairs, its last convolution is fitted to some of them.
    """
    if not (run.path("enlarger").exists() or run.path("enlarger.cooled").exists()):
        return {}
    network: Any = Enlarger()
    steps = load_weights(network, run, "enlarger")
    for each in pairs(run)[:1]:
        fit_last(network.cpu(), np.array(each.small[:LAST]), np.array(each.large[:LAST]))
    save_part(network, folder / "enlarger")
    return {"enlarger": steps}


def true_large(scenes: Iterable[Scene]) -> Images:
    """What the renderer draws of these scenes, (pictures, LARGE, LARGE, 3)."""
    return np.stack([render(each, LARGE, like=SIZE).image for each in scenes])


def by_cubic(images: Images) -> Images:
    """Pictures (pictures, SIZE, SIZE, 3) enlarged by cubic interpolation."""
    return np.stack([cv2.resize(image, (LARGE, LARGE), interpolation=cv2.INTER_CUBIC) for image in images])


@torch.no_grad()
def by_network(network: Any, images: Images) -> Images:
    """Pictures (pictures, SIZE, SIZE, 3) enlarged by the network."""
    made = [network(to_tensor(each[None]) / 2 + 0.5) * 2 - 1 for each in images]
    return np.concatenate([to_bytes(each) for each in made])


def flicker(images: Images, truth: Images) -> float:
    """The mean warping error of a clip along the flow of the truth, both (frames, LARGE, LARGE, 3)."""
    pictures, errors = [to_float(image) for image in images], []
    for a, b, one, other in zip(truth, truth[1:], pictures, pictures[1:], strict=False):
        forward, backward = flow(a, b), flow(b, a)
        errors.append(warp_error(one, other, forward, visible(forward, backward)))
    return float(np.mean(errors))


def measure_enlarger(folder: Path, docs: Path | None) -> Numbers:
    """The enlarger beside cubic interpolation, on held-out renders through the VAE, still and moving."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    network: Any = Enlarger.from_pretrained(folder / "enlarger").eval()
    scenes = [scene(number, "test") for number in HELD_OUT]
    small = reconstruct(vae, np.stack([render(each, SIZE).image for each in scenes]))
    large = true_large(scenes)
    ways: dict[str, Callable[[Images], Images]] = {
        "cubic interpolation": by_cubic,
        "enlarger": partial(by_network, network),
    }
    made = {name: enlarge(small) for name, enlarge in ways.items()}
    numbers: Numbers = {f"{name}: PSNR, dB": psnr(images, large) for name, images in made.items()}
    errors: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(CLIPS):
        start, motion = scene(60_000 + number, "test"), MOTIONS[number % len(MOTIONS)]
        moving = motion_scenes(start, motion, FRAMES, travel=0.1)
        truth = true_large(moving)
        frames = reconstruct(vae, np.stack([render(each, SIZE).image for each in moving]))
        enlarged = {name: enlarge(frames) for name, enlarge in ways.items()}
        settled = settle(to_tensor(enlarged["enlarger"]) / 2 + 0.5, truth, Carry())  # as an edit does
        enlarged["enlarger"] = to_bytes(settled * 2 - 1)
        for name, images in enlarged.items():
            errors[name].append(flicker(images, truth))
    numbers |= {f"{name}: warp error x 1000": 1000 * float(np.mean(each)) for name, each in errors.items()}
    if docs:
        shown = [*made.values(), large]
        rows = [np.concatenate(list(images[:SHOWN]), axis=1) for images in shown]
        save_picture(docs / "puppets-enlarger.jpg", np.concatenate(rows))
    return numbers
