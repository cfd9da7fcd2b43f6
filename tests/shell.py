"""The command line, as a shell would call it, in this process."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result

from zs2kit import cli


def run(*args: object, **how: Any) -> Result:
    """Call zs2kit with these words. A traceback is a bug, whatever they are. how: as `CliRunner.invoke`."""
    result = CliRunner().invoke(cli.main, [str(each) for each in args], **how)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
