"""Metrics of an edited clip, measured in one pass. docs/metrics.md says what each number means.

Pictures here are float32 RGB in [0, 1], (height, width, 3). A flow from a to b is (height, width, 2) in
pixels, x before y: what is at a(p) is found at b(p + flow(p)).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from zs2kit.clip import Clip
from zs2kit.errors import ClipError, ModelError, UsageError, first_line, notify
from zs2kit.flow import SMALLEST, visible, warp
from zs2kit.flow import flow as flow_of_bytes

Picture = NDArray[np.float32]

DYNAMIC_RATE = 8.0  # frames per second at which VBench decides whether something moves
WINDOW = 11  # the side of structural similarity's window, in pixels
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of ms-ssim's scales, finest first


class Features(Protocol):
    """A model that turns pictures into features, and maybe prompts into features of the same space."""

    name: str

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(height, width, 3) RGB -> (channels,)."""

    def text(self, prompt: str) -> NDArray[np.float32] | None:
        """A prompt -> (channels,); None if the model takes no text."""


class TransformersFeatures:
    """The features of a transformers model: CLIP, which also takes text, DINO or a similar one.

    name: a folder or a hub name. device: as torch calls it.

    Weights are loaded from safetensors only. Raises `ModelError` if the model can't be loaded.
    """

    def __init__(self, name: str | Path, device: str = "cpu") -> None:
        import transformers

        from zs2kit.quiet import quiet

        try:
            with quiet():
                self.model: Any = transformers.AutoModel.from_pretrained(name, use_safetensors=True)
                self.processor: Any = transformers.AutoImageProcessor.from_pretrained(name)
                self.takes_text = hasattr(self.model, "get_text_features")
                self.tokenizer: Any = (
                    transformers.AutoTokenizer.from_pretrained(name) if self.takes_text else None
                )
        except Exception as error:  # loaders raise anything for a damaged or missing model
            raise ModelError(f"{name}: can't be loaded for its features: {first_line(error)}") from error
        self.model.eval().to(device)
        self.name = str(self.model.config.model_type)

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return CLIP's projected features, or the class token of other models."""
        import torch

        pixels = self.processor(images=image, return_tensors="pt").to(self.model.device)
        with torch.no_grad():
            if self.takes_text:
                features = self.model.get_image_features(**pixels).pooler_output[0]
            else:
                features = self.model(**pixels).last_hidden_state[0, 0]
        return features.float().cpu().numpy()  # type: ignore[no-any-return]

    def text(self, prompt: str) -> NDArray[np.float32] | None:
        """Return CLIP's projected features of a prompt; None for models that don't take text."""
        import torch

        if not self.takes_text:
            return None
        most = min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)
        ids = self.tokenizer(prompt, verbose=False)["input_ids"]
        if cut := ids[most - 1 : -1]:  # the last token that is read marks the end
            notify(
                "prompt-cut",
                f"{self.name} reads {most - 2} tokens of a prompt, and the rest has no effect: "
                f"'{self.tokenizer.decode(cut)}'",
            )
        tokens = self.tokenizer(prompt, truncation=True, max_length=most, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        with torch.no_grad():
            return self.model.get_text_features(**tokens).pooler_output[0].float().cpu().numpy()  # type: ignore[no-any-return]


# Name of a metric -> its unit, and which way is better; docs/metrics.md says what each is
UNITS: dict[str, tuple[str, str]] = {
    "temporal flickering": ("0 to 1", "higher is steadier"),
    "neighbour psnr": ("dB", "higher is steadier"),
    "neighbour ssim": ("0 to 1", "higher is steadier"),
    "neighbour ms-ssim": ("0 to 1", "higher is steadier"),
    "luma drift": ("0 to 1", "lower is better"),
    "colour drift": ("Delta E", "lower is better; 2 can just be seen"),
    "motion": ("pixels", "best as in the source"),
    "dynamic": ("0 or 1", "1 moves"),
    "seam score": ("times", "best near 1"),
    "warp error": ("squared", "lower is steadier"),
    "warp ssim": ("0 to 1", "higher is steadier"),
    "motion alignment": ("pixels", "best near 0"),
    "temporal amplification": ("times", "best near 1"),
    "background psnr": ("dB", "higher is better"),
    "background ssim": ("0 to 1", "higher is better"),
    "background mse": ("squared", "lower is better"),
}


def verdict(numbers: Mapping[str, float]) -> str:
    """Return a sentence that says how steady a result is by its metrics, and whether it moves."""
    changes = numbers.get("temporal amplification")
    if changes is not None:
        times = math.sqrt(changes)  # it is of squares
        if times < 0.8:
            return (
                f"it changes {times:.2g} times as much as its source from frame to frame: stiller than its "
                "source"
            )
        if times <= 1.25:
            return "it changes about as much as its source from frame to frame: steady"
        return f"it changes {times:.2g} times as much as its source from frame to frame: it flickers"
    if numbers.get("dynamic") == 0:
        return "it hardly moves, so the numbers on steadiness say little"
    return "it moves; to see whether it flickers, compare it with its source: `source`"


def measure(
    result: Clip,
    source: Clip | None = None,
    *,
    region: Clip | None = None,
    chunk_size: int | None = None,
    features: Sequence[Features] = (),
    prompt: str | None = None,
    source_prompt: str | None = None,
) -> dict[str, float]:
    """Return the metrics of ``result`` by name. Some need a source or a region.

    source: the clip that was edited.
    region: a clip of masks, white where the edit should change something.
    chunk_size: that of the edit, to look for seams.
    features: models such as `TransformersFeatures`. The names of their metrics begin with the model's name,
    which is numbered if several models have the same name.
    prompt, source_prompt: what the result should show, and what the source shows, for models that take text.

    Iterates over the clips. Raises `ClipError` if they differ in size or length, or have no frames.
    """
    for other in (source, region):
        if other is not None and (other.width, other.height) != (result.width, result.height):
            raise ClipError(
                f"the clips are {result.width}x{result.height} and {other.width}x{other.height} pixels",
                "give clips of the same size",
            )
    values: dict[str, list[float]] = {}
    embedded: list[list[NDArray[np.float32]]] = [[] for _ in features]
    stride = max(1, round(float(result.rate) / DYNAMIC_RATE))
    has_flow = min(result.width, result.height) >= SMALLEST
    first: Picture | None = None
    before: tuple[Picture, Picture | None] | None = None
    sampled: Picture | None = None
    moves: list[float] = []

    def add(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    index = 0
    for index, (image, original, white) in enumerate(_together(result, source, region), 1):
        now, was = to_float(image), None if original is None else to_float(original)
        for each, known in zip(features, embedded, strict=True):
            known.append(each.image(image))
        if first is None:
            first = now
        else:
            add("luma drift", abs(luma(now).mean() - luma(first).mean()))
            add("colour drift", colour_difference(now, first))
        if was is not None and white is not None:
            outside = white.mean(axis=2) < 127.5
            for name, value in background(now, was, outside).items():
                add(name, value)
        if before is not None:
            for name, value in _pair(before, (now, was), has_flow).items():
                add(name, value)
            if chunk_size:
                step = float(np.abs(now - before[0]).mean())
                add("seam" if (index - 1) % chunk_size == 0 else "no seam", step)
        if has_flow and (index - 1) % stride == 0:
            if sampled is not None:
                moves.append(top_motion(flow(sampled, now)))
            sampled = now
        before = (now, was)
    if not index:
        raise ClipError("there is no frame to measure")
    numbers = {name: float(np.mean(each)) for name, each in values.items()}
    for position, (each, known) in enumerate(zip(features, embedded, strict=True)):
        alike = sum(other.name == each.name for other in features[:position])
        name = f"{each.name} {alike + 1}" if alike else each.name
        stacked = np.stack(known)
        numbers |= {f"{name} {key}": value for key, value in consistency(stacked).items()}
        texts = [None if text is None else each.text(text) for text in (prompt, source_prompt)]
        numbers |= {f"{name} {key}": value for key, value in _alignment(stacked, *texts).items()}
        if f"{name} text" in numbers and "warp ssim" in numbers:
            numbers[f"{name} q-edit"] = numbers["warp ssim"] * numbers[f"{name} text"]
    return {"frames": float(index), **_summed_up(numbers, moves, result)}


def _together(*clips: Clip | None) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the clips' pictures side by side; raise `ClipError` if one clip ends before another."""
    given = [clip for clip in clips if clip is not None]
    for index, frames in enumerate(zip_longest(*given)):
        if None in [None if frame is None else 0 for frame in frames]:
            raise ClipError(f"one clip has {index} frames and another more", "give clips of the same length")
        images = iter(frame.image for frame in frames)
        yield tuple(None if clip is None else next(images) for clip in clips)  # type: ignore[misc]


def _pair(
    before: tuple[Picture, Picture | None], after: tuple[Picture, Picture | None], has_flow: bool
) -> dict[str, float]:
    """Return the metrics of two neighbouring frames, each given together with the source's frame."""
    (a, source_a), (b, source_b) = before, after
    numbers = {
        "temporal flickering": float(1 - np.abs(a - b).mean()),
        "neighbour psnr": psnr(a, b),
        "neighbour ssim": ssim(a, b),
    }
    if min(a.shape[:2]) >= WINDOW * 2 ** (len(SCALES) - 1):
        numbers["neighbour ms-ssim"] = ms_ssim(a, b)
    if source_a is None or source_b is None:
        return numbers
    numbers["energy"] = float(np.square(b - a).mean())
    numbers["source energy"] = float(np.square(source_b - source_a).mean())
    if has_flow:
        forward, backward = flow(source_a, source_b), flow(source_b, source_a)
        seen = visible(forward, backward)
        if seen.any():
            numbers["warp error"] = warp_error(a, b, forward, seen)
        numbers["warp ssim"] = ssim(warp(a, backward), b)
        numbers["motion alignment"] = -float(np.linalg.norm(flow(a, b) - forward, axis=2).mean())
    return numbers


def _summed_up(numbers: dict[str, float], moves: list[float], result: Clip) -> dict[str, float]:
    """Return the metrics of the whole clip, from the means over frames and pairs of frames."""
    energy, source_energy = numbers.pop("energy", None), numbers.pop("source energy", None)
    if energy is not None and source_energy:
        numbers["temporal amplification"] = energy / source_energy
    seam, elsewhere = numbers.pop("seam", None), numbers.pop("no seam", None)
    if seam is not None and elsewhere:
        numbers["seam score"] = seam / elsewhere
    if moves:
        threshold = 6 * min(result.height, result.width) / 256
        moving = sum(move > threshold for move in moves)
        numbers["motion"] = float(np.mean(moves))
        numbers["dynamic"] = float(moving >= max(1, round(4 * (len(moves) + 1) / 16)))
    return numbers


def to_float(image: NDArray[np.uint8]) -> Picture:
    """Bytes -> float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(255)


def luma(picture: Picture) -> NDArray[np.float32]:
    """(height, width, 3) -> (height, width), by BT.601's weights."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]


def psnr(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio in dB; at most 100, the value for equal pictures."""
    return float(min(100.0, -10 * np.log10(max(float(np.square(a - b).mean()), 1e-10))))


def ssim(a: Picture, b: Picture) -> float:
    """Structural similarity, mean over pixels and channels (Wang et al. 2004).

    The window is Gaussian, 11x11 pixels with sigma 1.5. As in their code, only places count where the whole
    window is inside the picture.
    """
    structure, brightness = similarity(a, b)
    return float(_inner(structure * brightness).mean())


def ms_ssim(a: Picture, b: Picture) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003), for sides of 176 pixels or more.

    There are five scales, each half the size of the one before; brightness counts only at the coarsest.
    Negative structural similarity counts as 0.
    """
    product = 1.0
    for scale, weight in enumerate(SCALES, 1):
        structure, brightness = similarity(a, b)
        if scale == len(SCALES):
            structure *= brightness
        product *= max(0.0, float(_inner(structure).mean())) ** weight
        height, width = a.shape[0] // 2, a.shape[1] // 2
        a, b = (
            each[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).mean(axis=(1, 3))
            for each in (a, b)
        )
    return product


def similarity(a: Picture, b: Picture) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How similar structure (with contrast) and brightness are around each pixel: (height, width, 3) each."""

    def blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return cv2.GaussianBlur(x, (WINDOW, WINDOW), 1.5, borderType=cv2.BORDER_REFLECT)  # type: ignore[return-value]

    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return structure, (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)


def _inner(similar: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cut off the edge, where the window lies partly outside; smaller pictures stay whole."""
    edge = WINDOW // 2
    return similar[edge:-edge, edge:-edge] if min(similar.shape[:2]) >= WINDOW else similar


def background(result: Picture, source: Picture, kept: NDArray[np.bool_]) -> dict[str, float]:
    """How well the pixels to be ``kept`` (height, width) were kept: PSNR, SSIM and mean squared error there.

    Empty if all pixels were to change. For SSIM the others are replaced by the source's, so that they don't
    count at the border either.
    """
    if not kept.any():
        return {}
    structure, brightness = similarity(np.where(kept[..., None], result, source), source)
    return {
        "background psnr": psnr(result[kept], source[kept]),
        "background ssim": float((structure * brightness)[kept].mean()),
        "background mse": float(np.square(result[kept] - source[kept]).mean()),
    }


def to_lab(picture: Picture) -> Picture:
    """sRGB -> CIE L*a*b* under D65, in which distances are the Delta E of 1976."""
    linear = np.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)
    # From sRGB itself, OpenCV converts by a coarse table, which is off by up to half a unit.
    return cv2.cvtColor(linear.astype(np.float32), cv2.COLOR_LRGB2LAB)  # type: ignore[return-value]


def colour_difference(a: Picture, b: Picture) -> float:
    """CIE 1976 Delta E of the mean colours: 2 is just visible, 100 is black against white."""
    first, second = (to_lab(each).mean(axis=(0, 1)) for each in (a, b))
    return float(np.linalg.norm(first - second))


def flow(a: Picture, b: Picture) -> NDArray[np.float32]:
    """Dense optical flow from ``a`` to ``b``; see `zs2kit.flow`."""
    return flow_of_bytes(*((each * 255).round().astype(np.uint8) for each in (a, b)))


def warp_error(a: Picture, b: Picture, forward: NDArray[np.float32], seen: NDArray[np.bool_]) -> float:
    """Mean squared difference between ``a`` and ``b`` warped back along ``forward``, where ``seen``.

    The warping error of Lai et al. (2018). At least one pixel must be seen.
    """
    return float(np.square(warp(b, forward) - a)[seen].mean())


def top_motion(motion: NDArray[np.float32]) -> float:
    """Mean length of the largest twentieth of a flow, in pixels (VBench's dynamic degree)."""
    lengths = np.sort(np.linalg.norm(motion, axis=2), axis=None)
    return float(lengths[-max(1, round(0.05 * lengths.size)) :].mean())


def consistency(features: NDArray[np.float32]) -> dict[str, float]:
    """How similar frames are by their features (frames, channels): three definitions in use, all cosines.

    ``all pairs`` is as in TGVE and RAVE, ``neighbours`` as in FateZero and V2VBench, and ``subject`` as in
    VBench, which compares each frame with the one before and with the first. Empty for a single frame.
    """
    if len(features) < 2:
        return {}
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    count, total = len(unit), np.square(unit.sum(axis=0, dtype=np.float64)).sum()
    near, to_first = (unit[1:] * unit[:-1]).sum(axis=1), unit[1:] @ unit[0]
    subject = (near.clip(min=0) + to_first.clip(min=0)) / 2
    return {
        "all pairs": float((total - count) / (count * (count - 1))),  # the whole matrix but its diagonal
        "neighbours": float(near.mean()),
        "subject": float(subject.mean()),
    }


def _alignment(
    images: NDArray[np.float32], text: NDArray[np.float32] | None, source_text: NDArray[np.float32] | None
) -> dict[str, float]:
    """How well frames show a prompt, and the share of frames that show it better than the source's prompt."""
    if text is None:
        return {}
    shown = alignment(images, text)
    numbers = {"text": float(shown.mean())}
    if source_text is not None:
        numbers["frame accuracy"] = float((shown >= alignment(images, source_text)).mean())
    return numbers


def alignment(images: NDArray[np.float32], text: NDArray[np.float32]) -> NDArray[np.float32]:
    """CLIP-T: 100 times the cosines of frames' features (frames, channels) and a prompt's (channels,)."""
    unit = images / np.linalg.norm(images, axis=1, keepdims=True)
    cosines: NDArray[np.float32] = 100 * unit @ (text / np.linalg.norm(text))
    return cosines


def frechet_distance(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Frechet distance of normals fitted to two sets of features (samples, channels), as in FID and FVD.

    Raises `UsageError` if they don't have the same channels, or if one has fewer than two samples.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise UsageError(
            f"features of shapes {a.shape} and {b.shape} can't be compared",
            "give (samples, channels) of one model, with two samples or more",
        )
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of the square root of a matrix is the sum of the square roots of its eigenvalues.
    eigenvalues = np.linalg.eigvals(np.atleast_2d(cov_a) @ np.atleast_2d(cov_b))
    root = np.sqrt(eigenvalues.real.clip(min=0)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(np.atleast_2d(cov_a + cov_b)) - 2 * root)


def noise_statistics(noise: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Return the variance of noise (frames, channels, height, width), and its correlations in time and space.

    variance: models are trained on 1. spatial correlation: of pixels a fixed displacement apart within a
    frame, whose opposite edges count as neighbours; the largest absolute value over all displacements. White
    noise of n numbers has about 3 / sqrt(n). neighbour correlation: of the same place in neighbouring frames;
    missing for a single frame. All three are taken around the mean of all numbers.
    """
    around: NDArray[np.float64] = noise.astype(np.float64) - noise.mean(dtype=np.float64)
    numbers = {"variance": float(np.square(around).mean())}
    power = np.square(np.abs(np.fft.rfft2(around))).mean(axis=(0, 1))
    products = np.fft.irfft2(power, around.shape[2:])  # by the Wiener-Khinchin theorem
    numbers["spatial correlation"] = float(
        np.abs(products.flat[1:]).max(initial=0) / max(products[0, 0], 1e-30)
    )
    if len(around) > 1:
        a, b = around[:-1], around[1:]
        together = float(np.sqrt(np.square(a).mean() * np.square(b).mean()))
        numbers["neighbour correlation"] = float((a * b).mean()) / max(together, 1e-30)
    return numbers
