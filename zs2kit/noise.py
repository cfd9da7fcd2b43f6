"""The dependency noise model: the noise of neighbouring frames is correlated (ZS2, section 3.2).

There are other noise models here, for comparison. In all of them, each frame's noise is standard normal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np
import torch

MAX_DIVERGENCE = math.sqrt(math.e)  # where frames are independent
NOISES = ("dependency", "orbit", "mixed", "progressive", "independent", "shared")
_STILL = 0.8  # the share of an orbit's noise that stays; in trials, less of it drifted more, more moved less
# PYoCo's progressive noise, n_k = (a n_(k-1) + z_k) / sqrt(1 + a^2), at a = 2, which its authors found best
_PROGRESSIVE = (1 - 2 / math.sqrt(5)) * MAX_DIVERGENCE


def correlation(divergence: float) -> float:
    """Return the correlation r of neighbouring frames' noise at ``divergence`` (lambda).

    The paper searches for noise n whose mean(e^p (p - n)) equals lambda, where p is the noise before it. For
    standard normals with correlation r that mean is sqrt(e) (1 - r), so r = 1 - lambda / sqrt(e): 1 at
    lambda = 0, and 0 at lambda = sqrt(e).
    """
    return 1 - divergence / MAX_DIVERGENCE


def draw(shape: tuple[int, ...], seed: int, purpose: str, frame: int, step: int = 0) -> torch.Tensor:
    """Return standard normal noise of ``shape`` that depends only on the arguments.

    It is float32 and is drawn on the CPU, so it is the same for all devices, data types and chunk sizes.
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

    n_0 = z_0, n_k = r n_(k-1) + sqrt(1 - r^2) z_k with r = `correlation` (``divergence``). ``frames`` are
    positions in the clip; ``previous`` (*shape) is the noise of the frame before them, None at the start of a
    shot.
    """
    r = correlation(divergence)
    chain = []
    for frame in frames:
        fresh = draw(shape, seed, purpose, frame, step)
        previous = fresh if previous is None else r * previous + math.sqrt(1 - r * r) * fresh
        chain.append(previous)
    return torch.stack(chain)  # (frames, *shape)


def mixed_noise(
    shape: tuple[int, ...],
    frames: Iterable[int],
    divergence: float,
    seed: int,
    shared: torch.Tensor,
    *,
    purpose: str = "initial",
    step: int = 0,
) -> torch.Tensor:
    """Return noise (frames, *shape) that shares a part among all frames of a shot.

    n_k = sqrt(r) s + sqrt(1 - r) z_k with r = `correlation` (``divergence``) and s = ``shared`` (*shape):
    any two frames have correlation r, however far apart (PYoCo's mixed noise, Ge et al. 2023).
    """
    r = correlation(divergence)
    fresh = torch.stack([draw(shape, seed, purpose, frame, step) for frame in frames])
    return math.sqrt(r) * shared + math.sqrt(1 - r) * fresh


def orbit_noise(
    shape: tuple[int, ...],
    frames: Sequence[int],
    divergence: float,
    seed: int,
    state: torch.Tensor | None = None,
    *,
    purpose: str = "initial",
    step: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise (frames, *shape) that moves round a circle at constant speed, and its state at the end.

    n_k = sqrt(s) c + sqrt(1 - s) (cos(k w) a + sin(k w) b), where c, a, b ~ N(0, I) are drawn once for a
    shot, s = 0.8, and w gives neighbours the correlation r = `correlation` (``divergence``), as in dependency
    noise, but at least 2 s - 1: cos(w) = 1 - (1 - r) / (1 - s). Every frame is N(0, I). A chain of
    independent increments trembles and never comes back; an orbit moves steadily, and every frame stays
    similar to all others.

    state: (3, *shape), which is c and the position of the frame before on its circle, as two coordinates,
    along and across; None at the start of a shot.
    """
    cosine = max(-1.0, 1 - (1 - correlation(divergence)) / (1 - _STILL))
    sine = math.sqrt(1 - cosine**2)
    noise = []
    for frame in frames:
        if state is None:
            parts = ("still", "along", "across")
            state = torch.stack([draw(shape, seed, f"{purpose}/{part}", frame, step) for part in parts])
        else:
            still, along, across = state
            state = torch.stack([still, cosine * along + sine * across, cosine * across - sine * along])
        noise.append(math.sqrt(_STILL) * state[0] + math.sqrt(1 - _STILL) * state[1])
    assert state is not None
    return torch.stack(noise), state


def make_noise(
    name: str,
    shape: tuple[int, ...],
    frames: Sequence[int],
    divergence: float,
    seed: int,
    state: torch.Tensor | None = None,
    *,
    purpose: str = "initial",
    step: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise (frames, *shape) of the model called ``name``, and the state that the next frames need.

    name: one of `NOISES`. dependency, orbit and mixed noise depend on ``divergence``. In progressive noise,
    neighbours have the correlation 2 / sqrt(5); in independent noise 0; in shared noise 1.
    state: what was returned for the frames before; None at the start of a shot.
    """
    if name == "orbit":
        return orbit_noise(shape, frames, divergence, seed, state, purpose=purpose, step=step)
    if name == "mixed":
        # Each shot has its own, so that shots don't depend on one another.
        shared = draw(shape, seed, f"{purpose}/shared", frames[0], step) if state is None else state
        return mixed_noise(shape, frames, divergence, seed, shared, purpose=purpose, step=step), shared
    divergences = {
        "dependency": divergence,
        "progressive": _PROGRESSIVE,
        "independent": MAX_DIVERGENCE,
        "shared": 0.0,
    }
    noise = dependency_noise(shape, frames, divergences[name], seed, state, purpose=purpose, step=step)
    return noise, noise[-1].clone()
