"""Views: the HTML with which the page shows jobs. Texts that come from elsewhere are escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

from zs2kit.errors import Notice
from zs2kit.web.jobs import REPORT, RESULT_VIEW, SHEET, SOURCE_VIEW, Job

STATES = {
    "waiting": "waiting for its turn",
    "running": "working",
    "stopped": "stopped",
    "failed": "failed",
    "done": "done",
}
WORKS = {"preview": "Preview", "edit": "Edit", "generate": "From text", "filter": "Filter"}


def worded(text: str, root: Path) -> str:
    """Return a message of the library in the page's words.

    Arguments become names of the page's fields: `size=512x288` becomes “Size: 512x288”. Of files in ``root``,
    only the names are shown.
    """

    def field(match: re.Match[str]) -> str:
        plugin, _, name = match[1].rpartition(".")
        label = name.removeprefix("num_inference_").replace("_", " ").capitalize()
        value = f": {match[2].strip(chr(39))}" if match[2] else ""
        return f"“{f'{plugin}, ' if plugin else ''}{label}{value}”"

    text = re.sub(rf"{re.escape(str(root))}/\S*/", "", " ".join(text.split()))
    return re.sub(r"`([a-z_]+(?:\.[a-z_]+)?)(?:=([^`]*))?`", field, text)


def error_line(text: str) -> str:
    """Return an error as the form shows it; an empty text clears it."""
    return f'<p class="z-error" role="alert">{escape(text)}</p>' if text else ""


def job_list(jobs: Iterable[Job], shown: Job | None, root: Path) -> str:
    """Return the rows of the list of all jobs, the latest first, each with a progress bar."""
    return "".join(_row(job, job is shown, root) for job in jobs)


def _row(job: Job, shown: bool, root: Path) -> str:
    wanted = job.wanted
    of = Path(wanted.clip).name if wanted.clip else wanted.prompt or "the model's own prompt"
    with_what = ", ".join([*wanted.plugins, *wanted.filters])
    about = " · ".join(filter(None, [wanted.prompt if wanted.clip else f"{wanted.frames} frames", with_what]))
    bar = ""
    if job.state == "running":
        bar = f'<progress max="1" value="{job.fraction:.4f}" aria-label="How far it is"></progress>'
    says = STATES[job.state]
    if job.state == "stopped" and (saved := job.saved):
        says = f"stopped; {saved.words()} are saved"
    if job.says and not (shown and job.state == "failed"):  # why it failed is told above the list
        says = worded(job.says, root)
    buttons = {
        "waiting": [("stop", "Stop")],
        "running": [("stop", "Stop")],
        "stopped": [("resume", "Resume"), ("remove", "Remove")],
        "failed": [("resume", "Try again"), ("remove", "Remove")],
        "done": [("remove", "Remove")],
    }[job.state]
    if job.stopping.is_set() and job.state == "running":
        says, buttons = f"stopping: {says}", []
    if wanted.work == "preview":
        buttons = [each for each in buttons if each[0] != "resume"]
    made = "".join(f'<button type="button" data-do="{do}">{word}</button>' for do, word in buttons)
    bar = f'<div class="bar">{bar}</div>'
    return (
        f'<li class="{job.state}{" shown" if shown else ""}" aria-current="{str(shown).lower()}" '
        f'data-job="{job.number}"><button type="button" class="pick" data-do="show">'
        f"<b>{WORKS[wanted.work]}: {escape(of)}</b><small>{escape(about)}</small></button>"
        f'<span class="do">{made}</span>{bar}<p class="says">{escape(says)}</p></li>'
    )


WELCOME = (
    '<div class="z-empty"><b>Nothing here yet</b><p>Drop a clip, say what the result should show, and press '
    "<i>Preview</i> to see the first frame of each shot, or <i>Edit</i> to make the whole clip.</p></div>"
)


def view(job: Job | None, root: Path) -> str:
    """Return what there is to see of a job; this stays the same while the job only makes progress."""
    if job is None:
        return WELCOME
    parts = []
    if job.wanted.work == "preview":
        parts = [_wipe(job, "img", f"shot-{each + 1}") for each in range(job.shots)]
        if job.plan:
            facts = {line[:12].strip(): worded(line[12:], root) for line in job.plan}
            parts.append(_folded("What it takes", _table(facts), is_open=True))
    elif job.state == "done":
        parts = [_finished(job)]
    if job.state == "failed":
        parts.append(error_line(worded(job.says, root)))
    if not parts:
        parts = [f'<div class="z-empty"><b>{escape(STATES[job.state].capitalize())}</b></div>']
    said = dict.fromkeys(worded(_said(each), root) for each in list(job.notices))
    if said:
        rows = "".join(f"<li>{escape(each)}</li>" for each in said)
        parts.append(f'<ul class="z-notices" aria-label="Good to know">{rows}</ul>')
    return f'<div class="z-view">{"".join(parts)}</div>'


def _said(notice: Notice) -> str:
    """A notice; without its remedy if it is about a default, since the page shows the alternatives."""
    return notice.message if notice.kind.startswith("default-") else str(notice)


def _address(job: Job, name: str) -> str:
    return f"/files/{job.number}/{quote(name)}"


def _finished(job: Job) -> str:
    files = job.files()
    result = job.result.name
    links = [f'<a class="main" href="{_address(job, result)}" download>Download {escape(result)}</a>']
    if REPORT in files:
        links.append(f'<a href="{_address(job, REPORT)}" download>Report (JSON)</a>')
    if SHEET in files:
        links.append(f'<a href="{_address(job, SHEET)}" download>Sheet (PNG)</a>')
    shown = [_wipe(job, "video")] if RESULT_VIEW in files else []
    shown.append(f'<nav class="z-links">{"".join(links)}</nav>')
    if SHEET in files:
        sheet = f'src="{_address(job, SHEET)}" alt="Frames of the source and the result"'
        shown.append(_folded("Sheet", f'<img class="z-sheet" {sheet}>'))
    if REPORT in files:
        shown.append(_folded("Measured", _table(_measured(files[REPORT]))))
    return "".join(shown)


def _measured(report: Path) -> dict[str, str]:
    """The report's metrics."""
    try:
        metrics = json.loads(report.read_text())["metrics"]
    except (OSError, ValueError, KeyError):
        return {}
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {name.replace("_", " "): f"{value:.4g}" for name, value in numbers.items()}


