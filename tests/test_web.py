"""The web page, in a real browser: Debian's Chromium, without a window."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright
from test_specialised import lora, saved

import zs2kit
from zs2kit import plugins
from zs2kit.bench import hostile
from zs2kit.filters import Filter
from zs2kit.settings import option, options
from zs2kit.testing import drawn_clip
from zs2kit.web.fields import Fields, check
from zs2kit.web.jobs import Wanted
from zs2kit.web.views import worded

COMMAND = Path(sys.executable).with_name("zs2kit")
# Nothing of Chromium's own is sent anywhere, so that what it asks for is what the page asks for
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE = 120_000  # milliseconds, on a busy machine

THIRD = '''
from dataclasses import dataclass
from zs2kit import Plugin, hookimpl, option

@dataclass(eq=False)
class Third(Plugin):
    """Does nothing, and says so."""

    words: str = option("", "Any words.")
    amount: float = option(0.5, "How much.", minimum=0, maximum=1)

    @hookimpl
    def prepare(self, chunk, model):
        pass
'''


class Server(NamedTuple):
    """A running `zs2kit web`."""

    process: subprocess.Popen[str]
    address: str
    folder: Path


@contextmanager
def serving(folder: Path, *arguments: str | Path, path: Path | None = None) -> Iterator[Server]:
    """Run `zs2kit web` on a free port."""
    command = [COMMAND, "web", "--port", "0", "-o", folder, *arguments]
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield Server(process, process.stdout.readline().strip(), folder)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stdout.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zs2kit.write(tmp_path_factory.mktemp("clips") / "moving.mp4", drawn_clip(16))


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin of somebody else, as pip installs it."""
    folder = tmp_path_factory.mktemp("third")
    (folder / "zs2kit_third.py").write_text(THIRD)
    about = folder / "zs2kit_third-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: zs2kit-third\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[zs2kit]\nthird = zs2kit_third:Third\n")
    return folder


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: Mapping[str, Path], third: Path
) -> Iterator[Server]:
    models = ["--model", tiny_folders["epsilon"], "--model", tiny_folders["v_prediction"]]
    clay = tmp_path_factory.mktemp("loras") / "clay.safetensors"
    saved(lora(zs2kit.Model.load(tiny_folders["epsilon"])), clay)
    sizes = ["--max-upload", "1mb", "--max-total", "1.2mb"]
    with serving(tmp_path_factory.mktemp("web"), *models, "--lora", clay, *sizes, path=third) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Browser, server: Server) -> Iterator[Callable[[], Page]]:
    """What opens the page in a new browser; in the end, it has asked nobody else, and has had no errors."""
    asked: list[str] = []
    errors: list[str] = []
    contexts = []

    def opened() -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.on("request", lambda request: asked.append(request.url))
        context.on("weberror", lambda error: errors.append(str(error.error)))
        page = context.new_page()
        page.goto(server.address)
        page.get_by_role("button", name="Edit", exact=True).wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []
    assert (
        asked
        and {each for each in asked if not each.startswith((f"{server.address}/", "data:", "blob:"))} == set()
    )


def panel(page: Page) -> Locator:
    """What is below the chosen tab."""
    return page.locator("[role=tabpanel]").locator("visible=true")


def upload(page: Page, path: Path) -> None:
    """Drop a clip, and wait until it is looked at."""
    panel(page).locator("input[type=file]").first.set_input_files(path)
    expect(panel(page).locator(".z-fact")).to_be_visible(timeout=PATIENCE)


def set_up(page: Page, clip: Path, prompt: str, *, steps: int = 2) -> None:
    """Fill in the form for an edit with the plugin that is there by default."""
    upload(page, clip)
    page.get_by_label("Prompt").first.fill(prompt)
    page.get_by_role("checkbox", name="pose").uncheck()
    page.get_by_text("More settings").first.click()
    page.get_by_label("Steps").first.fill(str(steps))


def job(page: Page, prompt: str) -> Locator:
    """The entry of a job in the list."""
    return page.locator(".z-jobs li", has_text=prompt)


def start(page: Page, name: str = "Edit") -> None:
    panel(page).get_by_role("button", name=name, exact=True).click()


