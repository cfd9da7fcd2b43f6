"""Flow momentum: each denoising step aims at a running average of pictures along the source's motion.

Like dependency noise and temporal momentum attention, it is a recursion that looks back one frame. Rerender A
Video (Yang et al. 2023) also fuses warped pictures, but between keyframes and in several passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache, reduce

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from zs2kit.carry import Carry
from zs2kit.clip import resized
from zs2kit.flow import SMALLEST, flow, visible
from zs2kit.memory import copied
from zs2kit.model import Model

MOMENTUM = 0.95  # the default for edits
# It acts at these shares of all steps. The early ones settle what figures look like, the late ones how they
# move; the steps after the last one draw details anew. Each one costs the VAE one decoding and two encodings.
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# How far, in levels of 255, the source's brightness may be from its own average and still count as the same
TOLERANCE = 10
AGREEMENT = 24  # the same for details of the source and of finished frames
# Of enlarged frames a few are enough; their edges may be off by this many pixels, half of one before
ENLARGED_MOMENTUM, REACH = 0.5, 2

Found = tuple[NDArray[np.float32], NDArray[np.float32]]  # see `_find`
Flow = tuple[torch.Tensor, torch.Tensor]  # a grid for `_moved`; how reliable the flow is, (height, width)


class Averages:
    """Running averages of consecutive pictures, along the motion of a source.

    images: (frames, height, width, 3) RGB uint8, the source at the size of the pictures, or smaller: coarser
    flows take less time. The averages are read from ``carry`` and written to ``following`` for the next
    frames. Flows are found in threads; everything else is done on ``device``.
    """

    def __init__(
        self,
        momentum: float,
        images: NDArray[np.uint8],
        carry: Carry,
        following: Carry,
        device: torch.device,
    ) -> None:
        self.momentum = momentum
        self.images = images
        self.carry = carry
        self.following = following
        # On other devices, torch has neither bicubic sampling nor borders.
        self.device = device if device.type == "cuda" else torch.device("cpu")
        self._last = self._carried("flow/source")  # the source's last frame before, and its average
        before = [] if self._last is None else [_to_image(self._last[0])]
        self._found: list[Future[Found] | None] = [None] * (not before)
        with_flow = min(images.shape[1:3]) >= SMALLEST
        threads = ThreadPoolExecutor(torch.get_num_threads())
        for a, b in zip([*before, *images], [*before, *images][1:], strict=False):
            self._found.append(threads.submit(_find, a, b) if with_flow else None)
        threads.shutdown(wait=False)

    @cached_property
    def flows(self) -> list[Flow | None]:
        """The flow from each frame to the one before it; None where there is none."""
        flows: list[Flow | None] = []
        last = self._last
        for image, future in zip(self.images, self._found, strict=True):
            source = copied(torch.from_numpy(image), self.device).permute(2, 0, 1).float()
            found, average = None, source
            if future is not None and last is not None:
                motion, seen = (copied(torch.from_numpy(each), self.device) for each in future.result())
                grid = grid_of(motion)
                moved = _moved(last[1], grid)
                # Where the source's average lags behind the source, as in a fade, the result's would lag too.
                # The blur evens out resampled edges: these are too light on one side, too dark on the other.
                lag = blurred(moved - source, 2.5).abs().amax(dim=0)
                sure = seen * _small(lag, TOLERANCE) * _small(_apart(moved, source), AGREEMENT)
                found = grid, sure
                average = _mixed(source, moved, self.momentum * sure)
            last = torch.stack([source, average])
            flows.append(found)
        assert last is not None
        self.following["flow/source"] = last
        return flows

    def use(self, carry: Carry, following: Carry) -> None:
        """From now on, read averages from ``carry`` and write them to ``following``."""
        self.carry, self.following = carry, following

    def rest(self) -> None:
        """Wait for the flows, and move them to host memory while other chunks have their turn."""
        self.flows = [it and (it[0].cpu(), it[1].cpu()) for it in self.flows]

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the finished frames (frames, 3, height, width) in [0, 1] averaged once more.

        No later step can repair what the flow gets wrong here. So v (see `average`) is 0 where a frame shows
        something other than the average: small flickers disappear, but a hand that has moved stays there.
        """
        return self.average("flow/finished", pixels, AGREEMENT / 255)

    def average(
        self, key: str, pixels: torch.Tensor, agreement: float = math.inf, reach: int | None = None
    ) -> torch.Tensor:
        """Return the running average of ``pixels`` (frames, 3, height, width), float32.

        y_0 = x_0, y_k = v m W(y_(k-1)) + (1 - v m) x_k, where W moves a picture along the flow, m is the
        momentum, and v is 1 where the flow is reliable and x_k is within ``agreement`` of W(y_(k-1)). With
        ``reach``, W(y_(k-1)) is first clamped to the colours that x_k has within so many pixels.
        """
        last = self._carried(key)
        averages = []
        for frame, found in zip(pixels.to(self.device), self.flows, strict=True):
            average = frame
            if found is not None and last is not None:
                grid, weight = _enlarged(found, frame) if found[1].shape != frame.shape[1:] else found
                grid, weight = grid.to(self.device), weight.to(self.device)
                moved = _moved(last, grid)
                if reach is not None:
                    moved = _clamped(moved, frame, reach)
                if agreement < math.inf:
                    weight = weight * _small(_apart(moved, frame), agreement)
                average = _mixed(frame, moved, self.momentum * weight)
            last = average
            averages.append(average)
        averaged = torch.stack(averages)
        self.following[key] = averaged[-1].clone()
        return averaged.to(pixels.device)

    def _carried(self, key: str) -> torch.Tensor | None:
        tensor = self.carry.get(key)
        return None if tensor is None else tensor.to(self.device)


