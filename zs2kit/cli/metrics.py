"""`zs2kit metrics`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import click

from zs2kit.cli.options import PATH, RATE, TIME, Whole
from zs2kit.cli.terminal import manners, worded_here
from zs2kit.errors import UsageError


@click.command()
@click.argument("result", type=PATH)
@click.option("--source", metavar="CLIP", type=PATH, help="The clip that was edited, to compare with.")
@click.option("--start", type=TIME, metavar="TIME", help="The edit's --start, for the source.")
@click.option("--end", type=TIME, metavar="TIME", help="The edit's --end, for the source.")
@click.option("--fps", type=RATE, metavar="X", help="The edit's --fps, for the source.")
@click.option(
    "--region",
    metavar="CLIP",
    type=PATH,
    help="Masks, white where something should change, to measure whether the rest stayed the same.",
)
@click.option("--chunk-size", metavar="N", type=Whole(1), help="The edit's chunk size, to look for seams.")
@click.option(
    "--features",
    metavar="NAME",
    multiple=True,
    help="Folder or hub name of a CLIP or DINO model for transformers; may be repeated.",
)
@click.option("--prompt", help="What RESULT should show, for a CLIP model.")
@click.option("--source-prompt", help="What the source shows, for a CLIP model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def metrics(
    result: Path,
    source: Path | None,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    region: Path | None,
    chunk_size: int | None,
    features: Sequence[str],
    prompt: str | None,
    source_prompt: str | None,
    as_json: bool,
) -> None:
    """Measure RESULT, alone or compared with its source.

    docs/metrics.md says what the numbers mean.
    """
    if region and not source:
        raise UsageError("what is outside --region is compared with the source", "give --source too")
    if (prompt or source_prompt) and not features:
        raise UsageError("prompts are measured with a CLIP model", "name one with --features")
    if source_prompt and not prompt:
        raise UsageError("--source-prompt is compared with --prompt", "give both")
    with manners():
        from zs2kit import io
        from zs2kit.metrics import UNITS, TransformersFeatures, measure, verdict

        clips = [
            None if each is None else io.read(each, start=start, end=end, rate=fps)
            for each in (source, region)
        ]
        numbers = measure(
            io.read(result),
            *clips[:1],
            region=clips[1],
            chunk_size=chunk_size,
            features=[TransformersFeatures(each) for each in features],
            prompt=prompt,
            source_prompt=source_prompt,
        )
    lines = []
    for name, value in numbers.items():
        unit, better = UNITS.get(name, ("", ""))
        lines.append(f"{name:24}{value:12.5g}  {unit:8}  {better}".rstrip())
    lines.append(f"In short: {worded_here(verdict(numbers))}.")
    click.echo(json.dumps(numbers, indent=2) if as_json else "\n".join(lines))