def test_an_edit_is_the_library_s(
    tab: Any, clip: Path, tmp_path: Path, tiny_folders: Mapping[str, Path]
) -> None:
    page = tab()
    set_up(page, clip, "a red robot")
    last = page.locator(".trim img").nth(1)
    before = last.get_attribute("src")
    ends = page.locator(".trim input[type=number]")
    ends.nth(0).fill("2")
    ends.nth(1).fill("9")
    ends.nth(1).blur()
    expect(last).not_to_have_attribute("src", before, timeout=PATIENCE)  # it shows the frame that is chosen
    start(page)
    expect(page.locator("video.result")).to_be_visible(timeout=PATIENCE)
    with page.expect_download() as got:
        page.get_by_text("Download moving-edit.mp4").click()
    result = tmp_path / got.value.suggested_filename
    got.value.save_as(result)
    frames = list(zs2kit.read(clip))
    part = zs2kit.read(clip, start=Fraction(2, 12), end=Fraction(10, 12))
    told: list[zs2kit.Notice] = []
    model = zs2kit.Model.load(tiny_folders["epsilon"])
    edited = zs2kit.edit(part, "a red robot", model=model, num_inference_steps=2, notices=told.append)
    expected = zs2kit.write(tmp_path / "expected.mp4", edited, notices=told.append)
    assert np.array_equal(pixels(result), pixels(expected)) and len(pixels(result)) == 8 < len(frames)
    with page.expect_download() as got:
        page.get_by_role("link", name="Report (JSON)").click()
    report = json.loads(Path(got.value.path()).read_text())
    assert report["settings"]["prompt"] == "a red robot" and "metrics" in report
    page.locator("summary", has_text="Sheet").click()
    expect(page.locator(".z-sheet")).to_be_visible()
    assert page.locator(".z-sheet").evaluate("image => image.naturalWidth") > 0
    for which in ("source", "result"):  # the browser can play both
        video = page.locator(f"video.{which}")
        assert video.evaluate(
            "video => new Promise(end => { const look = () => video.readyState > 1 ? "
            "end(video.duration) : setTimeout(look, 50); look(); })"
        ) == pytest.approx(8 / 12, abs=0.1)
    page.get_by_role("button", name="Side by side").click()
    widths = [page.locator(f"video.{which}").bounding_box()["width"] for which in ("source", "result")]
    assert widths[0] == pytest.approx(widths[1]) and widths[0] < 400


def pixels(path: Path) -> Any:
    return np.stack([frame.image for frame in zs2kit.read(path)])


def test_a_preview_shows_each_shot(tab: Any, tmp_path: Path) -> None:
    from zs2kit.testing import two_shots

    cut = zs2kit.write(tmp_path / "cut.mp4", two_shots((4, 4)))
    page = tab()
    set_up(page, cut, "a preview of two shots")
    page.get_by_label("Cuts").first.fill("0.2")
    start(page, "Preview")
    expect(page.locator("img.result")).to_have_count(2, timeout=PATIENCE)
    expect(page.get_by_text("What it takes")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".z-facts")).to_contain_text("2, at 0.00, 0.20 s")
    assert page.locator("img.result").first.evaluate("image => image.naturalWidth") == 32


def test_stop_and_resume(tab: Any, clip: Path) -> None:
    page = tab()
    set_up(page, clip, "interrupted", steps=400)
    start(page)
    entry = job(page, "interrupted")
    expect(entry.locator("progress")).to_be_visible(timeout=PATIENCE)
    working = re.compile(r"step \d+ of \d+, about \d+:\d\d left")
    expect(entry).to_contain_text(working, timeout=PATIENCE)
    stop = entry.get_by_role("button", name="Stop", exact=True)
    with changes(entry):  # the list changes under a click that lasts long
        stop.hover()
        page.mouse.down()
    page.mouse.up()
    expect(entry).to_contain_text("stopped", timeout=PATIENCE)
    entry.get_by_role("button", name="Resume").click()
    expect(entry).to_contain_text("done", timeout=PATIENCE)


def test_the_keyboard_stays_where_it_is(tab: Any, clip: Path) -> None:
    page = tab()
    set_up(page, clip, "by keyboard", steps=1000)
    start(page)
    entry = job(page, "by keyboard")
    expect(entry).to_contain_text(re.compile(r"step \d+ of"), timeout=PATIENCE)
    stop = entry.get_by_role("button", name="Stop", exact=True)
    with changes(entry):  # the list changes around a button that has the keyboard
        stop.focus()
    expect(stop).to_be_focused()
    page.keyboard.press("Enter")
    expect(entry).to_contain_text("stopped", timeout=PATIENCE)


