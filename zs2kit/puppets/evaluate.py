"""Measure the model on what training never saw: python -m zs2kit.puppets.evaluate [--docs docs].

The numbers are kept in docs/puppets.json, so that parts may be measured one by one; the page shows them all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from diffusers import AutoencoderKL, StableDiffusionPipeline
from numpy.typing import NDArray

from ..carry import Carry
from ..motion import settle
from . import flow
from .captions import WHERE, Triple, is_held_out, load_prompts, with_article
from .detector import detect
from .diffusion import to_tensor
from .enlarger import measure_enlarger
from .estimator import estimate
from .figures import COLOURS, KINDS
from .instruct import measure_instruct
from .lora import measure_lora
from .networks import GROUPS, SIZE
from .pictures import draw, draw_maps, scene
from .places import PLACES
from .prompted import measure_prompted
from .reference import measure_reference
from .tiny_vae import measure_tiny_vae
from .train import WEIGHTS
from .world import MOTIONS, Scene, motion_scenes, render
from .yardsticks import (
    COLUMNS,
    Images,
    Numbers,
    Points,
    apart,
    body_heights,
    classify,
    correct,
    draw_prompts,
    grid,
    interlaced,
    load_classifier,
    load_reader,
    overlap,
    psnr,
    reconstruct,
    save_picture,
    shares,
)

STEPS, GUIDANCE = 20, 5.0
PICTURES = range(512)  # held-out renders
CLIPS = 12  # of 8 frames each


class Part(NamedTuple):
    """A section of the page."""

    title: str
    measure: Callable[[Path, Path | None], Numbers]  # of the weights' folder; pictures go to the docs' one
    wanted: dict[str, str]  # what the numbers whose names start so are to reach
    notes: str  # Markdown below the table


class Edits(NamedTuple):
    """Frames of edited clips, what they were made of, and what was asked for."""

    frames: Images
    sources: Images
    points: Points  # true keypoints of the sources
    asked: NDArray[np.intp]  # (frames, 3) numbers into `GROUPS`


def measure_readers(folder: Path, docs: Path | None) -> Numbers:
    """The VAE, and what reads pictures: on held-out renders and on what the VAE makes of them."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    renders, maps = draw(PICTURES, "test"), draw_maps(PICTURES, "test")
    decoded = reconstruct(vae, renders.images)
    numbers: Numbers = {"VAE: PSNR of reconstructions, dB": psnr(renders.images, decoded)}
    for images, name in ((renders.images, "renders"), (decoded, "reconstructions")):
        numbers |= shares(classify(load_classifier(folder), images) == renders.labels, f"classifier, {name}")
        found = detect(load_reader(folder, "detector"), images)
        numbers[f"detector, {name}: PCK@0.05"] = float(correct(found, renders.keypoints, 0.05).mean())
        depth, mask = estimate(load_reader(folder, "estimator"), images)
        numbers[f"estimator, {name}: error of depth, 0..1"] = float(np.abs(depth - maps[..., 0] / 255).mean())
        numbers[f"estimator, {name}: IoU of masks"] = overlap(mask >= 0.5, maps[..., 1] > 0)
    if docs:
        depth, mask = estimate(load_reader(folder, "estimator"), decoded[:12])
        greys = [np.rint(each * 255).astype(np.uint8)[..., None].repeat(3, -1) for each in (depth, mask)]
        rows = [renders.images[:12], decoded[:12], *greys]
        save_picture(docs / "puppets-readers.jpg", grid(np.concatenate(rows), 12))
    return numbers


