"""Colour: what is drawn has the source's colours and light."""

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
    """Keeps the source's colours and light where the prompt asks for no others (after ILVR).

    The picture is divided into patches, and until half of the steps are done, each patch that is drawn has
    the mean colour of the source's. So a desert stays a desert, though the prompt doesn't name it, and the
    steps after that still give figures the colours that the prompt asks for. Where nothing is to change
    its colour, set the end to 1: the finished frames then have the source's colours too. Smaller patches hold
    more of the source, down to its shapes. It goes well with `pose`, `depth` and `edges`, which say what is
    where.
    """

    follows_source = None  # patches are too large to hold what moves

    patch: float = option(
        12.5,
        "How large the patches are, in percent of the frame's shorter side. 100 is only the light of the "
        "frame as a whole; the smaller, the more of the source remains.",
        minimum=1,
        maximum=100,
    )
    scale: float = option(
        1.0, "How much of the source's colours is taken; 0 is nothing.", minimum=0, maximum=1
    )
    start: float = option(0.0, "Share of the steps after which it begins.", minimum=0, maximum=1)
    end: float = option(
        0.5,
        "Share of the steps after which it ends. The steps after that may give things colours of their own; "
        "at 1 none may, and the finished frames are corrected as well.",
        minimum=0,
        maximum=1,
    )

    @hookimpl
    def setup(self) -> None:
        if self.start >= self.end:
            raise UsageError(
                f"colour: start must be less than end, but they are {self.start:g} and {self.end:g}",
                "set both, such as colour.start=0 and colour.end=0.5",
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
        # The same bounds as those of ControlNets.
        acts = self.start <= step.index / step.count and (step.index + 1) / step.count <= self.end
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