class FlowMomentum(Averages):
    """The running averages of one chunk's pictures, one for each step in which flow momentum acts.

    images: the source as the model gets it. The flows are found while the device takes the first steps.
    """

    def __init__(
        self, momentum: float, model: Model, images: NDArray[np.uint8], carry: Carry, following: Carry
    ) -> None:
        super().__init__(momentum, images, carry, following, model.device)
        self.model = model

    def __call__(self, index: int, count: int, denoised: torch.Tensor) -> torch.Tensor:
        """Average ``denoised`` (frames, channels, height, width), the step's estimate of the final latents.

        Returns them unchanged in steps where flow momentum doesn't act. count: how many steps there are.
        """
        if not acts(index, count):
            return denoised
        # A tiny VAE leaves some flicker, which the next average removes. The last average has no next one.
        vae = self.model if index == max(_acting(count)) else self.model.estimates
        pixels = vae.decode(denoised)
        averaged = self.average(f"flow/{index}", pixels)
        # Only the difference is added, so that the VAE's losses don't add up.
        return denoised + vae.encode(averaged * 2 - 1) - vae.encode(pixels * 2 - 1)


def settle(pixels: torch.Tensor, sources: Iterable[NDArray[np.uint8]], carry: Carry) -> torch.Tensor:
    """Return enlarged pictures (frames, 3, height, width) in [0, 1], averaged along the source's motion.

    sources: the source's pictures (any height, any width, 3); the motion is found at half the size of the
    enlarged ones. ``carry``: what the next frames of the shot must know; it is empty at the start.
    """
    half = (max(1, pixels.shape[2] // 2), max(1, pixels.shape[3] // 2))
    images, following = np.stack([resized(each, half) for each in sources]), Carry()
    averages = Averages(ENLARGED_MOMENTUM, images, carry, following, torch.device("cpu"))
    settled = averages.average("flow/enlarged", pixels, reach=REACH)
    carry.update(following)
    return settled


def acts(index: int, count: int) -> bool:
    """Whether flow momentum acts in step ``index`` of ``count``."""
    return index in _acting(count)


def _acting(count: int) -> set[int]:
    return {min(round(share * count), count - 1) for share in SHARES}


def grid_of(motion: torch.Tensor) -> torch.Tensor:
    """Return where a flow (height, width, 2) leads to, in the form that torch's `grid_sample` takes."""
    height, width = motion.shape[:2]
    rows, columns = (torch.arange(size, device=motion.device) for size in (height, width))
    x, y = columns + motion[..., 0], rows[:, None] + motion[..., 1]
    return torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)[None]


def _enlarged(found: Flow, picture: torch.Tensor) -> Flow:
    """Return a flow at the size of a ``picture`` (channels, height, width) that is larger."""
    grid, sure = found
    size = (picture.shape[1], picture.shape[2])
    still, large = (grid_of(torch.zeros(*each, 2, device=grid.device)) for each in (sure.shape, size))
    shift = F.interpolate((grid - still).permute(0, 3, 1, 2), size, mode="bilinear").permute(0, 2, 3, 1)
    return large + shift, F.interpolate(sure[None, None], size, mode="bilinear")[0, 0]


def _moved(picture: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Return ``picture`` (channels, height, width) moved along a flow that leads to it.

    Linear interpolation would blur it a little each time. Cubic interpolation overshoots next to edges, a
    little more each time, so its result is clipped to the darkest and lightest values around each pixel.
    """
    low, high = sampled(torch.cat(_bounds(picture, 1)), grid, "nearest").chunk(2)
    return sampled(picture, grid, "bicubic").clamp(low, high)


def sampled(picture: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    """Return ``picture`` (channels, height, width) sampled at the places of a ``grid`` from `grid_of`."""
    return F.grid_sample(picture[None], grid, mode, "border", align_corners=False)[0]


def _clamped(picture: torch.Tensor, frame: torch.Tensor, reach: int) -> torch.Tensor:
    """Return ``picture``, clamped to what ``frame`` has within ``reach`` pixels: (channels, height, width).

    What has moved away then leaves no trace. Karis, "High-quality temporal supersampling" (2014), does so.
    """
    return picture.clamp(*_bounds(frame, reach))


def _bounds(picture: torch.Tensor, reach: int) -> list[torch.Tensor]:
    """Return the lowest and the highest values within ``reach`` pixels: each (channels, height, width)."""
    wide, found = F.pad(picture[None], (reach,) * 4, "replicate")[0], []
    for bound in (torch.minimum, torch.maximum):  # quicker than torch's pooling
        bounds = wide
        for dim in (1, 2):
            size = picture.shape[dim]
            bounds = reduce(bound, (bounds.narrow(dim, start, size) for start in range(2 * reach + 1)))
        found.append(bounds)
    return found


def _apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return how much two pictures (channels, height, width) differ around each pixel: (height, width)."""
    return blurred((a - b).abs().amax(dim=0, keepdim=True), 1.5)[0]


def blurred(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (channels, height, width) by a Gaussian."""
    kernel = _gaussian(sigma, picture.device)
    reach = len(kernel) // 2
    wide = F.pad(picture[:, None], (reach,) * 4, "reflect")
    return F.conv2d(F.conv2d(wide, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]


@lru_cache
def _gaussian(sigma: float, device: torch.device) -> torch.Tensor:
    reach = round(4 * sigma)
    distances = torch.arange(-reach, reach + 1, device=device)
    weights = torch.exp(-distances.square() / (2 * sigma**2))
    return weights / weights.sum()


def _small(apart: torch.Tensor, bound: float) -> torch.Tensor:
    """Return 1 where ``apart`` is up to ``bound``, falling linearly to 0 at twice that."""
    return (2 - apart / bound).clamp(0, 1)


def _mixed(frame: torch.Tensor, moved: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * moved + (1 - weight) * frame


def _to_image(source: torch.Tensor) -> NDArray[np.uint8]:
    return source.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def _find(before: NDArray[np.uint8], now: NDArray[np.uint8]) -> Found:
    """Return the flow from ``now`` back to ``before``, (height, width, 2), and how reliable it is."""
    backward, forward = flow(now, before), flow(before, now)
    seen = cv2.GaussianBlur(visible(backward, forward).astype(np.float32), (0, 0), 1.0)
    return backward, np.asarray(seen, np.float32)
