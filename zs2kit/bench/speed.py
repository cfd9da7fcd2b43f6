"""How fast zs2kit is, and how much memory it takes, beside diffusers' own pipelines on the same model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

import click
import diffusers
import torch
import transformers

import zs2kit
from zs2kit.bench.baselines import BATCH, frame_by_frame, text_to_video_zero, zs2
from zs2kit.bench.cases import Case
from zs2kit.bench.cells import Cells
from zs2kit.model import Model
from zs2kit.puppets.networks import SIZE
from zs2kit.quiet import quiet

LENGTHS = 8, 64, 512
GENERATED = (
    ("zs2kit", "frame by frame"),
    ("zs2kit in larger chunks", "frame by frame"),
    ("zs2kit", "Text2Video-Zero"),
)
EDITED = (
    ("edit", "edit frame by frame"),
    ("edit without flow momentum", "edit frame by frame"),
)
RULES = "warmed up, in alternating order"  # how it is timed
PEAK_STEPS = 2  # memory grows with steps, but no more so in a long clip
# The configs of Stable Diffusion 1.5 and XL, where they aren't diffusers' defaults
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
# The widths of the VAE's layers; the width, the layers and the heads of each text encoder
VAE_WIDTHS = (128, 256, 512, 512)
TEXT_ENCODERS = {"sd15": [(768, 12, 12)], "sdxl": [(768, 12, 12), (1280, 32, 20)]}


def random_model(size: str, device: str | None = None) -> Model:
    """A model as large as Stable Diffusion 1.5 (``sd15``) or XL (``sdxl``), of random weights.

    In float32 on a CPU and float16 elsewhere, with the tokenizer of the bundled model.
    """
    bundled = Model.load(device=device)
    with torch.device(bundled.device):
        vae = diffusers.AutoencoderKL(
            block_out_channels=VAE_WIDTHS,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=UNETS[size]["sample_size"] * 8,
            force_upcast=False,  # as in a VAE of XL's that doesn't overflow in float16
        )
        first, *second = TEXT_ENCODERS[size]
        parts: dict[str, Any] = {
            "vae": vae,
            "unet": diffusers.UNet2DConditionModel(**UNETS[size]),
            "text_encoder": _text_encoder(transformers.CLIPTextModel, *first),
            "tokenizer": bundled.pipeline.tokenizer,
            "scheduler": bundled.pipeline.scheduler,
        }
        for each in second:
            encoder = _text_encoder(transformers.CLIPTextModelWithProjection, *each)
            parts |= {"text_encoder_2": encoder, "tokenizer_2": parts["tokenizer"]}
    with quiet():
        kind: Any = diffusers.StableDiffusionPipeline
        if second:
            kind = diffusers.StableDiffusionXLPipeline
        else:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return Model(kind(**parts).to(bundled.device, bundled.dtype), f"{size} of random weights")


def _text_encoder(kind: Any, width: int, layers: int, heads: int) -> Any:
    return kind(
        transformers.CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            projection_dim=width,
        )
    )


def ratios(model: Model, case: Case, steps: int, repeats: int, edits: bool) -> dict[str, float]:
    """Seconds of each way to draw a clip, and zs2kit's over the others': medians of alternating pairs.

    edits: of a rendered clip in its poses as well. Text2Video-Zero draws all frames in one batch, and skips
    the first steps of all but one.
    """
    beginning: dict[str, Any] = {
        "frames": LENGTHS[-1],
        "model": model,
        "size": (case.side, case.side),
        "num_inference_steps": steps,
        "chunk_size": min(BATCH, case.frames),
    }
    ways: dict[str, Callable[[], Any]] = {
        "zs2kit": lambda: zs2(model, case, steps, edited=False),
        "frame by frame": lambda: frame_by_frame(model, case, steps, edited=False, shared=False),
        "first frame": lambda: next(iter(zs2kit.generate(case.prompt, **beginning))),
    }
    if case.frames > BATCH:
        ways["zs2kit in larger chunks"] = lambda: zs2(model, case, steps, edited=False, chunk_size=2 * BATCH)
    if not hasattr(model.pipeline, "text_encoder_2"):  # SDXL has a pipeline of its own
        ways["Text2Video-Zero"] = lambda: text_to_video_zero(model, case, steps)
    if edits:
        ways["edit"] = lambda: zs2(model, case, steps, edited=True)
        ways["edit without flow momentum"] = lambda: zs2(model, case, steps, edited=True, flow_momentum=0.0)
        ways["edit frame by frame"] = lambda: frame_by_frame(model, case, steps, edited=True, shared=False)
    zs2(model, replace(case, frames=1), 1, edited=edits)  # the first calls of a network take longer
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name].append(_timed(way))
        ways = dict(reversed(ways.items()))  # none always comes after the same one
    found = {f"{name}, seconds": median(each) for name, each in seconds.items()}
    for ours, theirs in GENERATED + EDITED:
        if ours in ways and theirs in ways:
            pairs = zip(seconds[ours], seconds[theirs], strict=True)
            found[f"{ours} over {theirs}"] = median(a / b for a, b in pairs)
    return found


def _timed(way: Callable[[], Any]) -> float:
    start = perf_counter()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - start


_PEAK = """
import sys, torch, zs2kit
from zs2kit.memory import resident_peak
model, frames, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in zs2kit.generate("a robot", frames=frames, num_inference_steps=steps, model=model, chunk_size=8):
    pass
