"""The command line, with a file for each command.

Torch, PyAV and diffusers take seconds to import, so only the commands that need them import them.
"""

from __future__ import annotations

import click

from zs2kit import __version__
from zs2kit.cli.edit import edit
from zs2kit.cli.filter import filter_
from zs2kit.cli.generate import generate
from zs2kit.cli.metrics import metrics
from zs2kit.cli.models import models
from zs2kit.cli.plan import plan
from zs2kit.cli.plugins import filters, plugins
from zs2kit.cli.terminal import Commands
from zs2kit.cli.verify import verify
from zs2kit.cli.web import web


@click.group(
    name="zs2kit",
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="zs2kit")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Edit video with image diffusion models, without training."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (edit, filter_, filters, generate, metrics, models, plan, plugins, verify, web):
    main.add_command(_command)
