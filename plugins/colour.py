"""Colour: the result has the source's colours and light."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from zs2kit import Plugin, hookimpl, option
from zs2kit.errors import UsageError

if TYPE_CHECKING:
    import torch

    from zs2kit.clip import Chunk
    from zs2kit.model import Model
    from zs2kit.schedule import Step


@dataclass(eq=False)
class Colour(Plugin):
    """Keeps the source's colours and light, except where the prompt asks for others (after ILVR).

    It divides the picture into patches. For the first half of the steps, each patch has the mean colour that
    it has in the source, so a desert stays a desert even if the prompt doesn't mention it. The other half is
    free to give a figure the colours that the prompt asks for. If nothing should change its colour, set the
    end to 1: then the finished frames are corrected, too. Smaller patches keep more of the source, even its
    shapes. Use it together with `pose`, `depth` or `edges`, which decide what is where.
    """

    follows_source = None  # patches are too large to hold what moves

    patch: float = option(
        12.5,
        "How large a patch is, in percent of the frame's shorter side; at 100, only the mean colour of "
        "the whole frame is kept.",
        minimum=1,
        maximum=100,
    )
    scale: float = option(
        1.0, "How much of the source's colours is kept; 0 keeps nothing.", minimum=0, maximum=1
    )
    start: float = option(
        0.0, "The fraction of the steps after which the plugin starts to act.", minimum=0, maximum=1
    )
    end: float = option(
        0.5,
        "The fraction of the steps after which it stops acting; at 1, the finished frames are corrected, "
        "too.",
        minimum=0,
        maximum=1,
    )

    @hookimpl
    def setup(self) -> None:
        if self.start >= self.end:
            raise UsageError(
                f"`colour.start` must be before `colour.end`, but they are {self.start:g} and {self.end:g}"
            )

    @hookimpl
    def prepare(self, chunk: Chunk, model: Model) -> None:
        if self.scale == 0:
            return
        side = self.patch / 100 * min(chunk.height, chunk.width)
        self._grid = max(1, round(chunk.height / side)), max(1, round(chunk.width / side))
        self._source = model.encode(chunk.pixels)

    @hookimpl
    def estimate(self, step: Step, estimate: torch.Tensor) -> torch.Tensor | None:
        index, count = step.index - step.first, step.count - step.first
        # The same bounds as those of ControlNets, among the steps that are taken.
        acts = self.start <= index / count and (index + 1) / count <= self.end
        if self.scale == 0 or not acts:
            return None
        # As iterative latent variable refinement does to the noisy sample (Choi et al. 2021).
        return self.scale * low_pass(self._source - estimate, self._grid)

    @hookimpl
    def decoded(self, chunk: Chunk, pixels: torch.Tensor) -> torch.Tensor | None:
        if self.scale == 0 or self.end < 1:
            return None
        source = (chunk.pixels / 2 + 0.5).to(pixels)
        corrected = pixels
        # Once would do if colours had no bounds: what is clipped in a patch, its other pixels make up for.
        for _ in range(4):
            corrected = (corrected + low_pass(source - corrected, self._grid)).clamp(0, 1)
        return self.scale * (corrected - pixels)


def low_pass(pictures: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return what is coarse in ``pictures`` (frames, channels, height, width).

    They are scaled down to ``grid``, the means of so many rows and columns of patches, and smoothly up again,
    so that the patches of the result have the same means.
    """
    height, width = pictures.shape[2:]
    rows, columns = _coarse(height, grid[0]).to(pictures), _coarse(width, grid[1]).to(pictures)
    return rows @ pictures @ columns.T


@lru_cache(maxsize=16)
def _coarse(length: int, patches: int) -> torch.Tensor:
    """The matrix (length, length) that does this along one axis, a projection: twice is the same as once."""
    import torch

    patches = min(patches, length)
    one, zero = torch.eye(length), torch.eye(patches)
    resize = torch.nn.functional.interpolate
    down = resize(one[None, None], (length, patches), mode="area")[0, 0].T  # (patches, length)
    up = resize(zero[None, None], (patches, length), mode="bicubic")[0, 0].T  # (length, patches)
    return up @ torch.linalg.inv(down @ up) @ down
