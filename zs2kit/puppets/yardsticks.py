"""What pictures of the puppets world are measured with, and how they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import UNet2DModel
from numpy.typing import NDArray
from transformers import ResNetForImageClassification

from .captions import Prompt
from .diffusion import to_tensor
from .networks import GROUPS, SIZE

Images = NDArray[np.uint8]  # (pictures, SIZE, SIZE, 3)
Points = NDArray[np.float32]  # (pictures, 18, 3)
Numbers = dict[str, float]

COLUMNS = 16  # of pictures of edits


def load_classifier(folder: Path) -> Any:
    """What reads kind, colour and place."""
    return ResNetForImageClassification.from_pretrained(folder / "classifier").eval()


def load_reader(folder: Path, name: str) -> Any:
    """The detector or the estimator."""
    return UNet2DModel.from_pretrained(folder / name).eval()


def body_heights(keypoints: Points) -> NDArray[np.float32]:
    """The extent of each figure's keypoints (pictures,) in pixels, head to ankle or hand to hand."""
    extents: NDArray[np.float32] = np.ptp(keypoints[..., :2], axis=1).max(axis=1)
    return extents


def correct(found: Points, true: Points, tolerance: float) -> NDArray[np.bool_]:
    """Which keypoints (pictures, 18) were found within `tolerance` of the figure's height."""
    distance = np.linalg.norm(found[..., :2] - true[..., :2], axis=-1)
    near: NDArray[np.bool_] = (distance <= tolerance * body_heights(true)[:, None]) & (found[..., 2] > 0)
    return near


@torch.no_grad()
def classify(network: Any, images: Images) -> NDArray[np.intp]:
    """Read kind, colour and place: (pictures, 3) numbers into `GROUPS`."""
    logits = torch.cat([network(to_tensor(images[i : i + 32])).logits for i in range(0, len(images), 32)])
    parts = torch.split(logits, [len(names) for names in GROUPS.values()], dim=1)
    return np.stack([part.argmax(dim=1).numpy() for part in parts], axis=1)


def shares(right: NDArray[np.bool_], name: str) -> Numbers:
    """The share of right answers for kind, colour and place (pictures, 3)."""
    return {f"{name}: {group}": float(share) for group, share in zip(GROUPS, right.mean(axis=0), strict=True)}


def overlap(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Intersection over union of masks of any one shape, all pixels taken together."""
    return float((found & true).sum() / (found | true).sum())


@torch.no_grad()
def reconstruct(vae: Any, images: Images) -> Images:
    """Encode and decode."""
    decoded = []
    for i in range(0, len(images), 32):
        pixels = vae.decode(vae.encode(to_tensor(images[i : i + 32])).latent_dist.mean).sample
        decoded.append(((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(decoded)


def psnr(images: Images, others: Images) -> float:
    """Mean over pictures of their PSNR in dB."""
    error = np.square((images.astype(np.float32) - others) / 255).mean(axis=(1, 2, 3))
    return float(np.mean(-10 * np.log10(error)))


def draw_prompts(pipe: Any, prompts: list[Prompt], steps: int, guidance: float) -> Images:
    """One picture of each prompt; the number of the prompt is its seed."""
    images = []
    for i in range(0, len(prompts), 10):
        batch = prompts[i : i + 10]
        generators = [torch.Generator().manual_seed(i + k) for k in range(len(batch))]
        drawn = pipe(
            [prompt.prompt for prompt in batch],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        ).images
        images.append((drawn * 255).round().astype(np.uint8))
    return np.concatenate(images)


def apart(a: NDArray[np.uint8], b: NDArray[np.uint8], figures: NDArray[np.bool_]) -> tuple[float, float]:
    """How far two pictures are apart outside of their figures, in CIELAB: pixel by pixel, and their means."""
    around = cv2.dilate(figures.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0
    one, other = (cv2.cvtColor(each.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[around] for each in (a, b))
    means = np.linalg.norm(one.mean(axis=0) - other.mean(axis=0))
    return float(np.linalg.norm(one - other, axis=1).mean()), float(means)


def interlaced(rows: NDArray[Any]) -> NDArray[Any]:
    """Several rows (rows, cells, ...) as one, four full lines at most: a line of each row in turn."""
    count = min(4, rows.shape[1] // COLUMNS)
    lines = rows[:, : count * COLUMNS].reshape(len(rows), count, COLUMNS, *rows.shape[2:])
    return lines.swapaxes(0, 1).reshape(-1, *rows.shape[2:])


def grid(images: Images, columns: int, missed: NDArray[np.bool_] | None = None) -> Images:
    """Pictures in rows, those missed in a red frame: (height, width, 3)."""
    cells = [image.copy() for image in images]
    for cell, miss in zip(cells, missed if missed is not None else [], strict=False):
        if miss:
            cv2.rectangle(cell, (1, 1), (SIZE - 2, SIZE - 2), (255, 0, 0), 3)
    cells += [np.full_like(images[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)]
    return np.concatenate(rows)


def save_picture(path: Path, image: Images) -> None:
    """Write a picture as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
