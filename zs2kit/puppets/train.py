"""Train the puppets model, stage by stage; each stage goes on from where it was stopped.

\b
    python -m zs2kit.puppets.train vae --minutes 45 --processes 2
    python -m zs2kit.puppets.train vae --minutes 20 --processes 2 --cooldown --crop 128 --batch 3
    python -m zs2kit.puppets.train reconstructions
    python -m zs2kit.puppets.train latents --count 200000
    python -m zs2kit.puppets.train human_latents --count 20000
    python -m zs2kit.puppets.train unet --minutes 120 --processes 2
    python -m zs2kit.puppets.train controlnet_pose --minutes 60 --processes 2
    python -m zs2kit.puppets.train controlnet_depth --minutes 30 --batch 24
    python -m zs2kit.puppets.train controlnet_edges --minutes 30 --batch 24
    python -m zs2kit.puppets.train detector --minutes 15
    python -m zs2kit.puppets.train estimator --minutes 15
    python -m zs2kit.puppets.train classifier --minutes 15
    python -m zs2kit.puppets.train pairs --processes 2
    python -m zs2kit.puppets.train instruct --minutes 70
    python -m zs2kit.puppets.train image_encoder --minutes 5
    python -m zs2kit.puppets.train reference --minutes 20
    python -m zs2kit.puppets.train lora --minutes 8
    python -m zs2kit.puppets.train estimates
    python -m zs2kit.puppets.train tiny_vae --minutes 40
    python -m zs2kit.puppets.train enlarger_pairs
    python -m zs2kit.puppets.train enlarger --minutes 60
    python -m zs2kit.puppets.train flow --batch 32 --minutes 600
    python -m zs2kit.puppets.train export

Once there are latents the VAE's encoder is frozen for good, and `decoder` goes on improving its other half:
what was trained on its latents stays valid. `reconstructions` are what detector and classifier see beside
renders. `latents` adds to what is there, a file of 2,048 at a time; the U-Net sees new files at its next
start. The learning rate is constant, so a stage may be taken up again at any time; --cooldown lets it fall to
zero over this run and keeps the result beside, as NAME.cooled.pt, which export takes until NAME.pt has seen
more steps. To train on from a cooled network, rename it to NAME.pt. A ControlNet needs some minutes to follow
a U-Net that went on; those of depth and edges begin as copies of the one of poses. Ctrl-C and SIGTERM save
what there is. `restore` takes VAE, U-Nets, tokenizers, the ControlNet of poses and the flow model from the
package's weights, for whoever has no checkpoints of them: stages that learn from these need no more than
that, `latents`, `human_latents` and, for `flow`, `pairs`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextModel

from . import networks
from .detector import HEATMAP, SPREAD, resize
from .diffusion import Diffusion, load_vae, save_part, text_to_image, to_tensor, tokenizer, train_faster
from .enlarger import export_enlarger, make_enlarger_pairs, train_enlarger
from .estimator import estimate_logits
from .flow import bundled_flow, export_flow, train_flow
from .instruct import export_instruct, make_pairs, train_instruct
from .lora import export_lora, train_lora
from .networks import GROUPS, SIZE
from .pictures import SHARD, draw, empty_maps, empty_places, maps, reconstructions, save_array, shard
from .reference import export_reference, train_image_encoder, train_reference
from .skeleton import seen_skeleton
from .tiny_vae import export_tiny_vae, make_estimates, train_tiny_vae
from .training import Run, autocast, fit, load_weights, save, spread
from .vocabulary import export_domains

WEIGHTS = Path(__file__).with_name("weights")
PICTURE_SHARDS = 10  # for the VAE, the detector and the classifier
CONTROLNETS = ("controlnet_pose", "controlnet_depth", "controlnet_edges")
EMPTY = 1024  # places with nobody in them


def train_vae(run: Run) -> None:
    """Autoencoder of crops: L1 + MSE + L1 of gradients, and a trace of KL."""
    if (run.work / "latents").exists():
        raise SystemExit("latents were made with this VAE: train the stage 'decoder', or remove latents/")
    _train_vae("vae", networks.vae(), run)


def train_decoder(run: Run) -> None:
    """The same with the encoder frozen, so that the latents stay as they are."""
    network = networks.vae()
    if not run.path("decoder").exists():
        load_weights(network, run, "vae")
    network.encoder.requires_grad_(False)
    network.quant_conv.requires_grad_(False)
    _train_vae("decoder", network, run)


def _train_vae(name: str, network: Any, run: Run) -> None:
    pictures = [shard(run.work, i).images for i in range(PICTURE_SHARDS)]

    def loss(rng: np.random.Generator) -> Tensor:
        crops = np.empty((run.batch or 12, run.crop, run.crop, 3), np.uint8)
        for crop in crops:
            top, left = rng.integers(SIZE - run.crop + 1, size=2)
            image = pictures[rng.integers(len(pictures))][rng.integers(SHARD)]
            crop[:] = image[top : top + run.crop, left : left + run.crop]
        pixels = to_tensor(crops, run.device)
        with autocast(run.device):
            latents = network.encode(pixels).latent_dist
            error = network.decode(latents.sample()).sample - pixels
        sharpness = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        total: Tensor = error.abs().mean() + error.square().mean() + sharpness + 1e-6 * latents.kl().mean()
        return total

    fit(name, network, loss, run, rate=2e-3)


@torch.no_grad()
def make_latents(run: Run, count: int, *, human: bool = False) -> None:
    """Encode scenes to latents, as the means of the posterior, until there are `count`.

    With ``human`` they are of figures that stand as people do, and lie in a folder of their own.
    """
    network = load_vae(run)
    folder = run.work / ("human_latents" if human else "latents")
    for index in range(run.rank, -(-count // SHARD), run.processes):
        if (folder / f"{index:05d}.labels.npy").exists():
            continue
        pictures = (
            shard(run.work, index)
            if index < PICTURE_SHARDS and not human
            else draw(range(index * SHARD, (index + 1) * SHARD), human=human)
        )
        encoded = []
        with autocast(run.device):
            for start in range(0, SHARD, 32):
                pixels = to_tensor(np.array(pictures.images[start : start + 32]), run.device)
                encoded.append(network.encode(pixels).latent_dist.mean.float())
        values = torch.cat(encoded)
        save_array(folder / f"{index:05d}.latents.npy", values.half().cpu().numpy())
        save_array(folder / f"{index:05d}.keypoints.npy", pictures.keypoints)
        save_array(
            folder / f"{index:05d}.labels.npy", pictures.labels
        )  # last: a shard with labels is complete
        print(f"{folder.name} {index + 1} shards, {(index + 1) * SHARD} pictures", flush=True)


def train_unet(run: Run) -> None:
    """Text encoder and U-Net together."""
    data, both = Diffusion(run), text_to_image(run)

    def loss(rng: np.random.Generator) -> Tensor:
        noised, timesteps, ids, velocity, _ = data.draw(rng, run.batch or 16)
        with autocast(run.device):
            embeds = both["text_encoder"](ids).last_hidden_state
            predicted = both["unet"](noised, timesteps, encoder_hidden_states=embeds).sample
        return F.mse_loss(predicted.float(), velocity)

    fit("unet", both, loss, run, rate=1e-3)


def train_controlnet_pose(run: Run) -> None:
    """The ControlNet of skeletons, also of those that people make, with a detector's errors."""
    data = Diffusion(run, PICTURE_SHARDS, human=True)

    def skeleton(number: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        return seen_skeleton(data.shards[number // SHARD][1][number % SHARD], SIZE, rng)

    _train_controlnet("controlnet_pose", skeleton, data)


def train_controlnet_depth(run: Run) -> None:
    """The ControlNet of depth, near is bright."""
    depths = [maps(run.work, i) for i in range(PICTURE_SHARDS)]

    def depth(number: int, _: np.random.Generator) -> NDArray[np.uint8]:
        return depths[number // SHARD][number % SHARD, ..., 0]

    _train_controlnet("controlnet_depth", depth, Diffusion(run, PICTURE_SHARDS))


def train_controlnet_edges(run: Run) -> None:
    """The ControlNet of Canny's edges, white on black, few ones and many."""
    images = [shard(run.work, i).images for i in range(PICTURE_SHARDS)]

    def edges(number: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        low = float(rng.uniform(60, 140))
        found = cv2.Canny(images[number // SHARD][number % SHARD], low, low * float(rng.uniform(1.6, 2.4)))
        return np.asarray(found, np.uint8)

    _train_controlnet("controlnet_edges", edges, Diffusion(run, PICTURE_SHARDS))


def _train_controlnet(
    name: str, draw_map: Callable[[int, np.random.Generator], NDArray[np.uint8]], data: Diffusion
) -> None:
    """A ControlNet on the frozen U-Net, of maps of the scenes: (SIZE, SIZE, 3), or (SIZE, SIZE) if grey."""
    run = data.run
    both = text_to_image(run)
    load_weights(both, run, "unet")
    both.requires_grad_(False)
    network = networks.controlnet(both["unet"])
    if run.path("controlnet_pose").exists() or run.path("controlnet_pose.cooled").exists():
        load_weights(network, run, "controlnet_pose")  # which knows how to steer, only not yet by what
    train_faster(network, run)

    def loss(rng: np.random.Generator) -> Tensor:
        noised, timesteps, ids, velocity, numbers = data.draw(rng, run.batch or 16)
        drawn = [np.broadcast_to(np.atleast_3d(draw_map(number, rng)), (SIZE, SIZE, 3)) for number in numbers]
        hints = (to_tensor(np.stack(drawn), run.device) + 1) / 2
        with autocast(run.device):
            embeds = both["text_encoder"](ids).last_hidden_state
            down, middle = network(noised, timesteps, embeds, hints, return_dict=False)
            predicted = both["unet"](
                noised,
                timesteps,
                embeds,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
        return F.mse_loss(predicted.float(), velocity)

    fit(name, network, loss, run, rate=1e-3)


class Augmented:
    """Pictures as clips and models make them: blurred, noisy, pale and, once there is a VAE, decoded."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.shards = [shard(run.work, i) for i in range(PICTURE_SHARDS)]
        self.decoded = reconstructions(run.work)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, list[tuple[int, int]]]:
        """Pictures (count, 3, SIZE, SIZE) in about -1..1, and the shard and row in it of each."""
        images, picked = np.empty((count, SIZE, SIZE, 3), np.uint8), []
        for i in range(count):
            use_decoded = self.decoded and rng.random() < 0.5
            index = int(rng.integers(len(self.decoded if use_decoded else self.shards)))
            row = int(rng.integers(SHARD))
            images[i] = (self.decoded[index] if use_decoded else self.shards[index].images)[row]
            picked.append((index, row))
        return augment(to_tensor(images, self.run.device), rng), picked


def augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, noise, brightness, contrast and a tint, each to another degree on every picture."""

    def degrees(low: float, high: float, channels: int = 1) -> Tensor:
        values = rng.uniform(low, high, (len(pixels), channels, 1, 1)).astype(np.float32)
        return torch.from_numpy(values).to(pixels.device)

    blurred = F.avg_pool2d(
        F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False
    )
    share = degrees(-1, 1).clamp(min=0)
    pixels = pixels + share * (blurred - pixels)
    pixels = pixels * degrees(0.8, 1.15) * degrees(0.95, 1.05, 3) + degrees(-0.12, 0.12)
    return pixels + torch.randn_like(pixels) * degrees(-0.1, 0.15).clamp(min=0)


def train_detector(run: Run) -> None:
    """Heatmaps of keypoints, also of places that nobody is in and of mere noise: all zero."""
    data, network = Augmented(run), networks.detector()
    nobody = empty_places(run.work, EMPTY)
    grid = torch.arange(HEATMAP, device=run.device, dtype=torch.float32)

    def loss(rng: np.random.Generator) -> Tensor:
        count = run.batch or 16
        pixels, picked = data.draw(rng, count)
        keypoints = np.stack([data.shards[index].keypoints[row] for index, row in picked])
        empties = count // 16 + int(rng.random() < 0.5)
        rows = np.sort(rng.integers(len(nobody), size=empties))
        pixels[:empties] = augment(to_tensor(nobody[rows], run.device), rng)
        if rng.random() < 0.3:
            pixels[0] = torch.randn_like(pixels[0]) * float(rng.uniform(0.1, 1)) + float(rng.uniform(-1, 1))
        points = torch.from_numpy((keypoints[..., :2] + 0.5) * (HEATMAP / SIZE) - 0.5).to(run.device)
        across = torch.exp(-(grid - points[..., :1]).square() / (2 * SPREAD**2))  # (count, 18, HEATMAP)
        down = torch.exp(-(grid - points[..., 1:]).square() / (2 * SPREAD**2))
        targets = (
            down[..., :, None]
            * across[..., None, :]
            * torch.from_numpy(keypoints[..., 2, None, None]).to(run.device)
        )
        targets[:empties] = 0
        with autocast(run.device):
            logits = network(resize(pixels), 0).sample
        return F.binary_cross_entropy_with_logits(logits.float(), targets) * 100

    fit("detector", network, loss, run, rate=2e-3)


def train_estimator(run: Run) -> None:
    """Depth and the figure's mask, also where nobody is."""
    data, network = Augmented(run), networks.estimator()
    nobody = empty_places(run.work, EMPTY)
    truth = [maps(run.work, i) for i in range(PICTURE_SHARDS)]

    def loss(rng: np.random.Generator) -> Tensor:
        count = run.batch or 16
        pixels, picked = data.draw(rng, count)
        targets = np.stack([truth[index][row] for index, row in picked])
        empties = count // 16 + int(rng.random() < 0.5)
        rows = np.sort(rng.integers(len(nobody), size=empties))
        pixels[:empties] = augment(to_tensor(nobody[rows], run.device), rng)
        for i, row in enumerate(rows):
            targets[i] = empty_maps(int(row))
        depth, mask = ((to_tensor(targets, run.device) + 1) / 2).unbind(1)
        with autocast(run.device):
            logits = estimate_logits(network, pixels).float()
        far = (logits[:, 0].sigmoid() - depth).abs().mean()
        return 10 * far + F.binary_cross_entropy_with_logits(logits[:, 1], mask)

    fit("estimator", network, loss, run, rate=2e-3)


def train_classifier(run: Run) -> None:
    """Kind, colour and place."""
    data, network = Augmented(run), networks.classifier()

    def loss(rng: np.random.Generator) -> Tensor:
        pixels, picked = data.draw(rng, run.batch or 32)
        labels = np.stack([data.shards[index].labels[row] for index, row in picked])
        with autocast(run.device):
            logits = network(pixels).logits.float()
        parts = logits.split([len(names) for names in GROUPS.values()], dim=1)
        wanted = torch.from_numpy(labels.astype(np.int64)).to(run.device)
        return sum(
            (F.cross_entropy(part, wanted[:, i], label_smoothing=0.02) for i, part in enumerate(parts)),
            torch.zeros(()),
        )

    fit("classifier", network, loss, run, rate=1e-3)


@torch.no_grad()
def make_reconstructions(run: Run) -> None:
    """Decode what the VAE makes of the pictures, from latents as imperfect as a sampler's."""
    network = load_vae(run)
    for index in range(run.rank, min(4, PICTURE_SHARDS), run.processes):
        rng = np.random.default_rng((run.seed, index))
        images = np.array(shard(run.work, index).images)
        torch.manual_seed(index)
        with autocast(run.device):
            for start in range(0, SHARD, 32):
                mean = network.encode(to_tensor(images[start : start + 32], run.device)).latent_dist.mean
                degree = torch.from_numpy(
                    rng.uniform(-0.2, 0.3, (len(mean), 1, 1, 1)).astype(np.float32)
                ).clamp(min=0)
                noised = mean + torch.randn_like(mean) * mean.std() * degree.to(run.device)
                decoded = network.decode(noised).sample.float().clamp(-1, 1)
                images[start : start + 32] = (
                    ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
                )
        save_array(run.work / "reconstructions" / f"{index:05d}.npy", images)
        print(f"reconstructions {index + 1} shards", flush=True)


def restore(run: Run) -> None:
    """Take VAE, U-Nets, text encoders, tokenizers, the ControlNet of poses and the flow model from the
    package's weights.

    They are then there as results of a cooldown, but for what their optimizers know.
    """
    shutil.copytree(WEIGHTS / "tokenizer", run.work / "tokenizer", dirs_exist_ok=True)
    shutil.copytree(WEIGHTS / "flow/tokenizer_2", run.work / "t5_tokenizer", dirs_exist_ok=True)
    steps = json.loads((WEIGHTS / "training.json").read_text())
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae")
    draws, edits = (
        nn.ModuleDict(
            {
                "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
                "unet": UNet2DConditionModel.from_pretrained(folder / "unet"),
            }
        )
        for folder in (WEIGHTS, WEIGHTS / "instruct")
    )
    controlnet = ControlNetModel.from_pretrained(WEIGHTS / "controlnet_pose")
    for name, network in (
        ("vae", vae),
        ("unet", draws),
        ("instruct", edits),
        ("controlnet_pose", controlnet),
        ("flow", bundled_flow(WEIGHTS / "flow")),
    ):
        weights, step = network.state_dict(), steps.get(name, 0)
        state = {"network": weights, "ema": weights, "step": step, "optimizers": [], "seconds": 0.0}
        save(state, run.path(f"{name}.cooled"))


def export(run: Run, folder: Path) -> None:
    """Write what is trained so far as one diffusers folder of float16 safetensors.

    Each part of the folder is replaced in one go, and what nothing here makes is left as it is.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    steps: dict[str, int] = {}
    for export_part in EXPORTED:
        steps |= export_part(run, partial)
    record = folder / "training.json"
    if record.exists():
        steps = json.loads(record.read_text()) | steps
    (partial / record.name).write_text(json.dumps(steps, indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for part in partial.iterdir():
        shutil.rmtree(folder / part.name, ignore_errors=True)
        os.replace(part, folder / part.name)
    partial.rmdir()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB, {json.dumps(steps)} steps")


def export_base(run: Run, folder: Path) -> dict[str, int]:
    """The text-to-image model and the networks beside it."""
    steps: dict[str, int] = {}
    both = text_to_image(run)
    steps["unet"] = load_weights(both, run, "unet")
    vae = load_vae(run)
    vae.register_to_config(scaling_factor=Diffusion(run).scale, shift_factor=0.0)  # FLUX.1's adds it
    parts = {"vae": vae, "text_encoder": both["text_encoder"], "unet": both["unet"]}
    for name, network in (
        ("detector", networks.detector()),
        ("estimator", networks.estimator()),
        ("classifier", networks.classifier()),
        *((name, networks.controlnet(both["unet"])) for name in CONTROLNETS),
    ):
        if run.path(name).exists():
            steps[name] = load_weights(network, run, name)
            parts[name] = network
    for name, network in parts.items():
        save_part(network, folder / name)
    tokenizer(run).save_pretrained(folder / "tokenizer")
    networks.scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(networks.MODEL_INDEX, indent=2) + "\n")
    return steps


STAGES: dict[str, Callable[[Run], None]] = {
    "vae": train_vae,
    "decoder": train_decoder,
    "detector": train_detector,
    "estimator": train_estimator,
    "classifier": train_classifier,
    "unet": train_unet,
    "controlnet_pose": train_controlnet_pose,
    "controlnet_depth": train_controlnet_depth,
    "controlnet_edges": train_controlnet_edges,
    "reconstructions": make_reconstructions,
    "pairs": make_pairs,
    "instruct": train_instruct,
    "image_encoder": train_image_encoder,
    "reference": train_reference,
    "lora": train_lora,
    "flow": train_flow,
    "estimates": make_estimates,
    "tiny_vae": train_tiny_vae,
    "enlarger_pairs": make_enlarger_pairs,
    "enlarger": train_enlarger,
    "restore": restore,
}
EXPORTED: list[Callable[[Run, Path], dict[str, int]]] = [
    export_base,
    export_instruct,
    export_reference,
    export_lora,
    export_tiny_vae,
    export_enlarger,
    export_flow,
    export_domains,
]
"""Each writes its parts of the weights into a folder and returns the steps that they were trained for; none
of what isn't trained yet."""


def train(stage: str, run: Run) -> None:
    """Run one of the stages; all its processes start from the same weights."""
    torch.manual_seed(run.seed)
    STAGES[stage](run)


@click.command(help=__doc__)
@click.argument("stage", type=click.Choice([*STAGES, "latents", "human_latents", "export"]))
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path.home() / ".cache/zs2kit/train",
    help="Folder of checkpoints and cached data.  [default: ~/.cache/zs2kit/train]",
)
@click.option("--minutes", type=float, help="Stop after this time.")
@click.option("--steps", type=int, help="Stop after so many steps.")
@click.option("--cooldown", is_flag=True, help="Let the learning rate fall to zero over this run.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--batch", type=int, help="Samples a step in each process.  [default: the stage's own]")
@click.option("--rate", type=float, help="Learning rate.  [default: the stage's own]")
@click.option(
    "--crop",
    default=64,
    show_default=True,
    help="vae, decoder, enlarger: pixels of a crop's side, at most 128.",
)
@click.option(
    "--processes", default=1, show_default=True, help="Processes that share the work, one core each."
)
@click.option(
    "--count", default=40_000, show_default=True, help="latents, human_latents: how many there are to be."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=WEIGHTS,
    help="export: the folder to write.  [default: weights/ in the package]",
)
def main(stage: str, count: int, out: Path, **options: Any) -> None:
    """Run one stage of the training."""
    run = Run(**options)
    run.work.mkdir(parents=True, exist_ok=True)
    if stage == "export":
        export(run, out)
    elif run.processes > 1:
        (run.work / f"{stage}.rendezvous").unlink(missing_ok=True)
        spread(_work, (stage, run, count), run.processes)
    else:
        _work(0, stage, run, count)


def _work(rank: int, stage: str, run: Run, count: int) -> None:
    """One of the processes of a stage."""
    # One thread each: threads that wait for one another lose badly as soon as anything else runs on the
    # machine.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    run = replace(run, rank=rank)
    if run.processes > 1:
        path = str(run.work / f"{stage}.rendezvous")
        store = torch.distributed.FileStore(path, run.processes)  # type: ignore[attr-defined]
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=run.processes)
    if stage in ("latents", "human_latents"):
        make_latents(run, count, human=stage == "human_latents")
    else:
        train(stage, run)


if __name__ == "__main__":
    main()
