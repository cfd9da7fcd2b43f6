"""`zs2kit metrics`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from zs2kit.cli.options import PATH
from zs2kit.cli.terminal import manners
from zs2kit.errors import UsageError


@click.command()
@click.argument("result", type=PATH)
@click.option("--source", metavar="CLIP", type=PATH, help="What was edited, to compare with.")
@click.option(
    "--region",
    metavar="CLIP",
    type=PATH,
    help="Masks, white where something was to change: is the rest as it was?",
)
@click.option("--chunk-size", metavar="N", type=click.IntRange(1), help="That of the edit: are there seams?")
@click.option(
    "--features",
    metavar="NAME",
    multiple=True,
    help="Folder or hub name of a CLIP or DINO model for transformers; may be repeated.",
)
@click.option("--prompt", help="What RESULT is to show, for CLIP.")
@click.option("--source-prompt", help="What the source shows, for CLIP.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def metrics(
    result: Path,
    source: Path | None,
    region: Path | None,
    chunk_size: int | None,
    features: Sequence[str],
    prompt: str | None,
    source_prompt: str | None,
    as_json: bool,
) -> None:
    """Measure the clip RESULT; docs/metrics.md says what the numbers mean."""
    if region and not source:
        raise UsageError("--region needs --source: what is outside of it is compared with the source")
    if (prompt or source_prompt) and not features:
        raise UsageError("prompts are measured by a CLIP model", "name one by --features")
    if source_prompt and not prompt:
        raise UsageError("--source-prompt is compared with --prompt", "give both")
    with manners():
        from zs2kit import io
        from zs2kit.metrics import TransformersFeatures, measure

        clips = [None if each is None else io.read(each) for each in (source, region)]
        numbers = measure(
            io.read(result),
            *clips[:1],
            region=clips[1],
            chunk_size=chunk_size,
            features=[TransformersFeatures(each) for each in features],
            prompt=prompt,
            source_prompt=source_prompt,
        )
    lines = [f"{name:24}{value:12.5g}" for name, value in numbers.items()]
    click.echo(json.dumps(numbers, indent=2) if as_json else "\n".join(lines))