print(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_peak())
"""


def peak(model: str, frames: int) -> dict[str, float]:
    """The most memory in MB, the device's or the host's, that it takes to generate a clip, at few steps."""
    arguments = [sys.executable, "-c", _PEAK, model, str(frames), str(PEAK_STEPS)]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    return {"peak memory, MB": int(printed) / 1e6}


def run(cells: Cells, name: str, frames: int, side: int | None, steps: int, repeats: int) -> None:
    """Measure what isn't measured yet on this machine, and print it.

    name: of a model; ``sd15`` and ``sdxl`` are made on the spot, and their memory isn't measured.
    """
    if side is None:
        side = UNETS[name]["sample_size"] * 8 if name in UNETS else max(Model.load(name).native_size)
    case = Case(0, frames, side)
    edits = side == SIZE and name not in UNETS  # of clips that are rendered at that size
    cuda = torch.cuda.is_available()
    common = {
        "speed": name,
        "on": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} thread(s)",
    }

    def show(settings: dict[str, Any], measure: Callable[[], dict[str, float]]) -> None:
        for what, value in cells.numbers(settings, RULES, measure).items():
            click.echo(f"{settings['speed']}, {settings['frames']} frames, {what}: {value:.3f}")

    def all_ratios() -> dict[str, float]:
        model = random_model(name) if name in UNETS else Model.load(name)
        return ratios(model, case, steps, repeats, edits)

    show({**common, "frames": frames, "steps": steps, "side": side, "repeats": repeats}, all_ratios)
    for length in LENGTHS if name not in UNETS else ():
        show({**common, "frames": length, "steps": PEAK_STEPS}, lambda length=length: peak(name, length))  # type: ignore[misc]


def section(cells: Cells) -> str:
    """The tables, of all machines and sizes that were measured."""
    found = sorted(
        cells.found("speed", RULES), key=lambda cell: (cell[0]["speed"], "side" in cell[0], cell[0]["frames"])
    )
    if not found:
        return ""
    timed = [cell for cell in found if "side" in cell[0]]
    columns = ["seconds", "first frame", "/ frame by frame", "the same, larger chunks", "/ Text2Video-Zero"]
    names = ["zs2kit, seconds", "first frame, seconds", *(f"{a} over {b}" for a, b in GENERATED)]
    text = f"\n## Speed\n{SPEED}\n{_table(timed, columns, names)}\n"
    if edits := [cell for cell in timed if "edit, seconds" in cell[1]]:
        columns = ["seconds", "/ frame by frame", "the same, without flow momentum"]
        names = ["edit, seconds", *(f"{a} over {b}" for a, b in EDITED)]
        text += f"\n{SPEED_OF_EDITS}\n{_table(edits, columns, names)}\n"
    for on in sorted({(it["speed"], it["on"]) for it, _ in found if "side" not in it}):
        peaks = {
            it["frames"]: numbers["peak memory, MB"]
            for it, numbers in found
            if "side" not in it and (it["speed"], it["on"]) == on
        }
        text += f"\n| frames ({', '.join(on)}) | peak memory, MB |\n|---|---|\n"
        text += "".join(f"| {frames} | {peak:.0f} |\n" for frames, peak in peaks.items())
        if peaks.keys() >= {*LENGTHS[-2:]}:
            before, after = (peaks[frames] for frames in LENGTHS[-2:])
            text += f"\nFrom {LENGTHS[-2]} to {LENGTHS[-1]} frames memory grows by {after / before - 1:.2%} "
            text += "(wanted: under 2%).\n"
    return text


def _table(
    timed: Sequence[tuple[dict[str, Any], dict[str, float]]], columns: Sequence[str], names: Sequence[str]
) -> str:
    """Markdown: a line for each model and machine that was ``timed``, with the numbers of these ``names``."""
    lines = [f"| model | on | frames | steps | repeats | {' | '.join(columns)} |"]
    lines.append("|---" * (5 + len(columns)) + "|")
    for it, numbers in timed:
        known = f"{it['speed']}, {it['side']}x{it['side']} | {it['on']} | {it['frames']} | {it['steps']}"
        found = [f"{numbers[name]:.2f}" if name in numbers else "" for name in names]
        lines.append(f"| {known} | {it['repeats']} | {' | '.join(found)} |")
    return "\n".join(lines)


SPEED = """
Seconds for a whole clip, from text to pixels: the median of repeats in which the methods take turns. The
column "/ frame by frame" is zs2kit's time divided by that of frame by frame, the median over pairs; the aim
was at most 1.10. "Frame by frame" is StableDiffusionPipeline with the same number of pictures at a time, 8.
It gives the U-Net both halves of the guidance at once. zs2kit gave them one after the other when this was
measured; with "larger chunks", which are twice as long, the U-Net's batch is the same. Text2Video-Zero
draws all frames in one batch and takes the first steps for one frame only. The larger models have random
weights.
"""

SPEED_OF_EDITS = """
Edits in the source's poses, compared with StableDiffusionControlNetPipeline frame by frame. They are
slower because of flow momentum: there are eight averages, and each costs one decoding and two encodings by
the VAE.
This was measured before there was a tiny VAE. Since then, in one run at one thread on a busy machine, the
first of these edits took 19.1 CPU seconds, 15.7 without flow momentum, and 19.2 frame by frame.
"""
