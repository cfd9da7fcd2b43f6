"""How good clips are: zs2kit against other ways to draw them, generated and edited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from zs2kit.bench.baselines import first_frame, frame_by_frame, text_to_video_zero
from zs2kit.bench.cases import Case
from zs2kit.bench.runs import Column, Method, Runs, real, resampled, zs2_method
from zs2kit.bench.tokenflow import token_flow

FRAMES, STEPS, PROMPTS = 24, 20, 32
FEW = 4  # prompts that Text2Video-Zero draws at its published 50 steps too, and zs2kit in parts
SHOWN = 1, 3, 12  # cases of the filmstrips
PICTURES = slice(0, None, 3)  # frames of them
SIDE = 72

PUBLISHED: dict[str, Any] = {"noise": "dependency", "momentum": 0.98, "divergence": 0.01}
# By law, and by test, what diffusers' pipelines draw with an IP-Adapter frame by frame
SINGLE: dict[str, Any] = {"noise": "independent", "momentum": 0.0, "divergence": 0.0, "reference": True}

COLUMNS = [
    Column("text right", "text right", ".0%"),
    Column("kind flips", "kind flips"),
    Column("colour flips", "colour flips"),
    Column("colour drift to first", "colour drift"),
    Column("background change", "background"),
    Column("warp error", "warp error", ".2f", 1000),
]
GENERATED = [*COLUMNS, Column("motion", "motion", ".3f"), Column("smooth motion", "smooth motion", ".3f")]
EDITED = [*COLUMNS, Column("PCK@0.1", "PCK@0.1", ".1%")]


def generators() -> list[Method]:
    """Those that draw from text alone, zs2kit first."""
    return [
        zs2_method("zs2kit", edited=False),
        zs2_method("zs2kit, with reference", edited=False, reference=True),
        zs2_method("ZS2 as published", edited=False, **PUBLISHED),
        Method("Text2Video-Zero", text_to_video_zero, {"matched": True}),
        Method("Text2Video-Zero, by step numbers", text_to_video_zero),
        Method("frame by frame", frame_by_frame, {"edited": False, "shared": False}),
        zs2_method("frame by frame, with reference", edited=False, **SINGLE),
        Method("frame by frame, one noise", frame_by_frame, {"edited": False, "shared": True}),
    ]


def editors() -> list[Method]:
    """Those that redraw a rendered clip in its poses, zs2kit first."""
    return [
        zs2_method("zs2kit", edited=True),
        zs2_method("zs2kit, with reference", edited=True, reference=True),
        zs2_method("ZS2 as published", edited=True, **PUBLISHED, flow_momentum=0.0),
        Method("first-frame attention (Text2Video-Zero)", first_frame, {"edited": True}),
        Method("TokenFlow", token_flow, {"edited": True}),
        Method("frame by frame", frame_by_frame, {"edited": True, "shared": False}),
        zs2_method("frame by frame, with reference", edited=True, **SINGLE, flow_momentum=0.0),
        Method("frame by frame, one noise", frame_by_frame, {"edited": True, "shared": True}),
    ]


def published_zero() -> Method:
    """Text2Video-Zero at the steps that it was published with."""
    return Method("Text2Video-Zero, 50 steps", text_to_video_zero, steps=50)


def parts() -> list[Method]:
    """zs2kit's edits with one noise for all frames, with and without flow momentum: what does what."""
    return [
        zs2_method("zs2kit, one noise", edited=True, noise="shared", divergence=0.0),
        zs2_method(
            "the same, no flow momentum", edited=True, noise="shared", divergence=0.0, flow_momentum=0.0
        ),
    ]


def rendered(edited: bool) -> Method:
    """The rendered clips themselves."""
    return Method("rendered clips", real, {"edited": edited})


def run(runs: Runs, prompts: int = PROMPTS) -> None:
    """Draw and measure what isn't there yet."""
    methods = [*generators(), *editors(), rendered(False), rendered(True)]
    cases = [Case(number, FRAMES) for number in range(prompts)]
    runs.fill(methods, cases)
    runs.fill([published_zero(), *parts()], cases[:FEW])


