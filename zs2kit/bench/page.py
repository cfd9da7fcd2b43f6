"""docs/results.md: what the benchmarks found, as far as they have come."""

from __future__ import annotations

from pathlib import Path

from zs2kit.bench import ablation, quality, speed
from zs2kit.bench.cells import Cells
from zs2kit.bench.runs import Runs
from zs2kit.model import Model

PAGE = """# Results

Made by `python -m zs2kit.bench quality|ablation|speed --docs docs`; do not edit. Each command goes on where
it was stopped, so intervals shrink with time: a table says how many prompts it rests on.

All methods draw with the bundled model, the same prompts, seeds, scheduler (DDIM), steps and guidance scale
(5), in the same run. Half of the prompts leave kind, colour or place open: with a full prompt the text
alone pins what is to be seen. Numbers are means over prompts, in brackets their 95% interval by resampling
prompts, which are too narrow where prompts are few, and don't tell whether two methods differ: they share
prompts and seeds, so the targets' intervals are of pairs. `docs/metrics.md` says what each measures; drift,
flips and motion are read off the frames by networks that were trained on renders, and "rendered clips" shows
what those say of the truth. Flips are per 100 transitions, drift and background in Delta E, warp error
x 1000, motion in figure heights a frame; smooth motion is what is left of it once trembling is taken out.
"""

LIMITATIONS = """
## Limitations

- The world is drawn and small: one figure, 128x128 pixels, six kinds, eight colours, six places. What holds
  here need not hold for photographs or for larger models; `quality` runs with any checkpoint that there is an
  IP-Adapter for, but the truth is known for puppets alone. Each prompt has one seed.
- Who a figure is, where the prompt doesn't say, most methods decide frame by frame. Some open prompts give
  figures between two kinds, which the classifier reads now so, now so. When such a figure leaps further than
  the flow can follow, it can become another one with zs2kit too; `--plugin reference` makes that rarer, at
  the cost of what the prompt says.
- Flow momentum averages along the source's flow, by which warp error of edits is measured, and the finished
  frames over time, which lowers the background's change: both numbers flatter it. Flips, drift, text and PCK
  don't, nor do the filmstrips.
- What comes out from behind something is drawn from little, and can be blurred: see the trees behind the
  waving clown. Slow fades lag by a few levels of 255.
- An average of flow momentum costs a decoding and two encodings by the VAE, and there are eight in a clip:
  edits are slower than frame by frame by more than the wanted 1.10 (see "Speed"), unless it is left out.
- Generated motion is a way through noise, not an action: figures sway and shift their weight, they don't
  walk. For an action, give a clip to edit. The way is a circle: at the default divergence it closes after 18
  frames, so a long clip repeats itself, and doesn't drift for that reason.
- The baseline called TokenFlow finds its correspondences in the source under one noise for all frames instead
  of an inverted one, which favours the same place; it injects no features, and leaves the ControlNet's own
  attention alone.
- Timings are of a CPU. Models of random weights tell of speed alone.
"""


def write(docs: Path, cells: Cells, model: Model) -> None:
    """Write the page and its filmstrips to the folder ``docs``."""
    docs.mkdir(parents=True, exist_ok=True)
    text = PAGE
    text += quality.section(Runs(cells, model, quality.STEPS), docs)
    text += ablation.section(Runs(cells, model, ablation.STEPS))
    text += speed.section(cells)
    (docs / "results.md").write_text(text + LIMITATIONS)
