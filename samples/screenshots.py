"""Makes the pictures of docs/web.md: starts the page, uses it as somebody would, and takes screenshots.

python samples/screenshots.py [FOLDER]

Needs the extra `web`, playwright (`pip install playwright`) and Chromium.
"""

from __future__ import annotations

import io
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
PROMPT = "a blue knight on the beach"
FRAMES = 16  # of the clip's, which are enough for a picture
PATIENCE = 1_200_000  # milliseconds


def save(page: Page, path: Path) -> None:
    """Write what is seen of the page."""
    page.wait_for_timeout(1500)  # until nothing moves
    Image.open(io.BytesIO(page.screenshot())).save(path, quality=90, method=6)


def spent(process: int) -> float:
    """Return how many seconds of CPU time a process has used."""
    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Take all of them."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        command = [sys.executable, "-m", "zs2kit", "web", "--port", "0", "-o", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 860}, device_scale_factor=1.5)
        page.set_default_timeout(PATIENCE)
        page.goto(server.stdout.readline().strip())
        page.wait_for_timeout(20_000)  # until the model is loaded, as it is for somebody who types
        page.locator("input[type=file]").first.set_input_files(ROOT / "samples/robot-dance.mp4")
        page.locator(".trim input[type=number]").nth(1).fill(str(FRAMES - 1))
        page.get_by_label("Prompt").fill(PROMPT)
        before = spent(server.pid)
        page.get_by_role("button", name="Preview").click()
        page.locator("img.result").wait_for()
        print(f"the first frame of a preview: {spent(server.pid) - before:.1f} s of CPU time")
        page.locator(".z-facts").wait_for()
        save(page, out / "web-preview.webp")
        page.get_by_role("button", name="Edit", exact=True).click()
        edit = page.locator(".z-jobs li", has_text="Edit:")
        expect(edit).to_contain_text(re.compile("done|failed"), timeout=PATIENCE)
        page.locator("video.result").evaluate("video => { video.currentTime = 0.6 }")
        save(page, out / "web.webp")
        page.set_viewport_size({"width": 390, "height": 844})
        page.evaluate("window.scrollTo(0, 0)")
        save(page, out / "web-phone.webp")
        chromium.close()
        server.send_signal(signal.SIGINT)
        server.wait()


if __name__ == "__main__":
    main()
