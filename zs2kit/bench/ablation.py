"""What momentum, divergence and the kind of noise do to generated clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zs2kit.bench.cases import Case
from zs2kit.bench.runs import Column, Method, Runs, zs2_method
from zs2kit.bench.search import searched, table
from zs2kit.noise import MAX_DIVERGENCE

FRAMES, STEPS, PROMPTS = 16, 10, 8
LENGTHS = 128, 512
MOMENTA = (0.0, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)
DIVERGENCES = (0.0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, MAX_DIVERGENCE)
SEARCHED = 0.01, 0.05, 0.1, 0.25
LATENTS = (4, 16, 16), (4, 64, 64)  # of the bundled model, and of Stable Diffusion 1.5 at 512x512
COLUMNS = [
    Column("text right", "text right", ".0%"),
    Column("kind flips", "kind flips"),
    Column("colour flips", "colour flips"),
    Column("colour drift to first", "colour drift"),
    Column("background change", "background"),
    Column("warp error", "warp error", ".2f", 1000),
    Column("motion", "motion", ".3f"),
    Column("smooth motion", "smooth motion", ".3f"),
]
GRIDS = [column for column in COLUMNS if column.name not in ("text right", "kind flips", "background change")]


def setting(momentum: float, divergence: float) -> Method:
    """Dependency noise at these settings."""
    # At divergence 0 all frames are the same whatever the momentum: one cell does for all.
    return zs2_method(
        f"{momentum:g}, {divergence:.4g}",
        edited=False,
        noise="dependency",
        momentum=momentum if divergence else 0.98,
        divergence=divergence,
    )


def grid() -> list[Method]:
    """Every momentum with every divergence."""
    return [setting(momentum, divergence) for divergence in DIVERGENCES for momentum in MOMENTA]


def relatives() -> list[Method]:
    """The other kinds of noise beside the published one, at a momentum of .98."""
    published = replace(setting(0.98, 0.01), name="dependency, 0.01")
    orbits = [
        zs2_method(
            f"orbit, {divergence:g}", edited=False, noise="orbit", momentum=0.98, divergence=divergence
        )
        for divergence in (0.005, 0.01, 0.02, 0.03, 0.05)
    ]
    mixed = [
        zs2_method(
            f"mixed, {divergence:g}", edited=False, noise="mixed", momentum=0.98, divergence=divergence
        )
        for divergence in (0.05, 0.25, 0.5)
    ]
    others = [
        zs2_method(name, edited=False, noise=name, momentum=0.98, divergence=0.0)
        for name in ("progressive", "independent", "shared")
    ]
    return [published, *orbits, *mixed, *others]


def searches() -> list[Method]:
    """The paper's search beside the closed form, at divergences that the search reaches."""
    return [
        method
        for divergence in SEARCHED
        for method in (
            Method(f"search, {divergence:g}", searched, {"momentum": 0.98, "divergence": divergence}),
            replace(setting(0.98, divergence), name=f"closed form, {divergence:g}"),
        )
    ]


def long() -> list[Method]:
    """What is worth drawing at length."""
    return [
        zs2_method("zs2kit", edited=False),
        zs2_method("ZS2 as published", edited=False, noise="dependency", momentum=0.98, divergence=0.01),
        zs2_method("momentum 0", edited=False, noise="dependency", momentum=0.0, divergence=0.01),
        zs2_method("momentum 1", edited=False, noise="dependency", momentum=1.0, divergence=0.01),
    ]


def run(runs: Runs, prompts: int = PROMPTS, long_prompts: int = 1) -> None:
    """Draw and measure what isn't there yet."""
    runs.fill([*grid(), *relatives(), *searches()], [Case(number, FRAMES) for number in range(prompts)])
    for frames in LENGTHS:
        runs.fill(long(), [Case(number, frames) for number in range(1, 1 + long_prompts)])


