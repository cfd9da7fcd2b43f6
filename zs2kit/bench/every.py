"""What `every` costs and saves: clips of which only some frames are drawn, held against those drawn whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import torch

import zs2kit
from zs2kit import plugins
from zs2kit.bench.cases import RATE, Case, source_images, warp_error
from zs2kit.bench.runs import Column, interval, resampled
from zs2kit.beside import write_beside
from zs2kit.clip import Clip
from zs2kit.model import Model
from zs2kit.puppets.truth import Judge
from zs2kit.puppets.yardsticks import Numbers

COLUMNS = [
    Column("PCK@0.1", "PCK@0.1", ".1%"),
    Column("warp error", "warp error", ".2f", 1000),
    Column("kind flips", "kind flips"),
    Column("colour flips", "colour flips"),
    Column("seconds", "CPU seconds a clip"),
]


def draw(path: Path, model: Model, frames: int, steps: int, every: int) -> None:
    """Write a strip of the first clip's frames: the source, all frames drawn, and those by ``every``."""
    case = Case(0, frames)
    rows = [source_images(case)]
    rows += [np.stack([each.image for each in edited(model, case, steps, n)]) for n in (1, every)]
    strip = np.vstack([np.hstack(list(row)) for row in rows])
    write_beside(path, cv2.imencode(".png", strip[..., ::-1])[1].tobytes())


def edited(model: Model, case: Case, steps: int, every: int) -> Clip:
    """Return the edit of a case by the plugin pose."""
    return zs2kit.edit(
        Clip.from_images(source_images(case), RATE),
        case.prompt,
        plugins=[plugins.load("pose")()],
        model=model,
        num_inference_steps=steps,
        seed=case.seed,
        every=every,
    )


def section(model: Model, clips: int, frames: int, steps: int, every: int) -> str:
    """Edit clips of puppets by both ways, and return the page's section on them.

    It has a table of means over clips with their 95% intervals, and of the differences clip by clip. PCK is
    that of the frames that are filled in, and of the same frames where all are drawn. The rest is of whole
    clips. CPU seconds are those of one thread, both edits of a clip one after the other.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    judge = Judge()
    found: dict[int, list[dict[str, float]]] = {1: [], every: []}
    share = []
    list(edited(model, Case(0, 3), 1, 1))  # what comes first takes longer
    for number in range(clips):
        case, made = Case(number, frames), {}
        for each in found:
            began = process_time()
            made[each] = list(edited(model, case, steps, each))
            found[each].append({"seconds": process_time() - began})
        filled = [place for place, frame in enumerate(made[every]) if frame.fill is not None]
        share.append(len(filled) / frames)
        for each, result in made.items():
            images = np.stack([frame.image for frame in result])
            truth = case.source()
            numbers = found[each][-1]
            whole = judge(images, case.asked, truth)
            numbers |= {name: whole[name] for name in ("kind flips", "colour flips")}
            numbers["warp error"] = warp_error(images, source_images(case))
            if filled:
                some = judge(images[filled], case.asked, [truth[place] for place in filled])
                numbers["PCK@0.1"] = some["PCK@0.1"]
    about = (
        f"{clips} clips of {frames} frames, {steps} steps, {model.name}. With `--every {every}`, "
        f"{np.mean(share):.0%} of the frames are filled in."
    )
    table = _table(found[1], found[every], f"--every {every}")
    return (
        f"\n## Fewer drawn frames\n\n{about}\n{NOTES}\n{table}\n\n{_verdict(found[1], found[every], every)}\n"
    )


def _table(drawn: Sequence[Numbers], filled: Sequence[Numbers], name: str) -> str:
    lines = ["| | " + " | ".join(column.title for column in COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for row, numbers in (("all drawn", drawn), (name, filled)):
        shown = [
            column.shown([each[column.name] for each in numbers if column.name in each]) for column in COLUMNS
        ]
        lines.append(f"| {row} | {' | '.join(shown)} |")
    pairs = list(zip(drawn, filled, strict=True))
    shown = [
        column.shown([b[column.name] - a[column.name] for a, b in pairs if column.name in a])
        for column in COLUMNS
    ]
    lines.append(f"| difference | {' | '.join(shown)} |")
    return "\n".join(lines)


def _verdict(drawn: Sequence[Numbers], filled: Sequence[Numbers], every: int) -> str:
    """Return how much faster it is, and which means are not within the interval of the edits drawn whole."""
    before, after = ([each["seconds"] for each in numbers] for numbers in (drawn, filled))
    low, high = np.percentile(resampled(before) / resampled(after), (2.5, 97.5))
    faster = f"{sum(before) / sum(after):.2f} times as fast ({low:.2f} to {high:.2f})"
    outside = []
    for column in COLUMNS[:-1]:
        _, least, most = interval([each[column.name] for each in drawn])
        ours = np.mean([each[column.name] for each in filled])
        if not least <= ours <= most:
            outside.append(column.title)
    means = " and ".join(outside) or "No mean"
    return (
        f"With `--every {every}`, edits are {faster}.\n"
        f"{means} is outside the interval of the edits with all frames drawn."
    )


NOTES = """
Clips of puppets are edited with `pose`, with all frames drawn and with `--every`. PCK is measured on the
frames that are filled in, and on the same frames where all are drawn; the rest is of whole clips. The last
row has the differences between the two edits of the same clip. CPU seconds are those of one thread.
`python -m zs2kit.bench every --docs docs` makes this section.
"""