def test_a_button_stays_its_job_s(tab: Any, clip: Path) -> None:
    """Another tab starts a job, whose row comes where another one was."""
    page, other = tab(), tab()
    set_up(page, clip, "pressed before", steps=1000)
    set_up(other, clip, "started after", steps=1000)
    start(page)
    mine, theirs = job(page, "pressed before"), job(page, "started after")
    stop = mine.get_by_role("button", name="Stop", exact=True)
    stop.hover()
    page.mouse.down()
    start(other)
    expect(theirs).to_be_visible(timeout=PATIENCE)
    page.mouse.up()  # where the other job's button is now
    page.wait_for_timeout(2000)
    expect(theirs).to_contain_text("waiting for its turn")
    stop.focus()
    theirs.get_by_role("button", name="Stop", exact=True).evaluate("button => button.click()")
    expect(theirs).to_contain_text("stopped", timeout=PATIENCE)
    page.on("dialog", lambda dialog: dialog.accept())
    theirs.get_by_role("button", name="Remove").evaluate("button => button.click()")
    expect(theirs).to_have_count(0, timeout=PATIENCE)
    expect(stop).to_be_focused()
    page.keyboard.press("Enter")
    expect(mine).to_contain_text("stopped", timeout=PATIENCE)


def test_a_lora_and_further_prompts(tab: Any, clip: Path, tiny_folders: Mapping[str, Path]) -> None:
    page = tab()
    set_up(page, clip, "spring")
    panel(page).get_by_text("LoRAs", exact=True).click()
    panel(page).get_by_label("number input for clay.safetensors").fill("0.5")
    panel(page).get_by_text("Further prompts along the clip").click()
    further = panel(page).get_by_label("Further prompts")
    further.fill("in the snow")
    start(page)
    expect(page.locator(".z-error")).to_contain_text(
        "“in the snow” is not a further prompt", timeout=PATIENCE
    )
    further.fill("8: summer\n\n12: autumn: leaves")
    start(page)
    expect(job(page, "spring")).to_contain_text("done", timeout=PATIENCE)
    with page.expect_download() as got:
        page.get_by_role("link", name="Report (JSON)").click()
    report = json.loads(Path(got.value.path()).read_text())
    assert report["settings"]["prompt"] == {"0": "spring", "8": "summer", "12": "autumn: leaves"}
    ((name, weight),) = report["model"]["loras"].items()
    assert (Path(name).name, weight) == ("clay.safetensors", 0.5)


