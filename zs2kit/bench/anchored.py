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
    """zs2kit as it is, with anchored keys at several momenta, and what else looks back at the first frame."""
    scale = model.network.guidance_scale

    def row(name: str, **ways: object) -> Method:
        return zs2_method(name, edited=edited, guidance_scale=scale, **ways)

    return [
        row("zs2kit"),
        *(row(f"anchored, momentum {each:g}", anchored=True, momentum=each) for each in (0.98, 0.5)),
        row("momentum 1", momentum=1.0),
        row("with reference", reference=True),
    ]


def run(runs: Runs, prompts: int = PROMPTS, long_prompts: int = 1) -> None:
    """Draw and measure what isn't there yet."""
    for edited in (False, True):
        runs.fill(methods(runs.model, edited=edited), [Case(number, FRAMES) for number in range(prompts)])
    long = [Case(number, LONG) for number in range(1, 1 + long_prompts)]
    runs.fill(methods(runs.model, edited=False), long)


def section(every: Sequence[Runs]) -> str:
    """The tables, those of each model."""
    text = ""
    for runs in every:
        for title, edited, frames, columns in (
            ("Clips from text", False, FRAMES, GENERATED),
            ("Long clips from text", False, LONG, GENERATED),
            ("Edits by pose", True, FRAMES, EDITED),
        ):
            rows = methods(runs.model, edited=edited)
            if done := runs.done(rows, [Case(number, frames) for number in range(100)]):
                about = f"{runs.model.name}, {len(done)} prompts, {frames} frames, {runs.steps} steps"
                text += f"\n{title}: {about}.\n\n{_table(runs, rows, done, columns)}\n"
    return f"\n## Anchored keys\n{NOTES}{text}" if text else ""


def _table(runs: Runs, methods: Sequence[Method], cases: Sequence[Case], columns: Sequence[Column]) -> str:
    """Markdown: the first method's numbers, and how far those of each other are above them."""
    usual, *others = methods
    lines = [runs.table([usual], cases, columns)]
    for each in others:
        apart = [column.shown(runs.apart(each, usual, cases, column.name)) for column in columns]
        lines.append(f"| {each.name} | {' | '.join(apart)} |")
    return "\n".join(lines)


NOTES = """
The tables compare ways to look back at a shot's first frame. The first row has the numbers of zs2kit at its
defaults. The rows below it have the differences from that row, prompt by prompt, with 95% intervals.
"""