def section(runs: Runs) -> str:
    """The tables, those of open and of full prompts apart."""
    cases = [Case(number, FRAMES) for number in range(PROMPTS)]
    done = runs.done(grid(), cases)
    if not done:
        return ""
    text = f"\n## Ablation\n\nClips from text, {FRAMES} frames, {runs.steps} steps.\n{GRID}"
    for column in GRIDS:
        title = f"{column.title.capitalize()}{', x 1000' if column.factor == 1000 else ''}"
        for kind, chosen in _apart(done):
            text += f"\n{title}, {kind}:\n\n{_square(runs, chosen, column)}\n"
    if others := runs.done(relatives(), done):
        text += "\n### Other noise\n\nMomentum .98.\n"
        for kind, chosen in _apart(others):
            text += f"\n{kind.capitalize()}:\n\n{runs.table(relatives(), chosen, COLUMNS)}\n"
    if both := runs.done(searches(), done):
        text += f"\n### The paper's search, and the closed form\n{SEARCH}\n{table(LATENTS, SEARCHED)}\n"
        for kind, chosen in _apart(both):
            text += f"\nClips of {kind}, momentum .98:\n\n{runs.table(searches(), chosen, COLUMNS)}\n"
    for frames in LENGTHS:
        if lasting := runs.done(long(), [Case(number, frames) for number in range(1, PROMPTS)]):
            text += f"\n### {frames} frames\n\nPrompts: {len(lasting)}.\n"
            text += f"\n{runs.table(long(), lasting, COLUMNS)}\n"
    return text


def _apart(cases: Sequence[Case]) -> list[tuple[str, list[Case]]]:
    """Open and full prompts, where there are any, and what to call them."""
    halves = (
        ("open prompts", [case for case in cases if case.is_open]),
        (
            "full prompts",
            [case for case in cases if not case.is_open],
        ),
    )
    return [(f"{len(half)} {name}", half) for name, half in halves if half]


def _square(runs: Runs, cases: Sequence[Case], column: Column) -> str:
    """Markdown: divergence downwards, momentum to the right."""
    lines = ["| divergence | " + " | ".join(f"momentum {each:g}" for each in MOMENTA) + " |"]
    lines.append("|---" * (len(MOMENTA) + 1) + "|")
    for divergence in DIVERGENCES:
        cells = [setting(momentum, divergence) for momentum in MOMENTA]
        shown = [column.shown(runs.values(each, cases, column.name)) for each in cells]
        lines.append(f"| {divergence:.4g} | {' | '.join(shown)} |")
    return "\n".join(lines)


GRID = """
Which of the paper's claims hold here, and which don't:

- *A high momentum preserves the figure's looks.* This is true of the colour, if the prompt leaves it open:
  from a divergence of .05 on, the colour drifts about half as far at a momentum of .98 or 1 as at 0. With
  full prompts momentum changes nothing, because the text fixes the colour. No momentum preserves the kind
  of figure: the larger the divergence, the more flips of kind. The values .9, .98 and 1 can't be told
  apart, so .98 stays the default.
- *The divergence sets how much things move.* It sets how much the frames differ, which is not the same:
  each step of the chain is independent of the one before, so the figure trembles. Up to .2 there is next
  to no smooth motion. Above that, figures jump about, and *smooth motion* says little about jumps. At the
  published .01, the clip is nearly a still.
- *One divergence suits clips of any length.* By its own equation it does not: the correlation with the
  first frame is r^k. At 128 and 512 frames (one prompt) the colours flip because of that. They flip less
  if all frames attend to the first one (momentum 1), and not at all with orbit noise.

"Orbit" (see below) is noise that moves around a circle at constant speed, while a part of it stays
constant. The divergence sets the correlation of neighbours in the same way, but the motion is steady and
returns to where it began. At the same divergence, orbit has several times the smooth motion of the chain,
but it drifts farther within these 16 frames. With open prompts the kind flips more often along the way.
`generate` uses orbit by default, at a divergence of .02: that is the smallest one here with about half the
motion of rendered clips.
"""

SEARCH = """
The paper looks for a frame's noise n, given the noise p of the frame before, by drawing and mixing until
mean(e^p (p - n)) equals the divergence. `zs2kit/bench/search.py` follows the listing in the paper's source;
[the method](method.md) has our closed form. The search ends near the closed form. But a mean of so few
numbers is itself uncertain: the search selects lucky draws, and the variance grows. At divergences near 0,
including the paper's own .01, the weight of the previous frame's noise exceeds 1, and the listing turns
that into NaN. Here it counts as 1, which gives a still.
"""
