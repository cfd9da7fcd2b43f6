"""``python -m zs2kit.bench``: what is measured, and how often."""

from __future__ import annotations

import click

from zs2kit.bench.overhead import measure
from zs2kit.cli import Commands


@click.group(cls=Commands, no_args_is_help=False)
def main() -> None:
    """Measure zs2kit on this machine."""


@main.command()
@click.option("--model", default=None, help="The checkpoint.  [default: the bundled model]")
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True, help="Pairs of timings.")
def overhead(model: str | None, repeats: int) -> None:
    """Compare edits with the bare calls of the networks that they need.

    The last number printed is the sampler loop's time over that of its U-Net and ControlNet calls.
    """
    measure(model, repeats)


if __name__ == "__main__":
    main()
