"""What momentum does in the joint attention of a transformer, where text and picture attend to each other."""

from __future__ import annotations

from typing import Any

from zs2kit.bench.averaging import LAYERS, varied
from zs2kit.bench.baselines import zs2
from zs2kit.bench.cases import Case
from zs2kit.bench.quality import EDITED, GENERATED
from zs2kit.bench.runs import Method, Runs
from zs2kit.model import Model
from zs2kit.puppets.yardsticks import Images

FRAMES, PROMPTS = 16, 8
MOMENTA = (0.0, 0.25, 0.5, 0.9, 0.98, 1.0)


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
    """Draw and measure what isn't there yet."""
    for edited in (False, True):
        runs.fill(methods(edited=edited), [Case(number, FRAMES) for number in range(prompts)])


def section(runs: Runs) -> str:
    """The tables."""
    text = ""
    for title, edited, columns in (("Clips from text", False, GENERATED), ("Edits by pose", True, EDITED)):
        rows = methods(edited=edited)
        if done := runs.done(rows, [Case(number, FRAMES) for number in range(100)]):
            about = f"{runs.model.name}, {len(done)} prompts, {FRAMES} frames, {runs.steps} steps"
            text += f"\n{title}: {about}.\n\n{runs.table(rows, done, columns)}\n"
    return f"\n## Momentum in joint attention\n{NOTES}{text}" if text else ""


NOTES = """
In a transformer, text and picture attend to each other together. zs2kit averages only the picture's part, in
all layers, before the norm of the keys. The tables vary that. Edits are made without flow momentum, which
would mend what attention leaves. This section is made by
`python -m zs2kit.bench ablation --model puppets-flow --steps 20 --docs docs`.

- *A high momentum holds on to the first frame's pose.* In edits, the keypoints stay behind where the frames
  attend mostly to the first one. A U-Net does not do that: its momentum is .98.
- *The background holds still even without momentum*, since the noise of the frames is correlated.
- *It makes no difference* whether the text is averaged, too, or the keys are averaged after their norm.
- *In the double layers alone* momentum does less harm, and less of what it is for.

So the default for transformers is .25.
"""