def test_uploads_together_have_a_limit(tab: Any, server: Server, clip: Path, tmp_path: Path) -> None:
    page = tab()
    page.on("dialog", lambda dialog: dialog.accept())
    big = [tmp_path / f"{name}.mp4" for name in ("first", "second")]
    for number, path in enumerate(big):  # clips with something behind their end, which differs
        path.write_bytes(clip.read_bytes() + bytes([number]) * 700_000)
    set_up(page, big[0], "takes room")
    start(page)
    expect(job(page, "takes room")).to_contain_text("done", timeout=PATIENCE)
    page.get_by_label("Clear").first.click()
    page.locator("input[type=file]").first.set_input_files(big[1])
    error = panel(page).locator(".z-error")
    expect(error).to_contain_text(
        re.compile(r"second\.mp4 is \d+ kB, but there is only room for \d+ kB more; remove")
    )
    body = b"x" * 1_000_000
    request = urllib.request.Request(f"{server.address}/gradio_api/upload", body, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 413
    job(page, "takes room").get_by_role("button", name="Remove").click()
    expect(job(page, "takes room")).to_have_count(0, timeout=PATIENCE)
    upload(page, big[1])


@contextmanager
def changes(entry: Locator) -> Iterator[None]:
    """Wait until an entry has changed twice since this began."""
    yield
    for _ in range(2):
        expect(entry).not_to_have_text(entry.text_content() or "", timeout=PATIENCE)


def test_a_late_answer_is_mended(tab: Any, clip: Path) -> None:
    """The answer to a click that comes after that to a later look at the jobs."""
    page = tab()
    set_up(page, clip, "answered late", steps=1000)
    start(page)
    entry = job(page, "answered late")
    expect(entry).to_contain_text(re.compile(r"step \d+ of"), timeout=PATIENCE)
    resume = entry.get_by_role("button", name="Resume")

    def late(route: Route) -> None:
        expect(resume).to_be_visible(timeout=PATIENCE)
        route.continue_()

    page.route("**/queue/data*", late)
    with page.expect_response("**/queue/data*", timeout=PATIENCE):
        entry.get_by_role("button", name="Stop", exact=True).click()
    page.wait_for_timeout(2000)  # the page shows what it was told: that it is stopping
    expect(resume).to_be_visible(timeout=20_000)


def test_two_tabs_at_once(tab: Any, clip: Path) -> None:
    first, second = tab(), tab()
    set_up(first, clip, "of the first tab", steps=20)
    set_up(second, clip, "of the second tab", steps=20)
    start(first)
    start(second)
    for page in (first, second):
        for which in ("first", "second"):
            expect(job(page, f"of the {which} tab")).to_contain_text("done", timeout=PATIENCE)
    expect(first.locator(".z-jobs li.shown")).to_contain_text("of the first tab")
    expect(second.locator(".z-jobs li.shown")).to_contain_text("of the second tab")


def test_a_closed_tab_costs_nothing(tab: Any, clip: Path) -> None:
    page = tab()
    set_up(page, clip, "nobody looks", steps=100)
    start(page)
    expect(job(page, "nobody looks").locator("progress")).to_be_visible(timeout=PATIENCE)
    page.context.close()
    later = tab()
    expect(job(later, "nobody looks")).to_contain_text("done", timeout=PATIENCE)
    expect(later.locator("video.result")).to_be_visible(timeout=PATIENCE)


@pytest.mark.parametrize("what", ["a text file", "an empty file", "half a clip", "too large a file"])
def test_a_broken_file_is_told_at_the_field(tab: Any, clip: Path, tmp_path: Path, what: str) -> None:
    data = {
        "a text file": b"not a clip",
        "an empty file": b"",
        "half a clip": clip.read_bytes()[: clip.stat().st_size // 2],
        "too large a file": bytes(2_000_000),
    }[what]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(data)
    page = tab()
    page.locator("input[type=file]").first.set_input_files(bad)
    if what == "too large a file":
        expect(page.locator(".z-error")).to_have_text("bad.mp4 is 2 MB, but an upload can be at most 1 MB")
    else:
        line = page.locator(".z-error")
        expect(line).to_contain_text("bad.mp4", timeout=PATIENCE)
        assert "/" not in line.inner_text() and "\n" not in line.inner_text()
    upload(page, clip)  # all goes on
    expect(page.locator(".z-error")).to_have_count(0)


def test_what_is_wrong_with_a_form_is_told_in_one_line(tab: Any, clip: Path) -> None:
    page = tab()
    start(page)
    expect(page.locator(".z-error")).to_have_text("there is no clip yet; drop one above", timeout=PATIENCE)
    upload(page, clip)
    expect(page.locator(".z-error")).to_have_count(0)
    first, last = (page.locator(".trim input[type=number]").nth(number) for number in range(2))
    first.fill("3")
    last.fill("1")
    start(page)
    says = "the last frame (1) comes before the first (3); move one of them"
    expect(page.locator(".z-error")).to_have_text(says, timeout=PATIENCE)
    page.get_by_label("Clear").first.click()
    set_up(page, clip, "too small", steps=0)
    start(page)
    expect(page.locator(".z-error")).to_contain_text(
        "“Steps” must be a whole number from 1 up", timeout=PATIENCE
    )
    page.get_by_label("Steps").first.fill("2")
    page.get_by_role("checkbox", name="third").check()
    page.get_by_text("Options of third").click()
    page.get_by_label("Words").fill("../../secret")
    start(page)
    expect(page.locator(".z-error")).to_contain_text("“third, Words” can't have a slash", timeout=PATIENCE)


def test_somebody_else_s_plugin_is_on_the_page(tab: Any, clip: Path) -> None:
    page = tab()
    expect(page.get_by_text("Does nothing, and says so.")).to_be_visible()
    expect(page.get_by_text("Options of third")).to_be_hidden()
    set_up(page, clip, "with a third")
    page.get_by_role("checkbox", name="third").check()
    page.get_by_text("Options of third").click()
    expect(page.get_by_label("Amount").first).to_be_visible()
    start(page)
    expect(job(page, "with a third")).to_contain_text("done", timeout=PATIENCE)


def test_a_clip_of_text_and_a_filter(tab: Any, clip: Path) -> None:
    page = tab()
    wide = partial(
        page.locator(".z-results").evaluate, "results => [results.offsetLeft, results.offsetWidth]"
    )
    before = wide()
    page.get_by_role("tab", name="Clip from text").click()
    panel(page).get_by_label("Prompt").first.fill("only words")
    assert wide() == before  # the page is as wide in every tab
    panel(page).get_by_label("Frames", exact=True).fill("3")
    panel(page).get_by_text("More settings").click()
    panel(page).get_by_label("Steps").fill("2")
    start(page, "Make the clip")
    expect(job(page, "only words")).to_contain_text("done", timeout=PATIENCE)
    page.get_by_role("tab", name="Filter a clip").click()
    start(page, "Filter")
    expect(panel(page).locator(".z-error")).to_contain_text("no filter is chosen", timeout=PATIENCE)
    upload(page, clip)
    panel(page).get_by_role("checkbox", name="smooth").check()
    panel(page).get_by_text("More settings").click()
    panel(page).get_by_label("Cuts").fill("soon")
    start(page, "Filter")
    expect(panel(page).locator(".z-error")).to_contain_text("must be 'auto' or times in", timeout=PATIENCE)
    panel(page).get_by_label("Cuts").fill("0:00.5")
    start(page, "Filter")
    expect(job(page, "smooth")).to_contain_text("done", timeout=PATIENCE)
    expect(page.get_by_text("Download moving-smooth.mp4")).to_be_visible(timeout=PATIENCE)


def test_a_job_can_be_removed(tab: Any, clip: Path, server: Server) -> None:
    page = tab()
    page.on("dialog", lambda dialog: dialog.accept())
    set_up(page, clip, "soon gone")
    start(page)
    entry = job(page, "soon gone")
    expect(entry).to_contain_text("done", timeout=PATIENCE)
    number = entry.get_attribute("data-job")
    entry.get_by_role("button", name="Remove").click()
    expect(entry).to_have_count(0, timeout=PATIENCE)
    assert not (server.folder / "jobs" / f"{int(number):04}").exists()


def answer(address: str, **headers: str) -> int:
    """The status of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=named)) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_only_this_machine_s_own_page_is_answered(server: Server) -> None:
    port = server.address.rpartition(":")[2]
    assert answer(server.address) == answer(f"{server.address}/config") == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::ffff:1.2.3.4]", "["):
        assert answer(server.address, Host=host) == 403, host
    assert answer(server.address, Host=f"localhost:{port}") == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"https://127.0.0.1:{port}"):
        assert answer(f"{server.address}/config", Origin=origin) == 403, origin
    assert answer(f"{server.address}/config", Origin=server.address) == 200
    assert answer(f"{server.address}/config", Sec_Fetch_Site="cross-site") == 403


def test_no_other_file_is_served(server: Server, clip: Path) -> None:
    secret = server.folder / "secret.txt"
    secret.write_text("secret")
    for path in (secret, clip, Path("/etc/passwd"), server.folder / "jobs/0001/job.json", "../secret.txt"):
        assert answer(f"{server.address}/gradio_api/file={path}") in (403, 404), path
    for path in ("1/../../secret.txt", "1/..%2f..%2fsecret.txt", "1/%2e%2e", "99999/x.mp4", "x/y"):
        assert answer(f"{server.address}/files/{path}") in (404, 422), path
    for address in ("http://example.com/a.png", "https://example.com"):
        assert answer(f"{server.address}/gradio_api/file={address}") == 403
        assert answer(f"{server.address}/gradio_api/proxy={address}") in (403, 404)


def test_an_end_of_the_server_costs_nothing(
    browser: Browser, clip: Path, tmp_path: Path, tiny_folders: Mapping[str, Path]
) -> None:
    def opened(server: Server) -> Page:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(server.address)
        return page

    with serving(tmp_path, "--model", tiny_folders["epsilon"]) as server:
        page = opened(server)
        set_up(page, clip, "goes on tomorrow", steps=300)
        start(page)
        expect(job(page, "goes on tomorrow")).to_contain_text(re.compile(r"step \d+ of"), timeout=PATIENCE)
        page.close()
    with serving(tmp_path, "--model", tiny_folders["epsilon"]) as server:
        page = opened(server)
        entry = job(page, "goes on tomorrow")
        expect(entry).to_contain_text("stopped", timeout=PATIENCE)
        entry.get_by_role("button", name="Resume").click()
        expect(entry).to_contain_text("done", timeout=PATIENCE)
        page.close()


def test_a_busy_port(tmp_path: Path) -> None:
    mine = tmp_path / "web" / "uploads" / "holiday.mp4"  # of somebody who chose a folder of their own
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [COMMAND, "web", "--port", str(port), "-o", tmp_path / "web"]
        ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stdout == ""
    assert (
        ended.stderr
        == f"zs2kit: error: port {port} can't be used: Address already in use; give another --port\n"
    )
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("pose.modle", "'pose' has no option 'modle'; did you mean model?"),
        ("pose.scale", "pose.scale doesn't name a model; leave it out, and set it on the page"),
        ("upscael.model", "no plugin is called 'upscael'; did you mean upscale?"),
    ],
)
def test_what_is_named_at_the_start_must_be_an_option_for_a_model(given: str, says: str) -> None:
    with pytest.raises(zs2kit.Zs2Error) as error:
        check({given: ["x"]})
    assert str(error.value).startswith(says.partition(";")[0])
    check({"control.model": ["controlnet_pose"], "upscale.model": ["a.safetensors"]})


@pytest.mark.slow
def test_a_hundred_hostile_files_leave_it_up(tab: Any, clip: Path, tmp_path: Path) -> None:
    dice, good = Random(1), clip.read_bytes()
    page = tab()
    told = 0
    for number in range(100):
        bad = tmp_path / f"bad-{number}.mp4"
        bad.write_bytes(hostile.damaged(good, dice))
        page.locator("input[type=file]").first.set_input_files(bad)
        told += seen(page)
        if page.get_by_label("Clear").count():
            page.get_by_label("Clear").first.click()
        page.locator(".z-fact").wait_for(state="hidden")
    assert told > 10
    upload(page, clip)


def seen(page: Page) -> bool:
    """Wait until an upload is looked at; return whether it was refused."""
    for _ in range(PATIENCE // 100):
        if page.locator(".z-error").count():
            page.locator(".z-error").evaluate_all("lines => lines.forEach(line => line.remove())")
            return True
        if page.locator(".z-fact").is_visible():
            return False
        time.sleep(0.1)
    raise AssertionError("it wasn't looked at")


def test_every_option_that_names_something_says_so() -> None:
    """So that the page has an upload or a choice for it, and no text that opens a path."""
    for base in (plugins.Plugin, Filter):
        for name in plugins.installed(base):
            for each in options(plugins.load(name, base)):
                names = re.search(r"\b(path|folder|hub|file)\b", each.help, re.I) and each.type is str
                assert not names or each.kind or each.choices, f"{name}.{each.name}"


def test_a_text_may_be_the_word_default() -> None:
    @dataclass(eq=False)
    class Words:
        text: str = option("", "Any words.")
        one: Literal["a", "b"] | None = option(None, "One of these.")

    fields = Fields(options(Words))
    both = dict.fromkeys(fields.fields.values(), "default")
    assert fields.texts(both) == {"text": "default"}


def test_messages_name_the_page_s_fields() -> None:
    root = Path("/srv/zs2kit-web")
    assert worded("`size` must be smaller; use `size=512x288`", root) == (
        "“Size” must be smaller; use “Size: 512x288”"
    )
    assert worded("`pose.scale` must be 0", root) == "“pose, Scale” must be 0"
    assert worded(f"{root}/uploads/ab12/my clip.mp4 is\nno clip", root) == "my clip.mp4 is no clip"


def test_what_is_wanted_is_read_as_it_is_typed() -> None:
    wanted = Wanted("edit", "clip.mp4", prompt="a robot", settings={"size": "64x32", "seed": "3"})
    assert wanted.how() == zs2kit.Settings(prompt="a robot", size=(32, 64), seed=3)
    with pytest.raises(zs2kit.Zs2Error, match="`seed` must be a whole number"):
        Wanted("edit", "clip.mp4", settings={"seed": "x"}).how()
    with pytest.raises(zs2kit.Zs2Error, match="Settings has no option 'sede'; did you mean seed"):
        Wanted("edit", "clip.mp4", settings={"sede": "1"}).how()