def section(runs: Runs, docs: Path) -> str:
    """The tables, what of the targets was reached, and filmstrips, which are written to ``docs``."""
    text = ""
    cases = [Case(number, FRAMES) for number in range(PROMPTS)]
    for title, methods, columns, notes in (
        ("Generated clips", generators(), GENERATED, GENERATION),
        ("Edited clips", editors(), EDITED, EDITING),
    ):
        edited = columns is EDITED
        done = runs.done(methods, cases)
        if not done:
            continue
        text += f"\n## {title}\n\n{len(done)} prompts, {FRAMES} frames, {runs.steps} steps.\n{notes}"
        for kind, chosen in (
            ("Open prompts", [case for case in done if case.is_open]),
            ("Full prompts", [case for case in done if not case.is_open]),
        ):
            if chosen:
                table = runs.table([rendered(edited), *methods], chosen, columns)
                text += f"\n{kind} ({len(chosen)}):\n\n{table}\n"
        further, beside = (parts(), methods[0]) if edited else ([published_zero()], methods[4])
        if few := runs.done(further, done):
            text += (
                f"\nOf the first prompts ({len(few)}):\n\n{runs.table([beside, *further], few, columns)}\n"
            )
        text += f"\n{targets(runs, done, edited)}\n{TRIED_EDITING if edited else TRIED_GENERATION}"
        name = "results-edited.png" if edited else "results-generated.png"
        strips = [case for case in done if case.number in SHOWN]
        if strips:
            filmstrips(docs / name, runs, [rendered(edited), *methods] if edited else methods, strips)
            asked = ", ".join(f'"{case.prompt}"' for case in strips)
            rows = ", ".join(method.name for method in ([rendered(edited)] if edited else []) + methods)
            text += f"\n![filmstrips]({name})\n\nOf {asked}; from above: {rows}.\n"
    return text


class Target(NamedTuple):
    """What zs2kit is to reach: a mean, or its relation to that of another method."""

    says: str
    name: str  # of the number
    bound: str
    wanted: float
    beside: Method | None = None
    relate: Callable[[Any, Any], Any] = np.divide  # of zs2kit's mean and the other's


def targets(runs: Runs, cases: Sequence[Case], edited: bool) -> str:
    """Markdown: what zs2kit was to reach, and whether it did, over open and full prompts together.

    With 95% intervals by resampling prompts, the same ones for both methods.
    """
    ours, held, _, zero, *_ = methods = editors() if edited else generators()
    single = next(method for method in methods if method.name == "frame by frame")
    found = [
        Target("kind flips per 100 transitions", "kind flips", "at most", 1),
        Target("the same, over those of frame by frame", "kind flips", "at most", 0.25, single),
        Target(f"colour drift, over that of {zero.name}", "colour drift to first", "at most", 0.5, zero),
        Target(f"warp error, over that of {zero.name}", "warp error", "at most", 0.5, zero),
    ]
    if edited:
        found += [Target("PCK@0.1", "PCK@0.1", "at least", 0.9)]
    else:
        real = rendered(False)
        found += [
            Target("motion, over that of rendered clips", "motion", "at least", 0.5, real),
            Target("smooth motion, likewise", "smooth motion", "at least", 0.5, real),
        ]
    found += [Target(f"text right, less that of {zero.name}", "text right", "at least", 0, zero, np.subtract)]
    lines = [f"| target | wanted | {ours.name} | | {held.name} | |", "|---|---|---|---|---|---|"]
    for target in found:
        reached = " | ".join(_reached(runs, cases, method, target) for method in (ours, held))
        lines.append(f"| {target.says} | {target.bound} {target.wanted:g} | {reached} |")
    return "\n".join(lines)