def measure_text(folder: Path, docs: Path | None) -> Numbers:
    """What the classifier reads off pictures of all prompts."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    prompts = load_prompts()
    drawn = draw_prompts(pipe, prompts, STEPS, GUIDANCE)
    asked = np.array([[names.index(getattr(p, g)) for g, names in GROUPS.items()] for p in prompts])
    right = classify(load_classifier(folder), drawn) == asked
    numbers: Numbers = {}
    for name in ("template", "hand"):
        chosen = np.array([prompt.source == name for prompt in prompts])
        numbers |= shares(right[chosen], f"text, {name} prompts")
    held = np.array([is_held_out(prompt.kind, prompt.colour, prompt.place) for prompt in prompts])
    numbers |= shares(right[held], "text, held-out triples")
    if docs:
        save_picture(docs / "puppets-text.jpg", grid(drawn, 20, ~right.all(axis=1)))
    return numbers


def ask_anything(_: Scene, rng: np.random.Generator) -> tuple[str, Triple]:
    """Any of the prompts by template."""
    prompts = [prompt for prompt in load_prompts() if prompt.source == "template"]
    prompt = prompts[int(rng.integers(len(prompts)))]
    return prompt.prompt, (prompt.kind, prompt.colour, prompt.place)


def ask_elsewhere(shown: Scene, rng: np.random.Generator) -> tuple[str, Triple]:
    """The kind that is there, in another colour and another place."""
    place = str(rng.choice([place for place in PLACES if place != shown.place]))
    return ask_recoloured(replace(shown, place=place), rng)


def ask_recoloured(shown: Scene, rng: np.random.Generator) -> tuple[str, Triple]:
    """What is there in another colour."""
    colour = str(rng.choice([colour for colour in COLOURS if colour != shown.colour]))
    prompt = f"{with_article(f'{colour} {shown.kind}')} {WHERE[shown.place][0]}"
    return prompt, (shown.kind, colour, shown.place)


# A skeleton lets the prompt choose everything; a depth map shows the kind as well, and edges the place too.
ASK: dict[str, Callable[[Scene, np.random.Generator], tuple[str, Triple]]] = {
    "pose": ask_anything,
    "depth": ask_elsewhere,
    "edges": ask_recoloured,
}


def edits(model: Any, name: str, clips: int, scale: float, guidance: float) -> Edits:
    """Edit clips of moving figures with the ControlNet plugin called ``name``."""
    import zs2kit
    from zs2kit.clip import Clip
    from zs2kit.plugins import build

    frames, originals, points, asked = [], [], [], []
    for i in range(clips):
        rng = np.random.default_rng((2, i))
        start = replace(scene(10_000 + i, "test"), height=float(rng.uniform(0.62, 0.9)))
        sources = [
            render(each, SIZE) for each in motion_scenes(start, MOTIONS[i % len(MOTIONS)], 8, travel=0.1)
        ]
        prompt, wanted = ASK[name](start, rng)
        edited = zs2kit.edit(
            Clip.from_images([picture.image for picture in sources], 12),
            prompt,
            plugins=[build(name, {"scale": str(scale)})],
            model=model,
            seed=i,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            flow_momentum=0.0,  # it is the networks that are measured, without what mends their frames
        )
        for frame, picture in zip(edited, sources, strict=True):
            if body_heights(picture.keypoints[None])[0] >= 0.4 * SIZE:
                frames.append(frame.image)
                originals.append(picture.image)
                points.append(picture.keypoints)
                asked.append([names.index(word) for names, word in zip(GROUPS.values(), wanted, strict=True)])
    return Edits(np.stack(frames), np.stack(originals), np.stack(points), np.array(asked))


def measure_edits(name: str, folder: Path, docs: Path | None) -> Numbers:
    """Edits with the plugin of this name, steered and not."""
    import zs2kit

    return measure_model(zs2kit.Model.load(folder), name, GUIDANCE, name, folder, docs)


def measure_flow_edits(folder: Path, docs: Path | None) -> Numbers:
    """The same with the flow model and its ControlNet of poses."""
    import zs2kit

    if not (folder / "flow").exists():
        return {}
    model = zs2kit.Model(flow.load_flow(folder), "puppets-flow", (folder / "flow", folder))
    return measure_model(model, "pose", flow.GUIDANCE, "flow-pose", folder, docs)


def measure_model(
    model: Any, name: str, guidance: float, called: str, folder: Path, docs: Path | None
) -> Numbers:
    """Edits by a model with the plugin of this name; ``called``: the numbers and the picture."""
    classifier = load_classifier(folder)
    detector, estimator = load_reader(folder, "detector"), load_reader(folder, "estimator")
    numbers: Numbers = {}
    rows, missed = [], []
    for scale in (1.0, 0.0):
        made = edits(model, name, CLIPS, scale, guidance)
        right = classify(classifier, made.frames) == made.asked
        about = f"{called} edits, scale {scale:g}"
        numbers[f"{about}: PCK@0.1"] = float(correct(detect(detector, made.frames), made.points, 0.1).mean())
        if name == "depth":
            before, after = (estimate(estimator, images)[0] for images in (made.sources, made.frames))
            numbers[f"{about}: difference of depth, 0..1"] = float(np.abs(before - after).mean())
        numbers |= shares(right, about)
        rows.append(made.frames)
        missed.append(~right.all(axis=1))
    if docs:
        shown = interlaced(np.stack([made.sources, *rows]))
        wrong = interlaced(np.stack([np.zeros_like(missed[0]), *missed]))
        save_picture(docs / f"puppets-{called}.jpg", grid(shown, COLUMNS, wrong))
    return numbers


def measure_colour(folder: Path, docs: Path | None) -> Numbers:
    """Edits by pose with and without the plugin colour, whose prompts leave open where the figure is."""
    import zs2kit
    from zs2kit.clip import Clip
    from zs2kit.plugins import build

    model, classifier = zs2kit.Model.load(folder), load_classifier(folder)
    detector, estimator = load_reader(folder, "detector"), load_reader(folder, "estimator")
    shown, asked, prompts = [], [], []
    for i in range(CLIPS):
        rng = np.random.default_rng((3, i))
        place = list(PLACES)[i % len(PLACES)]
        start = replace(scene(20_000 + i, "test"), height=float(rng.uniform(0.62, 0.9)), place=place)
        kind = str(rng.choice([kind for kind in KINDS if kind != start.kind]))
        colour = str(rng.choice([colour for colour in COLOURS if colour != start.colour]))
        moving = motion_scenes(start, MOTIONS[i % len(MOTIONS)], 4, travel=0.1)
        shown.append([render(each, SIZE) for each in moving])
        asked.append(
            [names.index(word) for names, word in zip(GROUPS.values(), (kind, colour, place), strict=True)]
        )
        prompts.append(with_article(f"{colour} {kind}"))
    pictures = [picture for each in shown for picture in each]
    wanted = np.repeat(np.array(asked), 4, axis=0)
    sources = np.stack([picture.image for picture in pictures])
    points = np.stack([picture.keypoints for picture in pictures])
    numbers: Numbers = {}
    rows, missed = [sources], [np.zeros(len(sources), bool)]
    for about, names in (("pose alone", ["pose"]), ("pose and colour", ["pose", "colour"])):
        frames = []
        for i, (each, prompt) in enumerate(zip(shown, prompts, strict=True)):
            edited = zs2kit.edit(
                Clip.from_images([picture.image for picture in each], 12),
                prompt,
                plugins=[build(name, {}) for name in names],
                model=model,
                seed=i,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                flow_momentum=0.0,  # as with the others
            )
            frames += [frame.image for frame in edited]
        drawn = np.stack(frames)
        figures = np.stack([picture.mask for picture in pictures]) | (estimate(estimator, drawn)[1] >= 0.5)
        distances = [apart(*pair) for pair in zip(sources, drawn, figures, strict=True)]
        pixels, means = np.mean(distances, axis=0)
        numbers[f"{about}: difference of the place, Lab"] = float(pixels)
        numbers[f"{about}: difference of its mean, Lab"] = float(means)
        right = classify(classifier, drawn) == wanted
        numbers |= shares(right, about)
        numbers[f"{about}: PCK@0.1"] = float(correct(detect(detector, drawn), points, 0.1).mean())
        rows.append(drawn)
        missed.append(~right[:, :2].all(axis=1))
    if docs:
        wrong = interlaced(np.stack(missed))
        save_picture(docs / "puppets-colour.jpg", grid(interlaced(np.stack(rows)), COLUMNS, wrong))
    return numbers


def measure_enlarging(folder: Path, docs: Path | None) -> Numbers:
    """The enlarger, and how much longer an edit takes with it, in processor time."""
    import zs2kit
    from zs2kit.clip import Clip
    from zs2kit.plugins import build

    if not (folder / "enlarger").exists():
        return {}
    numbers = measure_enlarger(folder, docs)
    model = zs2kit.Model.load(folder)
    assert model.enlarger is not None
    moving = motion_scenes(scene(10_000, "test"), MOTIONS[0], 24)
    sources = [render(each, 2 * SIZE).image for each in moving]
    clip = Clip.from_images(sources, 12)
    edit = zs2kit.edit(clip, "a blue robot", plugins=[build("pose", {})], model=model, cuts=())
    small = edit.unfitted()
    next(iter(small))  # the first chunk takes longer
    start = time.process_time()
    drawn = [frame.image for frame in small]
    drawing, carry = time.process_time() - start, Carry()
    start = time.process_time()
    for image, source in zip(drawn, sources, strict=True):
        settle(model.enlarger(to_tensor(image[None])[0] / 2 + 0.5)[None], [source], carry)
    return {**numbers, "edit: further time for enlarging": (time.process_time() - start) / drawing}


READ = """\
These are the VAE, and three small networks that read pictures. They were measured on 512 renders that
training didn't see, and on their reconstructions by the VAE. The error of depth is the mean absolute error;
the IoU of masks is that of all pixels together.

