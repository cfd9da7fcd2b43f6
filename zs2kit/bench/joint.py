"""What momentum does in the joint attention of a transformer, where text and picture attend to each other."""

from __future__ import annotations

from typing import Any

import click

from zs2kit.bench.ablation import COLUMNS
from zs2kit.bench.averaging import LAYERS, varied
from zs2kit.bench.baselines import zs2
from zs2kit.bench.cases import Case
from zs2kit.bench.runs import Method, Runs
from zs2kit.model import Model
from zs2kit.puppets.yardsticks import Images

FRAMES, STEPS, PROMPTS = 16, 20, 8
MOMENTA = (0.0, 0.5, 0.9, 0.98, 1.0)


def joint(
    model: Model,
    case: Case,
    steps: int,
    *,
    edited: bool,
    momentum: float,
    layers: str = "all",
    text: bool = False,
    after_norm: bool = False,
    noise: str,
) -> Images:
    """A clip from text alone, or an edit by pose without flow momentum; averaged in this way."""
    settings: dict[str, Any] = {"momentum": momentum, "noise": noise}
    settings["guidance_scale"] = model.network.guidance_scale
    if edited:
        settings["flow_momentum"] = 0.0  # which mends what attention leaves
    with varied(model, layers, text, after_norm):
        return zs2(model, case, steps, edited=edited, **settings)


def methods(*, edited: bool) -> list[Method]:
    """Frame by frame, every momentum, and other ways to average at two of them."""
    kind = "dependency" if edited else "orbit"

    def row(name: str, momentum: float, noise: str = kind, **ways: Any) -> Method:
        return Method(name, joint, {"edited": edited, "momentum": momentum, "noise": noise, **ways})

    found = [row("frame by frame", 0.0, "independent")]
    found += [row(f"momentum {each:g}", each) for each in MOMENTA]
    for momentum in (0.9, 0.98):
        found += [
            row(f"{momentum:g}, {each} layers", momentum, layers=each) for each in LAYERS if each != "all"
        ]
        found.append(row(f"{momentum:g}, text too", momentum, text=True))
        found.append(row(f"{momentum:g}, after the norm", momentum, after_norm=True))
    return found


def run(runs: Runs, prompts: int = PROMPTS) -> None:
    """Draw and measure what isn't there yet, and print the tables."""
    cases = [Case(number, FRAMES) for number in range(prompts)]
    for edited, title in ((False, "Clips from text"), (True, "Edits by pose")):
        rows = methods(edited=edited)
        runs.fill(rows, cases)
        click.echo(f"\n{title}, {FRAMES} frames, {runs.steps} steps, {prompts} prompts:\n")
        click.echo(runs.table(rows, cases, COLUMNS))
