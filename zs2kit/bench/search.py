"""The paper's own way to noise of a given divergence, a search, to be held against the closed form.

It is in no edit: the closed form of `zs2kit.noise` reaches exactly what the search is after.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from zs2kit.bench.baselines import zs2
from zs2kit.bench.cases import Case
from zs2kit.clip import Chunk
from zs2kit.hookspecs import hookimpl
from zs2kit.metrics import noise_statistics
from zs2kit.model import Model
from zs2kit.noise import correlation, draw
from zs2kit.plugins import Plugin
from zs2kit.puppets.yardsticks import Images
from zs2kit.settings import option

CANDIDATES, MOVES = 10, 15  # of the paper's listing: draws of the random search, turns of the linear one


def divergence_of(noise: torch.Tensor, previous: torch.Tensor) -> float:
    """What the paper drives to lambda, and calls a KL divergence: mean(e^p (p - n)), of p = ``previous``."""
    return float((previous.exp() * (previous - noise)).mean())


def searched_noise(
    shape: tuple[int, ...],
    frames: Iterable[int],
    divergence: float,
    seed: int,
    previous: torch.Tensor | None = None,
) -> tuple[torch.Tensor, list[float]]:
    """Return noise (frames, *shape) by the listing in the paper's appendix, and each frame's weight.

    For each frame the best of `CANDIDATES` fresh draws z is taken, by how far `divergence_of` is from
    ``divergence``; then the weight a of n_k = sqrt(a) n_(k-1) + sqrt(1 - a) z climbs from .1 for as long as
    it comes no further off, and steps back by ever less where it does. So neighbours correlate by sqrt(a).
    The first frame is a draw, of weight 0. The listing lets the last turn climb above 1, and then all that
    follows is NaN; here such a weight is used as 1, and returned as it was found.
    """
    chain, weights = [], []
    for frame in frames:
        if previous is None:
            previous, weight = draw(shape, seed, "initial", frame), 0.0
        else:
            draws = [draw(shape, seed, "search", frame, turn) for turn in range(CANDIDATES)]
            off, fresh = math.inf, draws[0]
            for each in draws:
                if (error := abs(divergence_of(each, previous) - divergence)) < off:
                    off, fresh = error, each
            weight, move = 0.1, 0.1
            for _ in range(MOVES):
                error = abs(divergence_of(_blend(weight, previous, fresh), previous) - divergence)
                if error <= off:
                    weight, off = weight + move, error
                else:
                    weight, move = weight - 0.8 * move, 0.2 * move
            previous = _blend(min(weight, 1.0), previous, fresh)
        chain.append(previous)
        weights.append(weight)
    return torch.stack(chain), weights


def _blend(weight: float, previous: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
    parts = torch.tensor([weight, 1 - weight]).sqrt()  # NaN of what is negative, as in the listing
    return parts[0] * previous + parts[1] * fresh


@dataclass(eq=False)
class Searched(Plugin):
    """A plugin that starts from searched noise."""

    divergence: float = option(0.01, "What the search is after.")
    seed: int = option(0, "Of the draws.")

    def __post_init__(self) -> None:
        self._last: torch.Tensor | None = None

    @hookimpl
    def initial_latents(self, chunk: Chunk, noise: torch.Tensor, scheduler: Any) -> tuple[torch.Tensor, int]:
        """Search the noise of the chunk's frames, from that of the frame before them on."""
        found, _ = searched_noise(
            tuple(noise.shape[1:]), chunk.indices, self.divergence, self.seed, self._last
        )
        self._last = found[-1]
        return found.to(noise) * scheduler.init_noise_sigma, 0


def searched(model: Model, case: Case, steps: int, *, divergence: float, **settings: Any) -> Images:
    """zs2kit, with noise that is searched for."""
    plugin = Searched(divergence, case.seed)
    return zs2(model, case, steps, edited=False, plugins=[plugin], **settings)


def table(shapes: Iterable[tuple[int, ...]], divergences: Iterable[float], frames: int = 24) -> str:
    """Markdown: where the search lands, for noise of several shapes, and what it makes of the variance."""
    divergences = list(divergences)
    lines = ["| numbers a frame | divergence | weights above 1 | correlation | in closed form | variance |"]
    lines.append("|---" * 6 + "|")
    for shape in shapes:
        for divergence in divergences:
            noise, weights = searched_noise(shape, range(frames), divergence, seed=0)
            found, above = noise_statistics(noise.numpy()), sum(weight > 1 for weight in weights)
            lines.append(
                f"| {math.prod(shape)} | {divergence:g} | {above} of {frames - 1} "
                f"| {found['neighbour correlation']:.3f} | {correlation(divergence):.3f} "
                f"| {found['variance']:.3f} |"
            )
    return "\n".join(lines)
