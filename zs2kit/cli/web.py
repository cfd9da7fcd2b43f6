"""`zs2kit web`."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import click

from zs2kit.cli.cores import choose_waiting
from zs2kit.cli.options import FILES, MACHINE, PATH, WHAT, Parsed, Whole, flag
from zs2kit.cli.terminal import Command, hush, manners, say
from zs2kit.errors import ClipError, UsageError


def _bytes(text: str) -> int:
    """500mb or 4gb -> bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mg])b", text.lower())
    if not match:
        raise ValueError
    return round(float(match[1]) * {"m": 1e6, "g": 1e9}[match[2]])


SIZE = Parsed("size", _bytes, "500mb or 4gb")


@click.command(cls=Command)
@flag(
    "--model",
    "models",
    metavar="NAME",
    multiple=True,
    group=WHAT,
    help="A model that the page offers; may be repeated. At first, the first one is chosen.  [default: "
    "puppets, the bundled model]",
)
@flag(
    "--lora",
    "loras",
    metavar="NAME",
    multiple=True,
    group=WHAT,
    help="A LoRA that the page offers: a .safetensors file or a hub name; may be repeated.",
)
@flag(
    "--set",
    "sets",
    metavar="NAME.OPTION=VALUE",
    multiple=True,
    group=WHAT,
    help="A model that the page offers for a plugin's or filter's option, such as "
    "control.model=controlnet_pose; may be repeated.",
)
@flag(
    "-o",
    "--out",
    type=PATH,
    default="zs2kit-web",
    metavar="FOLDER",
    group=FILES,
    help="Where uploads and results are kept.  [default: zs2kit-web, in the current folder]",
)
@flag(
    "--max-upload",
    type=SIZE,
    metavar="SIZE",
    default="4gb",
    group=FILES,
    help="The largest file that can be uploaded, such as 500mb.  [default: 4gb]",
)
@flag(
    "--max-total",
    type=SIZE,
    metavar="SIZE",
    default="20gb",
    group=FILES,
    help="The most disk space that all uploads together can take, such as 20gb.  [default: 20gb]",
)
@flag(
    "--port",
    metavar="N",
    type=Whole(0, 65535),
    default=7860,
    group=MACHINE,
    help="The port; 0 is any free one.  [default: 7860]",
)
@flag(
    "--device",
    metavar="NAME",
    group=MACHINE,
    help="Where to compute: cpu, cuda, mps.  [default: the fastest available]",
)
@flag(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    group=MACHINE,
    help="The precision to compute in.  [default: what suits the device]",
)
def web(
    models: Sequence[str],
    loras: Sequence[str],
    sets: Sequence[str],
    out: Path,
    max_upload: int,
    max_total: int,
    port: int,
    device: str | None,
    dtype: str | None,
) -> None:
    """Edit in your browser, on a page that only this machine can open.

    Prints the page's address. Ctrl-C stops the server; unfinished edits can be resumed the next time.
    """
    if find_spec("gradio") is None:
        raise UsageError("the web page needs Gradio", "pip install 'zs2kit[web]'")

    from zs2kit.files import locked

    given: dict[str, list[str]] = {}
    for each in sets:
        name, equals, value = each.partition("=")
        if not (equals and value and "." in name):
            raise UsageError(f"--set can't read '{each}'", "write NAME.OPTION=VALUE")
        given.setdefault(name, []).append(_placed(value))
    out = Path(os.path.abspath(out))
    uploads, kept = out / "zs2kit-uploads", out / "jobs"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        lock = os.open(kept / "lock", os.O_RDWR | os.O_CREAT)  # which ends with the process
        if not locked(lock):
            raise UsageError(f"another page uses {out}", "name another folder: `out`")
        shutil.rmtree(uploads, ignore_errors=True)  # those of a page that was killed
        uploads.mkdir()
    except OSError as error:
        raise ClipError(f"{out} can't be used: {error.strerror}", "choose another folder: `out`") from error
    # What Gradio reads from its environment, some of it while it is imported
    os.environ |= {
        "GRADIO_TEMP_DIR": os.fspath(uploads),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    names, loras = [_placed(each) for each in models], [_placed(each) for each in loras]
    os.chdir(out)  # so that no name that somebody types is that of another file
    with manners():
        choose_waiting()
        from zs2kit.web.server import listen, make_app, serve

        listening = listen(port)
        hush()
        from zs2kit.web.fields import check
        from zs2kit.web.jobs import Jobs, Models
        from zs2kit.web.page import Page, looks

        check(given)
        how = {"device": device, "dtype": dtype}
        available = Models(names, loras, **how)
        Thread(target=available.load_first, daemon=True).start()
        jobs = Jobs(kept, uploads, available, max_total)
        app = make_app(Page(jobs, out, given).blocks, jobs, max_upload, **looks(max_upload))
        click.echo(f"http://127.0.0.1:{listening.getsockname()[1]}")
        say(f"results are kept in {out}; Ctrl-C stops the server")
        try:
            serve(app, listening)
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            jobs.close()
            shutil.rmtree(uploads, ignore_errors=True)


def _placed(name: str) -> str:
    """Return a model's name; if it is a path here, the whole path."""
    return os.path.abspath(name) if os.path.exists(name) else name