The picture shows renders, their reconstructions, and the depth and the mask that the estimator finds in the
reconstructions.

![Renders, their reconstructions, and their depth and masks](puppets-readers.jpg)
"""

DRAWN = """\
200 prompts from templates and 50 written by hand (`zs2kit/puppets/prompts.jsonl`), one picture each. A
classifier reads what the picture shows; it was trained on renders and reconstructions only. Held-out
triples: combinations of kind, colour and place that training never saw together, though it saw each of
the three on its own. (The VAE, which doesn't use captions, saw some of them early on.)

The picture shows all 250; a red frame means that kind, colour or place is wrong.

![250 pictures drawn from prompts](puppets-text.jpg)
"""

EDITED = """\
Clips of walking, waving, dancing and jumping figures, at least 40% as high as the frame, were edited by
`zs2kit.edit` without flow momentum; {asked}.

Scale 0 shows what chance gives.

The rows of the picture repeat: the source, the edit, the edit with scale 0. A red frame means that kind,
colour or place is wrong.

![Frames of clips, their edits, and edits with scale 0](puppets-{name}.jpg)
"""

FOLLOWED = """\
200 edits of scenes that training didn't see (`zs2kit/puppets/edits.jsonl`), by diffusers' own pipeline at
20 steps, with guidance 5 by the text and 1.5 by the image. 40 of the instructions were written by hand;
of the others, one in eight asks for two changes.

- *asked for and found*: the classifier reads everything that was asked for
- *nothing else changed*: it reads the rest as before, and the pose is kept
- *pose kept*: at least 80% of the keypoints that the detector finds are at most a tenth of the figure's
  extent away from the source's true ones

The picture shows a fifth of the edits, with the source above the result. A red frame means that something
was not as asked for.

![Sources, and the edits of them by instructions](puppets-instruct.jpg)
"""

ALIKE = """\
100 pictures that training didn't see were given as references to diffusers' own pipeline, at 20 steps and
guidance 5. The prompt is "a figure", so kind, colour and place should be those of the reference. "Another
place named" means that the prompt is "a figure on the beach" or the like, and that place should be drawn.
Scale 0 shows what chance gives.

The picture shows references, what was drawn from them, the same with another place, and with scale 0.

![References, and pictures drawn from them](puppets-reference.jpg)
"""

PROMPTED = """\
18 clips of 4 frames were edited with a prompt for the source and another for the result, which names one
thing anew: six times the kind, six times the colour, six times the place. All options are the plugins' own
defaults, except for `invert` with guidance 2; flow momentum was off.

*Difference of the place* is the distance from the source in CIELAB, as the mean over all pixels outside both
figures, of the edits that name the same place.

The rows of the picture repeat: the source, `invert`, `invert` with guidance 2, `flowedit`. A red frame means
that kind, colour or place is wrong.

![edits by two prompts](puppets-prompted.jpg)
"""

STUCK = """\
64 of the prompts of *Text to picture* were drawn with the LoRA (as "a sticker of ...") and without it, with
the same seeds. *White of the margin* is the share of white pixels among those that are 2 to 6 pixels from the
figure that the estimator finds. The held-out stickers are renders with a margin drawn around the figure.

The picture shows each prompt without and with the LoRA.

![stickers](puppets-lora.jpg)
"""

COLOURED = """\
12 clips of 4 frames, two for each place, were edited by `zs2kit.edit` with and without the plugin `colour`,
both times without flow momentum. The prompts ask for another kind of figure in another colour, such as "a
blue knight", and don't name the place.

- *difference of the place*: the distance from the source in CIELAB, as the mean over all pixels outside both
  figures, the source's and the new one. A distance of 2 is just visible.
- *difference of its mean*: the distance between the mean colours of the same pixels
- *kind*, *colour*: the classifier reads what the prompt asks for
- *place*: the classifier reads the source's place

The rows of the picture repeat: the source, `pose` alone, `pose` with `colour`. A red frame means that kind or
colour is wrong.

![edits with the source's colours](puppets-colour.jpg)
"""

TWIN = """\
The tiny VAE stands in for the VAE in flow momentum. It was measured on 128 held-out renders. It was also
measured on the U-Net's estimates of the finished latents, at the eight of twenty steps where flow momentum
acts, while 24 of the prompts of *Text to picture* were drawn.

- *PSNR of decoding*: of what the tiny VAE decodes, against what the VAE itself decodes
- *error of latents*: the root mean square error, as a share of the root mean square of the VAE's latents
- *averages*: such estimates, averaged with others of the same picture that were moved a little
- *error of what is added*: the error of the change that averaging makes to the latents, with each VAE
  decoding and encoding for itself
- *times as fast*: for one decoding and two encodings of a frame of 128x128 on a CPU, in `channels_last`

The picture shows estimates decoded by the VAE, and by the tiny VAE.

![estimates](puppets-tiny-vae.jpg)
"""

ENLARGED = """\
The enlarger makes pictures of 512 pixels out of the model's 128. An edit then averages them along the motion
of its source. The enlarger alone was measured on 64 renders that training didn't see; with the averages, on 8
clips of moving figures, along the motion of the renderer's own frames. The VAE encoded and decoded all
renders before.

- *PSNR*: against what the renderer draws at 512 pixels
- *warp error*: the mean squared difference, times 1000, between a frame and the next one, warped back along
  the flow between the renderer's own frames at 512 pixels, where it is visible in both
- *further time*: of a processor, for the enlarger and the averages, in an edit of 24 frames of 256 pixels
  with `pose` at 20 steps

The rows of the picture are: cubic interpolation, the enlarger, the renderer.

![enlarged pictures](puppets-enlarger.jpg)
"""

FLOWN = """\
`puppets-flow` is a diffusion transformer like FLUX.1, of 7.7 million weights. It was trained by flow
matching, with the two U-Nets as its teachers. Here it drew all prompts of *Text to picture* and made all
edits of *Edits by instructions*, one picture each, in diffusers' own pipeline for FLUX.1 Kontext, at 20 steps
and guidance 2.5.

![Pictures that puppets-flow drew from prompts](puppets-flow.jpg)

![Edits by instructions that puppets-flow made](puppets-flow-instruct.jpg)
"""

ASKED = {
    "pose": "the prompts are among those of *Text to picture*",
    "depth": """the prompt names the same kind of figure, in another colour and another place.
Difference of depth: the mean absolute difference between the estimator's maps of the source and of the
edit""",
    "edges": "the prompt names the same figure and place, in another colour",
}

PARTS: dict[str, Part] = {
    "readers": Part(
        "What reads pictures",
        measure_readers,
        {
            "VAE": "30",
            "classifier, renders": "99%",
            "classifier, reconstructions": "98%",
            "detector, renders": "95%",
        },
        READ,
    ),
    "text": Part("Text to picture", measure_text, {"text, held-out": "", "text": "95%"}, DRAWN),
}
for _name, _asked in ASKED.items():
    PARTS[_name] = Part(
        f"Edits with {_name}",
        partial(measure_edits, _name),
        {
            f"{_name} edits, scale 1: difference": "",
            f"{_name} edits, scale 1": "90%",
            f"{_name} edits, scale 0: PCK": "near chance",
        },
        EDITED.format(name=_name, asked=_asked),
    )
PARTS["instruct"] = Part(
    "Edits by instructions",
    measure_instruct,
    {"instruct: asked for and found": "90%", "instruct: nothing else changed": "90%"},
    FOLLOWED,
)
PARTS["reference"] = Part(
    "A reference picture", measure_reference, {"reference, scale 0": "near chance", "reference": "90%"}, ALIKE
)
PARTS["colour"] = Part(
    "The source's colours",
    measure_colour,
    {"pose and colour: kind": "90%", "pose and colour: colour": "90%"},
    COLOURED,
)
PARTS["two prompts"] = Part("Edits by two prompts", measure_prompted, {}, PROMPTED)
PARTS["lora"] = Part("The LoRA", measure_lora, {}, STUCK)
PARTS["tiny VAE"] = Part("The tiny VAE", measure_tiny_vae, {}, TWIN)
PARTS["enlarger"] = Part(
    "Enlarged pictures",
    measure_enlarging,
    {"enlarger: PSNR": "2 dB more", "enlarger: warp": "no more", "edit: further": "below 20%"},
    ENLARGED,
)
PARTS["flow"] = Part(
    "The diffusion transformer, puppets-flow",
    flow.measure_flow,
    {
        "flow, held-out": "",
        "flow instruct: asked for and found": "90%",
        "flow instruct: nothing else changed": "90%",
        "flow instruct": "",
        "flow": "95%",
    },
    FLOWN,
)
PARTS["flow pose"] = Part(
    "The diffusion transformer's edits with pose",
    measure_flow_edits,
    {"flow-pose edits, scale 1: PCK": "90%", "flow-pose edits, scale 0: PCK": "near chance"},
    EDITED.format(
        name="flow-pose", asked="the prompts are among those of *Text to picture*, and guidance is 2.5"
    ),
)

PAGE = """# Puppets: the demonstration model in numbers

`puppets` is the small model that comes with zs2kit. It is a complete latent diffusion model of a drawn
world: six kinds of figure (robot, knight, wizard, ...) in eight colours and six places. It draws nothing
else. Since a program draws this world, it can be checked whether an edit did what it should. This page says
how often it does.

Training saw none of the seeds used here. The weights are those of the package (float16, run as float32).
Steps and guidance are the defaults of the command line, unless a section says otherwise. The last column is
what we wanted to reach.

*Kind*, *colour* and *place* are the shares of pictures in which a classifier sees the right kind of figure,
in the right colour and place. *PCK@0.1* is the share of keypoints, such as hands and knees, that a detector
finds in the result at most a tenth of the figure's extent away from the source's true ones.

Training steps of each network: {trained}. `python -m zs2kit.puppets.train --help` says how to train further.

This page is made by `python -m zs2kit.puppets.evaluate --docs docs`; do not edit it.
"""

SECTION = """
## {title}

| what | measured | wanted |
| --- | --- | --- |
{rows}

{notes}"""


def page(numbers: dict[str, Numbers], steps: dict[str, int]) -> str:
    """The numbers of all parts, what they are to reach, and the pictures, as Markdown."""
    text = PAGE.format(trained=", ".join(f"{name} {count:,}" for name, count in steps.items()))
    for name, part in PARTS.items():
        rows = [
            f"| {what} | {shown(what, value)} | {least(part, what)} |"
            for what, value in numbers.get(name, {}).items()
        ]
        if rows:
            text += SECTION.format(title=part.title, rows="\n".join(rows), notes=part.notes)
    return text


def shown(what: str, value: float) -> str:
    """A number as the page shows it."""
    if "dB" in what or "1000" in what:
        return f"{value:.2f}"
    if "Lab" in what or "times" in what:
        return f"{value:.1f}"
    return f"{value:.3f}" if "0..1" in what else f"{value:.1%}"


def least(part: Part, what: str) -> str:
    """What a number is to reach at least, if anything."""
    return next((least for start, least in part.wanted.items() if what.startswith(start)), "")


@click.command(help=__doc__)
@click.option(
    "--weights", type=click.Path(path_type=Path), default=WEIGHTS, help="The diffusers folder to measure."
)
@click.option(
    "--docs", type=click.Path(path_type=Path), help="Folder for puppets.md, its numbers and pictures."
)
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="Measure this part, not all.")
def main(weights: Path, docs: Path | None, only: tuple[str, ...]) -> None:
    """Print every number, and write them and the pictures to ``docs``."""
    for name in only or PARTS:
        found = PARTS[name].measure(weights, docs)
        for what, value in found.items():
            print(f"{what:45s} {shown(what, value):>8s}   {least(PARTS[name], what)}", flush=True)
        if docs:
            record = docs / "puppets.json"
            numbers = json.loads(record.read_text()) if record.exists() else {}
            numbers[name] = found
            record.write_text(json.dumps(numbers, indent=2) + "\n")
            steps = json.loads((weights / "training.json").read_text())
            (docs / "puppets.md").write_text(page(numbers, steps))


if __name__ == "__main__":
    main()
