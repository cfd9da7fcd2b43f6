"""docs/results.md: what the benchmarks found, as far as they have come."""

from __future__ import annotations

import re
from pathlib import Path

from zs2kit.bench import ablation, device, quality, speed
from zs2kit.bench.cells import Cells
from zs2kit.bench.runs import Runs
from zs2kit.model import Model

PAGE = """# Results

How zs2kit compares with other methods: what it does well and what it doesn't. The findings come first,
then the tables. [Metrics](metrics.md) explains the numbers.

## In short

An *open* prompt leaves the kind of figure, its colour or its place to the model. A *full* prompt names all
three.

- **Edits are steady.** With open prompts, the figure turns into another kind of figure 4.1 times in 100
  transitions from frame to frame. With ZS2 as published it does so 14.4 times, with first-frame attention
  16.0, with TokenFlow 16.6, and frame by frame 37.2 times. With full prompts it never does.
- **Edits flicker little.** Over all prompts, the warp error is 0.34 times that of first-frame attention.
  With full prompts it is 2.00, compared with 22.15 frame by frame.
- **Edits keep the pose.** 99.6% (open prompts) and 99.8% (full prompts) of the keypoints are where they
  belong.
- **Clips from text alone are steadier than Text2Video-Zero's**: their warp error is 0.22 times as large.
  But they move less than rendered clips: 0.66 times as much, and without the trembling only 0.33 times as
  much.
- **With an open prompt and no source, the figure doesn't stay the same.** Its kind changes 13.0 times in
  100 transitions (with ZS2 as published, which moves less, 8.7 times; with Text2Video-Zero 30.7 times).
- **`--plugin reference` helps if the prompt is open**: in clips from text, the kind changes 3.5 times
  instead of 13.0. With a full prompt it does harm: only 92% of their frames show what was asked for,
  instead of 100%.
- **Some targets were missed**: at most 1 change of kind in 100 transitions (there are 6.52 in clips from
  text and 2.04 in edits), at most half the colour drift of Text2Video-Zero or first-frame attention (it is
  0.77 times as large in both cases), and at least half the smooth motion of rendered clips (it is 0.33
  times as much).
- **Long clips hold up.** In one clip of 512 frames the colour never changes; with ZS2 as published it
  changes 14.9 times in 100 transitions.
- **Speed:** clips from text take 1.15 times as long as frame by frame, or 0.99 times in larger chunks.
  Edits took 1.58 times as long before there was a tiny VAE (see "Speed").
- **`--every 2`** makes edits 1.76 times as fast. In the frames that are filled in, 98.3% of the keypoints are
  where they belong, compared with 99.9% if all frames are drawn. Nothing else is worse.
- **With a transformer, temporal momentum must be low.** In edits by pose with puppets-flow, 38.2% of the
  keypoints are where they belong at .98, and 96.4% at .25, which is the default there.
- **Memory** grows by 0.11% from 64 to 512 frames.
- **Real clips:** a puppet takes a real person's pose: 89% of the keypoints are where they belong, as judged
  by networks that no plugin uses. With other plugins, the demonstration model often can't draw what is asked
  for (see "Real clips").

## How it was measured

All methods draw with the demonstration model, and with the same prompts, seeds, scheduler (DDIM), number
of steps and guidance scale (5). Half of the prompts are open, and half are full.

Numbers are means over prompts. Their 95% intervals, from resampling the prompts, are in brackets. With few
prompts these intervals are too narrow. They don't tell whether two methods differ, because the methods
share prompts and seeds. For that, see the tables of targets: their intervals compare two methods prompt by
prompt.

- *text right*: the share of frames that show what the prompt asks for
- *kind flips, colour flips*: how often, in 100 transitions from frame to frame, the figure changes its
  kind or colour
- *colour drift, background*: how far the figure's colour moves away from the first frame's, and how much
  the background changes, in Delta E (2 is just visible)
- *warp error*: the difference between neighbouring frames once motion is taken out, times 1000
- *motion, smooth motion*: in figure heights per frame; smooth motion is what remains without trembling
- *PCK@0.1*: the share of the pose's keypoints that are found where they belong

Flips, drift and motion are read off the frames by networks that were trained on renders. The row "rendered
clips" shows what these networks find where the truth is known.

This page is made by `python -m zs2kit.bench quality|ablation|anchored|speed|real|every|middle --docs docs`;
do not edit it. Each of these commands, but for the last two, continues where it was stopped, so each table
says how many prompts it is based on.
"""

