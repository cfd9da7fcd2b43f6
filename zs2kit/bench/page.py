"""docs/results.md: what the benchmarks found, as far as they have come."""

from __future__ import annotations

from pathlib import Path

from zs2kit.bench import ablation, quality, speed
from zs2kit.bench.cells import Cells
from zs2kit.bench.runs import Runs
from zs2kit.model import Model

PAGE = """# Results

What zs2kit does well and what it doesn't, measured next to other methods. First what was found, then the
tables. [Metrics](metrics.md) explains the numbers.

## In short

- **Edits are steady.** Where the prompt doesn't settle who the figure is, where it is or its colour, the
  figure turns into another kind 4.1 times in 100 transitions from frame to frame. With ZS2 as published
  it does so 14.4 times, with first-frame attention 16.0, with TokenFlow 16.6, and frame by frame 37.2
  times. With full prompts it never changes.
- **Edits flicker little.** Over all prompts, the warp error is 0.34 times that of first-frame attention.
  With full prompts it is 2.00, and 22.15 frame by frame.
- **Edits keep the pose.** 99.6% of the keypoints (open prompts) and 99.8% (full prompts) are where they
  belong.
- **Clips from text alone are steadier than Text2Video-Zero's**, with a warp error of 0.22 times as much,
  but they move less than rendered clips do: 0.66 times as much, and 0.33 times as much without the
  trembling.
- **From an open prompt alone, the figure doesn't stay the same.** Its kind changes 13.0 times in 100
  transitions (ZS2 as published, which moves less: 8.7; Text2Video-Zero: 30.7).
- **`--plugin reference` helps where the prompt is open**: 3.5 changes of kind instead of 13.0. With a
  full prompt it harms: 92% of the frames of clips from text show what was asked for, instead of 100%.
- **Some targets were missed**: at most 1 change of kind in 100 transitions (6.52 from text, 2.04 in
  edits), at most half the colour drift of Text2Video-Zero or first-frame attention (0.77 in both cases),
  and at least half the smooth motion of rendered clips (0.33).
- **Long clips last.** In one clip of 512 frames the colour never changes; as published it changes 14.9
  times in 100 transitions.
- **Speed:** from text 1.15 times the time of frame by frame, 0.99 in larger chunks. Edits take 1.58
  times, or 1.01 without flow momentum.
- **Memory** grows by 0.11% from 64 to 512 frames.

## How it was measured

All methods draw with the demonstration model, and share prompts, seeds, scheduler (DDIM), number of steps
and guidance scale (5). Half of the prompts are *open*: they leave the kind of figure, its colour or its
place to the model. *Full* prompts name all three, so the text alone settles what is to be seen.

Numbers are means over prompts. In brackets is their 95% interval, from resampling the prompts. With few
prompts these intervals are too narrow. They don't tell whether two methods differ, because the methods
share prompts and seeds; so the intervals in the tables of targets are those of pairs.

- *text right*: the share of frames that show what the prompt asks for
- *kind flips, colour flips*: in 100 transitions from frame to frame, how often the figure changes its
  kind or colour
- *colour drift, background*: how far the figure's colour moves away from the first frame's, and how much
  the background changes, in Delta E (2 can just be seen)
- *warp error*: the difference of neighbouring frames once motion is taken out, times 1000
- *motion, smooth motion*: in figure heights a frame; smooth motion is what remains without trembling
- *PCK@0.1*: the share of keypoints of the pose that are found where they belong

Networks that were trained on renders read flips, drift and motion off the frames. The row "rendered
clips" shows what they say of the truth.

This page is made by `python -m zs2kit.bench quality|ablation|speed --docs docs`; do not edit it. Each of
these commands continues where it was stopped, so each table says how many prompts it rests on.
"""

LIMITATIONS = """
## Limitations

- The world of these clips is drawn and small: one figure, 128x128 pixels, six kinds, eight colours, six
  places. What holds here may not hold for photographs or for larger models. `quality` runs with any
  checkpoint for which there is an IP-Adapter, but only for puppets is the truth known. Each prompt has
  one seed.
- Where the prompt doesn't say who the figure is, most methods decide it frame by frame. Some open prompts
  give figures that are between two kinds, and the classifier reads them now as one, now as the other.
  When such a figure jumps farther than the flow can follow, it can become another one with zs2kit, too.
  `--plugin reference` makes that rarer, but then less of the prompt is obeyed.
- Two numbers flatter flow momentum. It averages along the source's flow, by which the warp error of edits
  is measured; and it averages the finished frames over time, which lowers the change of the background.
  It doesn't flatter flips, drift, text and PCK, nor the filmstrips.
- What appears from behind something is drawn from few frames and can be blurred, like the trees behind
  the waving clown. Slow fades lag behind by a few of 255 levels.
- Each average of flow momentum costs one decoding and two encodings by the VAE, and there are eight of
  them. So edits take longer, compared to frame by frame, than the 1.10 times that were wanted (see
  "Speed"), unless flow momentum is switched off.
- Motion in clips from text alone is a way through noise, not an action: figures sway and shift their
  weight, they don't walk. For an action, edit a clip. The way is a circle. At the default divergence it
  closes after 18 frames, so a long clip repeats itself, and that is why it doesn't drift.
- The baseline called TokenFlow finds its correspondences in the source with one noise for all frames, not
  with inverted noise. That favours matches at the same place. It injects no features, and it doesn't
  change the ControlNet's own attention.
- All times were measured on a CPU. Models with random weights are there for their speed alone.
"""


def write(docs: Path, cells: Cells, model: Model) -> None:
    """Write the page and its filmstrips to the folder ``docs``."""
    docs.mkdir(parents=True, exist_ok=True)
    text = PAGE
    text += quality.section(Runs(cells, model, quality.STEPS), docs)
    text += ablation.section(Runs(cells, model, ablation.STEPS))
    text += speed.section(cells)
    (docs / "results.md").write_text(text + LIMITATIONS)
