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
prompts, which are too narrow where prompts are few. `docs/metrics.md` says what each measures; drift, flips
and motion are read off the frames by networks that were trained on renders, and "rendered clips" shows what
those say of the truth. Flips are per 100 transitions, drift and background in Delta E, warp error x 1000,
motion in figure heights a frame; smooth motion is what is left of it once trembling is taken out.
"""

LIMITATIONS = """
## Limitations

- The world is drawn and small: one figure, 128x128 pixels, six kinds, eight colours, six places. What holds
  here need not hold for photographs or for larger models; `quality` runs with any checkpoint, but the truth
  is known for puppets alone.
- Few prompts so far: differences within the intervals are none.
- Who a figure is, where the prompt doesn't say, most methods decide frame by frame. Some open prompts give
  figures between two kinds, which the classifier reads now so, now so.
- Warp error of edits uses the source's flow, and so does flow momentum: that number flatters it. Flips,
  drift and background don't.
- Flow momentum costs a pass through the VAE at seven of the steps.
- Timings were taken while the machine had other things to do: their ratios alone mean something. At the size
  of Stable Diffusion 1.5 and XL (`speed --model sd15`, `sdxl`) nothing is timed yet.
- Generated motion is a way through noise, not an action: figures sway and shift their weight, they don't
  walk. For an action, give a clip to edit.
- The baseline called TokenFlow finds its correspondences in the noised source instead of an inverted one,
  and injects no features.
"""


def write(docs: Path, cells: Cells, model: Model) -> None:
    """Write the page and its filmstrips to the folder ``docs``."""
    docs.mkdir(parents=True, exist_ok=True)
    text = PAGE
    text += quality.section(Runs(cells, model, quality.STEPS), docs)
    text += ablation.section(Runs(cells, model, ablation.STEPS))
    text += speed.section(cells)
    (docs / "results.md").write_text(text + LIMITATIONS)
