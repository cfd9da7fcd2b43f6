"""What is asked of every method alike: prompts, and the clips that are edited."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np

from zs2kit import flow as flow_
from zs2kit import metrics
from zs2kit.flow import flow, visible
from zs2kit.puppets import detector, estimator, networks, truth, yardsticks
from zs2kit.puppets.captions import WHERE, with_article
from zs2kit.puppets.networks import GROUPS, SIZE
from zs2kit.puppets.train import WEIGHTS
from zs2kit.puppets.world import Picture
from zs2kit.puppets.yardsticks import Images, Numbers

RATE = 12
# What numbers are made by: when it changes, they are made again.
_MODULES = (metrics, flow_, detector, estimator, truth, yardsticks, networks)
_READERS = [next((WEIGHTS / each).glob("*.safetensors")) for each in ("classifier", "detector", "estimator")]
# What every second prompt leaves open, in turn
OPEN = (
    ("colour",),
    ("kind",),
    ("place",),
    ("kind", "colour"),
    ("colour", "place"),
    ("kind", "colour", "place"),
)


@dataclass(frozen=True)
class Case:
    """A prompt, the seed, and how many frames; every method gets the same."""

    number: int
    frames: int
    side: int = SIZE  # pixels

    @property
    def is_open(self) -> bool:
        """Whether the prompt leaves something open; else it names kind, colour and place."""
        return self.number % 2 == 1

    @cached_property
    def asked(self) -> dict[str, str]:
        """What the prompt names, by group; no two numbers start from the same three words."""
        triples = list(product(*GROUPS.values()))
        words = triples[np.random.default_rng(4).permutation(len(triples))[self.number]]
        left = OPEN[self.number // 2 % len(OPEN)] if self.is_open else ()
        return {group: word for group, word in zip(GROUPS, words, strict=True) if group not in left}

    @property
    def prompt(self) -> str:
        """What is asked for in plain words, such as "a red robot on the beach", or "a red figure"."""
        noun = self.asked.get("kind", "figure")
        subject = with_article(f"{self.asked['colour']} {noun}" if "colour" in self.asked else noun)
        return f"{subject} {WHERE[self.asked['place']][0]}" if "place" in self.asked else subject

    @property
    def seed(self) -> int:
        """Of the noise."""
        return self.number

    def source(self) -> list[Picture]:
        """The rendered clip that is edited: another figure, in motion, with all that is true about it."""
        return _source(self.number, self.frames)


@cache
def _source(number: int, frames: int) -> list[Picture]:
    return truth.true_clip(number, frames)


def source_images(case: Case) -> Images:
    """The frames of the clip that is edited."""
    return np.stack([picture.image for picture in case.source()])


class Measure:
    """Numbers of a clip, against what is known to be true."""

    rules = sha256(
        b"".join(
            Path(str(each)).read_bytes()
            for each in (*(module.__file__ for module in _MODULES), __file__, *_READERS)
        )
    ).hexdigest()

    def __init__(self) -> None:
        self.judge = truth.Judge()

    def __call__(self, case: Case, frames: Images, edited: bool) -> Numbers:
        """Return the numbers of ``frames`` by name: the judge's, and the error of warping by flow.

        The flow of an edit is its source's, that of a generated clip its own.
        """
        numbers = dict(self.judge(frames, case.asked, case.source() if edited else None))
        numbers["warp error"] = warp_error(frames, source_images(case) if edited else frames)
        return numbers


def warp_error(frames: Images, flowing: Images) -> float:
    """Mean warping error of neighbouring frames by the flow of ``flowing``, as in `zs2kit.metrics`."""
    pictures = [metrics.to_float(each) for each in frames]
    errors = []
    for k in range(1, len(frames)):
        there, back = flow(flowing[k - 1], flowing[k]), flow(flowing[k], flowing[k - 1])
        if (seen := visible(there, back)).any():
            errors.append(metrics.warp_error(pictures[k - 1], pictures[k], there, seen))
    return float(np.mean(errors))
