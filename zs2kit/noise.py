"""The dependency noise model: the noise of neighbouring frames is correlated (ZS2, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from zlib import crc32

import numpy as np
import torch

MAX_DIVERGENCE = math.sqrt(math.e)  # at which frames are independent


def correlation(divergence: float) -> float:
    """Return the correlation r of neighbouring frames' noise at ``divergence`` (lambda).

    The paper searches for noise whose mean(e^p (p - n)) equals lambda; for standard normals p and n
    of correlation r that mean is sqrt(e) (1 - r), so r = 1 - lambda / sqrt(e): 1 at 0, 0 at sqrt(e).
    """
    return 1 - divergence / MAX_DIVERGENCE


def draw(shape: tuple[int, ...], seed: int, purpose: str, frame: int, step: int = 0) -> torch.Tensor:
    """Return standard normal noise of ``shape`` that depends on nothing but the arguments.

    Drawn in float32 on the CPU, so that devices, data types and chunks all see the same noise.
    """
    entropy = np.random.SeedSequence([seed, crc32(purpose.encode()), frame, step])
    generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
    return torch.randn(shape, generator=generator)


def dependency_noise(
    shape: tuple[int, ...],
    frames: Iterable[int],
    divergence: float,
    seed: int,
    previous: torch.Tensor | None = None,
    *,
    purpose: str = "initial",
    step: int = 0,
) -> torch.Tensor:
    """Return noise (frames, *shape) in which every frame is N(0, I) and depends on the one before.

    n_0 = z_0, n_k = r n_(k-1) + sqrt(1 - r^2) z_k with r = `correlation` (``divergence``). ``frames``
    are positions in the clip; ``previous`` (*shape) is the noise of the frame before the first of
    them, None at the start of a shot.
    """
    r = correlation(divergence)
    chain = []
    for frame in frames:
        fresh = draw(shape, seed, purpose, frame, step)
        previous = fresh if previous is None else r * previous + math.sqrt(1 - r * r) * fresh
        chain.append(previous)
    return torch.stack(chain)  # (frames, *shape)