LIMITATIONS = """
## Limitations

- The world of these clips is drawn and small: one figure, 128x128 pixels, six kinds, eight colours, six
  places. What is true here may not be true of photographs or of larger models. `quality` runs with any
  checkpoint for which there is an IP-Adapter, but the truth is known only for puppets. Each prompt has
  one seed.
- If the prompt doesn't say who the figure is, most methods decide it frame by frame. Some open prompts
  give figures that are between two kinds, and the classifier reads them sometimes as one, sometimes as the
  other. When such a figure jumps farther than the flow can follow, it can become another one with zs2kit,
  too. `--plugin reference` makes that rarer, but then the result follows the prompt less closely.
- Two numbers flatter flow momentum. It averages along the source's flow, by which the warp error of edits
  is measured; and it averages the finished frames over time, which lowers the change of the background.
  Flips, drift, text, PCK and the filmstrips don't flatter it.
- What appears from behind something is drawn from few frames and can be blurred, like the trees behind
  the waving clown. Slow fades lag behind by a few of 255 levels.
- Flow momentum takes eight averages, and each costs one decoding and two encodings by the VAE. So edits
  take more than the 1.10 times of frame by frame that we wanted (see "Speed"), unless flow momentum is
  switched off.
- Motion in clips from text alone is a path through noise, not an action: figures sway and shift their
  weight, but they don't walk. For an action, edit a clip. The path is a circle. At the default divergence
  it closes after 18 frames, so a long clip repeats itself, and that is why it doesn't drift.
- The baseline called TokenFlow finds its correspondences in the source with one noise for all frames, not
  with inverted noise. That favours matches at the same place. It injects no features, and it doesn't
  change the ControlNet's own attention.
- All times were measured on a CPU. The models with random weights serve only to measure speed.
"""


# The sections that benchmarks put into the page
SECTIONS = (
    "Generated clips",
    "Edited clips",
    "Fewer drawn frames",
    "Frames in between",
    "Ablation",
    "Momentum in joint attention",
    "Anchored keys",
    "Anchored keys in joint attention",
    "Speed",
    "Edits on a device",
    "Memory of filters",
    "Real clips",
)


def write(docs: Path, cells: Cells, model: Model) -> None:
    """Put all that is in ``cells`` into the page, and its filmstrips beside it."""
    docs.mkdir(parents=True, exist_ok=True)
    text = quality.section(Runs(cells, model, quality.STEPS), docs)
    text += ablation.section(Runs(cells, model, ablation.STEPS))
    text += speed.section(cells)
    text += device.section(cells)
    put(docs, text)


def put(docs: Path, made: str) -> None:
    """Put sections into the page in the folder ``docs``; what other benchmarks have found stays there."""
    docs.mkdir(parents=True, exist_ok=True)
    page = docs / "results.md"
    known = _sections(page.read_text()) if page.exists() else {}
    known |= _sections(made)
    page.write_text(PAGE + "".join(known[name] for name in SECTIONS if name in known) + LIMITATIONS)


def _sections(text: str) -> dict[str, str]:
    """The sections of a page in Markdown by their titles, each with an empty line before it."""
    parts = re.split(r"^## (.+)\n", text, flags=re.M)
    return {
        title: f"\n## {title}\n\n{body.strip()}\n"
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }
