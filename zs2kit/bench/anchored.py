"""Whether it helps to attend to a shot's first frame beside the running average."""

from __future__ import annotations

from collections.abc import Sequence

from zs2kit.bench.cases import Case
from zs2kit.bench.quality import EDITED, GENERATED
from zs2kit.bench.runs import Column, Method, Runs, zs2_method
from zs2kit.model import Model

FRAMES, STEPS, PROMPTS = 16, 10, 8
LONG = 128


def methods(model: Model, *, edited: bool) -> list[Method]:
    """zs2kit as it is, with anchored keys at two momenta, and with the first frame as further tokens."""
    scale = model.network.guidance_scale
    momenta = dict.fromkeys((model.network.momentum, 0.5))

    def row(name: str, **ways: object) -> Method:
        return zs2_method(name, edited=edited, guidance_scale=scale, **ways)

    return [
        row("zs2kit"),
        *(row(f"anchored, momentum {each:g}", anchored=True, momentum=each) for each in momenta),
        # As further tokens, for a model that can be shown pictures; U-Nets with an adapter are in `quality`
        *([row("with reference", reference=True)] if model.network.shows else []),
    ]


def run(runs: Runs, prompts: int = PROMPTS, long_prompts: int = 1) -> None:
    """Draw and measure what isn't there yet."""
    for edited in (False, True):
        runs.fill(methods(runs.model, edited=edited), [Case(number, FRAMES) for number in range(prompts)])
    long = [Case(number, LONG) for number in range(1, 1 + long_prompts)]
    runs.fill(methods(runs.model, edited=False), long)


def section(runs: Runs) -> str:
    """The tables. Those of a transformer, whose attention is joint, are a section of their own."""
    joint = runs.model.network.name == "transformer"
    heading, notes = ("Anchored keys in joint attention", JOINT) if joint else ("Anchored keys", FOUND)
    text = f"\n## {heading}\n{ABOUT}{notes}"
    for title, edited, frames, columns in (
        ("Clips from text", False, FRAMES, GENERATED),
        ("Long clips from text", False, LONG, GENERATED),
        ("Edits by pose", True, FRAMES, EDITED),
    ):
        rows = methods(runs.model, edited=edited)
        if done := runs.done(rows, [Case(number, frames) for number in range(PROMPTS)]):
            about = f"{runs.model.name}, {len(done)} prompts, {frames} frames, {runs.steps} steps"
            text += f"\n{title}: {about}.\n\n{_table(runs, rows, done, columns)}\n"
    return text


def _table(runs: Runs, methods: Sequence[Method], cases: Sequence[Case], columns: Sequence[Column]) -> str:
    """Markdown: the first method's numbers, and how far those of each other are above them."""
    usual, *others = methods
    lines = [runs.table([usual], cases, columns)]
    for each in others:
        apart = [column.shown(runs.apart(each, usual, cases, column.name)) for column in columns]
        lines.append(f"| {each.name} | {' | '.join(apart)} |")
    return "\n".join(lines)


ABOUT = """
In *anchored* attention, each frame attends to the running average and, beside it, to the keys and values of
the shot's first frame (`zs2kit/bench/averaging.py`). The first row of each table is zs2kit at its defaults.
The rows below it are differences from the first row, prompt by prompt, with 95% intervals.
"""

FOUND = """
In these few clips, anchored keys lowered the colour drift neither in edits nor in clips from text. At a
momentum of .98, the average of 16 frames is mostly the first frame anyway. So zs2kit doesn't have them.
"""

JOINT = """
In joint attention, the first frame's tokens take weight from those of the text as well. "With reference"
shows the first frame to the model as further tokens (`--plugin reference`).
"""