def _reached(runs: Runs, cases: Sequence[Case], ours: Method, target: Target) -> str:
    pairs = np.array(
        [
            [runs.numbers(method, case)[target.name] for method in (ours, target.beside or ours)]
            for case in cases
            if target.name in runs.numbers(ours, case)
            and target.name in runs.numbers(target.beside or ours, case)
        ]
    )
    if not len(pairs):
        return " | nothing measured"
    mean, many = pairs.mean(axis=0), np.stack([resampled(column) for column in pairs.T])
    if target.beside:
        with np.errstate(divide="ignore", invalid="ignore"):  # of a number that is 0 in all clips
            mean, many = target.relate(*mean), target.relate(*many)
        mean = 0.0 if np.isnan(mean) else mean  # neither has any
    else:
        mean, many = mean[0], many[0]
    reached = mean <= target.wanted if target.bound == "at most" else mean >= target.wanted
    shown = f"{mean:.2f}"
    if len(pairs) > 1 and np.isfinite(many).all():
        low, high = np.percentile(many, (2.5, 97.5))
        shown += f" ({low:.2f} to {high:.2f})"
    return f"{shown} | {'reached' if reached else 'missed'}"


def filmstrips(path: Path, runs: Runs, methods: Sequence[Method], cases: Sequence[Case]) -> None:
    """Write a PNG with a row of frames for each case and method."""
    rows = []
    for case in cases:
        for method in methods:
            frames = runs.frames(method, case)[PICTURES]
            small = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames]
            rows.append(np.concatenate(small, axis=1))
        rows.append(np.full((SIDE // 8, rows[-1].shape[1], 3), 255, np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(rows[:-1])[..., ::-1])


GENERATION = """
"Text2Video-Zero" is diffusers' TextToVideoZeroPipeline, at its own strength of motion. Its frames part at
two of the steps, 44 and 47 of 50 from the end. "By step numbers" takes those shares of the steps, at which
the bundled model's schedule leaves less of the first frame than Stable Diffusion 1.5's does; without that,
it takes the steps that are as noisy as those. "Frame by frame" is StableDiffusionPipeline; with one noise
its frames are all the same. "With reference" holds a clip to its own first frame by an IP-Adapter (`--plugin
reference`), which is a network more than the others have; how much of it that is, shows frame by frame with
the same. With open prompts figures change less; from a full prompt it distracts. Warp error goes by the
clip's own flow, where that leads back: what flickers so that no flow can be found is left out, to the
advantage of clips that flicker.
"""

EDITING = """
A rendered clip is redrawn in its poses; all methods get the same skeletons, found by the bundled detector.
"First-frame attention" is Text2Video-Zero's recipe for edits with a ControlNet: diffusers'
CrossFrameAttnProcessor in the U-Net and the ControlNet, and one noise for all frames. "TokenFlow" is
`zs2kit/bench/tokenflow.py`. "Frame by frame" is diffusers' StableDiffusionControlNetPipeline. "With
reference" is as above. Warp error goes by the source's flow.
"""

TRIED_GENERATION = """
What was tried beside, by hand and on four prompts, for steadier looks at the same motion: flow momentum along
the clip's own flow, estimates given the first frame's mean colours (AdaIN), the U-Net's features given the
first frame's means and deviations, first steps that the first frame takes for all (10, 20 and 30%), noise
that is shifted round a circle, other shares of the orbit's noise that stays (0, .5, .9), and attention to the
first frame alone. None of them brought drift to half of Text2Video-Zero's without taking the motion as well.
A smaller divergence does, down to a still; a larger one of the chain only trembles more.
"""

TRIED_EDITING = """
What was tried beside, by hand and on four prompts: to average latents instead of pixels (it blurs, and
keypoints get lost), to anchor each frame to the first along the whole flow (no better), to average only what
agrees within the steps too (flips come back: disagreement is what is to be mended there), four averages
instead of eight (more flips), fifteen (hardly better), one at 95% of the steps (a lower warp error yet, not
looked at), and one noise for all frames (no different). With a full prompt frame by frame drifts as little as
anything: there the text holds the colour, and what is left is how the model draws one colour in many poses.
"""
