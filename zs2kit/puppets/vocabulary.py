"""What the puppets models know, which lies beside their weights as ``domain.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import numpy as np

from ..domain import FILE, words_of
from .captions import caption, load_prompts, one_of
from .figures import COLOURS, KINDS
from .instructions import instruction, load_edits
from .networks import GROUPS
from .places import PLACES
from .training import Run

ABOUT = "a demonstration model that knows drawn figures alone"
PSNR = 24.0  # dB: the VAE rebuilds 200 renders with at least 25, frames of four real clips with at most 23
DRAWN = 40_000  # captions and instructions; the last new word came with the 3,354th
# Words for nothing that can be seen: it is no loss if the model doesn't know them.
COMMON = """
    a am an and any are as at be been being but by can could did do does for from get had has have he her hers
    herself him himself his how i if in into is it its itself just let like may me might mine must my no nor
    not of off on or our ours please shall she should so some such than that the their theirs them then there
    these they this those to too us very was we were what when where which while who whom whose why will with
    would you your yours
"""


def captions() -> frozenset[str]:
    """The words that the text-to-image models know: those of captions and of the prompts to judge by."""
    triples = list(product(KINDS, COLOURS, PLACES))
    return _words(
        lambda rng: caption(*triples[rng.integers(len(triples))], rng),
        (each.prompt for each in load_prompts()),
    )


def instructions() -> frozenset[str]:
    """The words that the model of instructions knows."""
    return _words(_instruction, (each.instruction for each in load_edits()))


def everything() -> frozenset[str]:
    """The words that the flow model knows, which draws and edits."""
    return captions() | instructions()


def _instruction(rng: np.random.Generator) -> str:
    """An instruction to change one or two of kind, colour and place; none where the dice change nothing."""
    (*before,), (*after,) = (tuple(one_of(rng, names) for names in GROUPS.values()) for _ in range(2))
    kept = rng.permutation(3)[: rng.integers(1, 3)]
    kind, colour, place = (before[i] if i in kept else after[i] for i in range(3))
    old_kind, old_colour, old_place = before
    if (kind, colour, place) == (old_kind, old_colour, old_place):
        return ""
    return instruction((old_kind, old_colour, old_place), (kind, colour, place), rng)


def _words(draw: Callable[[np.random.Generator], str], judged: Iterable[str]) -> frozenset[str]:
    rng = np.random.default_rng(0)
    texts = (*judged, COMMON, *(draw(rng) for _ in range(DRAWN)))
    return frozenset(word for text in texts for word in words_of(text))


def export_domains(run: Run, folder: Path) -> dict[str, int]:
    """Write what each model in ``folder`` knows beside its model_index.json."""
    for name, words in (("", captions), ("instruct", instructions), ("flow", everything)):
        if (folder / name / "model_index.json").exists():
            found = {"about": ABOUT, "psnr": PSNR, "words": sorted(words())}
            (folder / name / FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return {}
