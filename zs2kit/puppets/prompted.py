"""Edits by two prompts, one for the source and one for the result: what is asked for, and what stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .captions import WHERE, with_article
from .detector import detect
from .estimator import estimate
from .instruct import vary
from .networks import GROUPS, SIZE
from .pictures import scene
from .world import MOTIONS, Scene, motion_scenes, render
from .yardsticks import (
    COLUMNS,
    Numbers,
    apart,
    classify,
    correct,
    grid,
    interlaced,
    load_classifier,
    load_reader,
    save_picture,
    shares,
)

CLIPS, FRAMES = 18, 4
# What is measured -> the plugin, and settings of the edit beside its defaults
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "invert": ("invert", {}),
    "invert, guidance 2": ("invert", {"guidance_scale": 2.0}),
    "flowedit": ("flowedit", {}),
}


def caption(shown: Scene) -> str:
    """Say what a scene shows."""
    return f"{with_article(f'{shown.colour} {shown.kind}')} {WHERE[shown.place][0]}"


def measure_prompted(folder: Path, docs: Path | None) -> Numbers:
    """The same edits with each of `METHODS`."""
    import zs2kit
    from zs2kit.clip import Clip
    from zs2kit.plugins import build

    model, classifier = zs2kit.Model.load(folder), load_classifier(folder)
    detector, estimator = load_reader(folder, "detector"), load_reader(folder, "estimator")
    scenes, wanted, pictures = [], [], []
    for i in range(CLIPS):
        rng = np.random.default_rng((4, i))
        start = replace(scene(30_000 + i, "test"), height=float(rng.uniform(0.62, 0.9)))
        moving = motion_scenes(start, MOTIONS[i % len(MOTIONS)], FRAMES, travel=0.1)
        scenes.append(start)
        wanted.append(vary(start, list(GROUPS)[i % 3], rng))
        pictures.append([render(each, SIZE) for each in moving])
    sources = np.stack([picture.image for each in pictures for picture in each])
    points = np.stack([picture.keypoints for each in pictures for picture in each])
    masks = np.stack([picture.mask for each in pictures for picture in each])
    asked = np.array(
        [[names.index(getattr(each, group)) for group, names in GROUPS.items()] for each in wanted]
    ).repeat(FRAMES, axis=0)
    stays = np.array([a.place == b.place for a, b in zip(scenes, wanted, strict=True)]).repeat(FRAMES)
    numbers: Numbers = {}
    rows, missed = [sources], [np.zeros(len(sources), bool)]
    for about, (plugin, settings) in METHODS.items():
        frames = []
        for i, (shown, aim, clip) in enumerate(zip(scenes, wanted, pictures, strict=True)):
            edited = zs2kit.edit(
                Clip.from_images([picture.image for picture in clip], 12),
                caption(aim),
                plugins=[build(plugin, {"prompt": caption(shown)})],
                model=model,
                seed=i,
                flow_momentum=0.0,  # it is the plugins that are measured, without what mends their frames
                **settings,
            )
            frames += [frame.image for frame in edited]
        drawn = np.stack(frames)
        right = classify(classifier, drawn) == asked
        numbers |= shares(right, about)
        numbers[f"{about}: PCK@0.1"] = float(correct(detect(detector, drawn), points, 0.1).mean())
        figures = masks | (estimate(estimator, drawn)[1] >= 0.5)
        places = [apart(*each)[0] for each in zip(sources[stays], drawn[stays], figures[stays], strict=True)]
        numbers[f"{about}: difference of the place, Lab"] = float(np.mean(places))
        rows.append(drawn)
        missed.append(~right.all(axis=1))
    if docs:
        wrong = interlaced(np.stack(missed))
        save_picture(docs / "puppets-prompted.jpg", grid(interlaced(np.stack(rows)), COLUMNS, wrong))
    return numbers
