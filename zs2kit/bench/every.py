"""What `every` costs and saves: clips of which only some frames are drawn, held against those drawn whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import torch

import zs2kit
from zs2kit import plugins
from zs2kit.bench.cases import RATE, Case, source_images, warp_error
from zs2kit.bench.runs import Column
from zs2kit.beside import write_beside
from zs2kit.clip import Clip
from zs2kit.model import Model
from zs2kit.puppets.truth import Judge

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


def compare(model: Model, clips: int, frames: int, steps: int, every: int) -> Iterator[str]:
    """Yield a table in Markdown of edits with the plugin pose: means over clips, and their 95% intervals.

    PCK is that of the frames that are filled in, and of the same frames where all are drawn. The rest is of
    whole clips. CPU seconds are those of one thread, both edits of a clip one after the other.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    judge = Judge()
    found: dict[int, list[dict[str, float]]] = {1: [], every: []}
    share = []
    for number in range(clips):
        case, made = Case(number, frames), {}
        for each in found:
            if number == 0:  # what comes first takes longer
                list(edited(model, Case(0, 3), 1, 1))
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
    yield f"{clips} clips of {frames} frames, {steps} steps; {np.mean(share):.0%} of the frames filled in"
    yield ""
    yield "| | " + " | ".join(column.title for column in COLUMNS) + " |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for each, rows in found.items():
        cells = [column.shown([row[column.name] for row in rows if column.name in row]) for column in COLUMNS]
        yield f"| {'all drawn' if each == 1 else f'--every {each}'} | {' | '.join(cells)} |"
    took = [sum(row["seconds"] for row in rows) for rows in found.values()]
    yield ""
    yield f"{took[0] / took[1]:.2f} times as fast"