def _folded(title: str, inside: str, *, is_open: bool = False) -> str:
    return f"<details{' open' * is_open}><summary>{title}</summary>{inside}</details>"


def _table(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(says)}</td></tr>" for name, says in facts.items())
    return f'<table class="z-facts">{rows}</table>'


def _wipe(job: Job, tag: str, name: str = "") -> str:
    """The result over the source or beside it; alone if there is no source."""
    files = job.files()
    video = tag == "video"
    source = SOURCE_VIEW if video else f"{name}-source.png"
    result = RESULT_VIEW if video else f"{name}-result.png"

    def shown(file: str, word: str, how: str) -> str:
        start = f'<{tag} class="{word}" src="{_address(job, file)}"'
        return f"{start} {how} loop playsinline></video>" if video else f'{start} alt="{word}">'

    if source not in files:
        return f'<figure class="z-compare alone">{shown(result, "result", "controls")}</figure>'
    play = '<button type="button" data-play>Play</button>' if video else ""
    return (
        '<figure class="z-compare wipe"><div class="stage">'
        f"{shown(result, 'result', 'preload=auto')}{shown(source, 'source', 'preload=auto muted')}"
        '<input type="range" min="0" max="100" value="50" aria-label="How much of the source is shown">'
        '<span class="tag left">Source</span><span class="tag right">Result</span></div>'
        f'<figcaption>{play}<button type="button" data-side>Side by side</button></figcaption></figure>'
    )
