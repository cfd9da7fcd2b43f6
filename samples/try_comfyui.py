"""Runs graphs with the nodes of zs2kit in a ComfyUI that is running, and checks what comes out.

python samples/try_comfyui.py ADDRESS [PICTURE]

ADDRESS is ComfyUI's, such as http://127.0.0.1:8188. PICTURE is a file for a screenshot of a graph; it needs
playwright (`pip install playwright`) and Chromium.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
from PIL import Image

import zs2kit
from zs2kit import plugins
from zs2kit.bench.kills import with_sound
from zs2kit.filters import Filter
from zs2kit.verify import verify

CLIP = Path(__file__).parent / "robot-dance.mp4"
PROMPT = "a blue knight in the snow"
PART = {"start_time": 0.5, "duration": 0.4}
Graph = dict[str, dict[str, Any]]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node as ComfyUI's API has it; an input from another node is [its name, the number of the output]."""
    return {"class_type": kind, "inputs": inputs}


def save(video: str) -> dict[str, Any]:
    """The node that writes a video into ComfyUI's folder for results."""
    return node("SaveVideo", video=[video, 0], filename_prefix="zs2kit/try", format="auto", codec="auto")


class ComfyUI:
    """A ComfyUI that is running."""

    def __init__(self, address: str) -> None:
        self.http = httpx.Client(base_url=address, timeout=60)

    def upload(self, path: Path) -> str:
        """Put a file into ComfyUI's folder for input; return its name there."""
        files = {"image": (path.name, path.read_bytes())}
        answer = self.http.post("/upload/image", files=files, data={"overwrite": "true"})
        return str(answer.raise_for_status().json()["name"])

    def start(self, graph: Graph) -> str:
        """Queue a graph; return what identifies it."""
        answer = self.http.post("/prompt", json={"prompt": graph}).json()
        if "prompt_id" not in answer:
            raise SystemExit(f"ComfyUI refuses the graph: {json.dumps(answer)}")
        return str(answer["prompt_id"])

    def end(self, prompt: str) -> Any:
        """Wait for a graph; return what ComfyUI tells about it."""
        while not (told := self.http.get(f"/history/{prompt}").json()):
            time.sleep(0.5)
        return told[prompt]

    def run(self, graph: Graph, folder: Path) -> Path:
        """Run a graph; return the video that its node ``save`` has written, in ``folder``."""
        told = self.end(self.start(graph))
        if told["status"]["status_str"] != "success":
            raise SystemExit(f"ComfyUI failed: {said(told) or told['status']}")
        (file,) = told["outputs"]["save"]["images"]
        path = folder / str(file["filename"])
        path.write_bytes(self.http.get(f"/view?{urlencode(file)}").raise_for_status().content)
        return path


def said(told: Any) -> str:
    """What a graph's error says."""
    messages = dict(told["status"]["messages"])
    return str(messages.get("execution_error", {}).get("exception_message", "")).strip()


def pixels(path: Path) -> Any:
    """All frames of a clip."""
    return np.stack([frame.image for frame in zs2kit.read(path)])


def ours(path: Path, clip: Path) -> Path:
    """Make the edit of `edit` without ComfyUI."""
    start = Fraction(str(PART["start_time"]))
    part = zs2kit.read(clip, start=start, end=start + Fraction(str(PART["duration"])))
    pose = plugins.build("pose", {})
    return zs2kit.write(path, zs2kit.edit(part, PROMPT, plugins=[pose], num_inference_steps=2))


def edit(clip: str) -> Graph:
    """The graph of an edit of a part of a clip."""
    return {
        "load": node("LoadVideo", file=clip),
        "part": node("Video Slice", video=["load", 0], strict_duration=False, **PART),
        "model": node("Zs2kitLoadModel", name="puppets"),
        "pose": node("Zs2kitPlugin_pose"),
        "edit": node(
            "Zs2kitEdit",
            video=["part", 0],
            model=["model", 0],
            prompt=PROMPT,
            plugins=["pose", 0],
            num_inference_steps="2",
        ),
        "save": save("edit"),
    }


def text(clip: str) -> Graph:
    """The graph of a clip from text alone."""
    draw = node(
        "Zs2kitGenerate", model=["model", 0], prompt=PROMPT, frames=3, fps=12, num_inference_steps="2"
    )
    return {**edit(clip), "edit": draw}


def images(clip: str) -> Graph:
    """The graph of an edit of a batch of images, which then become a video and go through a filter."""
    graph = edit(clip)
    del graph["edit"]["inputs"]["video"]
    graph["edit"]["class_type"] = "Zs2kitEditImages"
    graph["edit"]["inputs"] |= {"images": ["images", 0], "fps": ["images", 2], "plugins": ["colour", 0]}
    return graph | {
        "images": node("GetVideoComponents", video=["part", 0]),
        "colour": node("Zs2kitPlugin_colour", before=["pose", 0]),
        "video": node("CreateVideo", images=["edit", 0], audio=["images", 1], fps=["images", 2]),
        "smooth": node("Zs2kitFilter_smooth", factor=2),
        "filter": node("Zs2kitFilter", video=["video", 0], filters=["smooth", 0]),
        "measure": node("Zs2kitMetrics", video=["video", 0], source=["part", 0]),
        "save": save("filter"),
    }


# Where the nodes of `edit` are in the picture
PLACES = {
    "load": (0, 0),
    "part": (340, 0),
    "pose": (340, 180),
    "model": (340, 480),
    "edit": (690, 0),
    "save": (1130, 0),
}


def picture(comfy: ComfyUI, graph: Graph, path: Path) -> None:
    """Run a graph on ComfyUI's page, and take a screenshot."""
    from playwright.sync_api import sync_playwright

    comfy.http.post("/settings", json={"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1420, "height": 760}, device_scale_factor=1.5)
        page.goto(str(comfy.http.base_url))
        page.wait_for_function("window.app && window.app.graph")
        page.evaluate(
            """async ([graph, places]) => {
                await app.loadApiJson(graph, 'zs2kit');
                for (const [name, node] of Object.entries(graph))
                    app.graph.nodes.find(each => each.type === node.class_type).pos = places[name];
            }""",
            [graph, PLACES],
        )
        page.evaluate("Object.assign(app.canvas.ds, {scale: 0.9, offset: [110, 140]}); app.queuePrompt(0)")
        page.locator("video").nth(1).wait_for(timeout=600_000)
        page.wait_for_timeout(9000)  # until it says no longer that a job is complete
        Image.open(io.BytesIO(page.screenshot())).save(path, quality=90, method=6)
        chromium.close()


def main() -> None:
    """Run all graphs."""
    address, *rest = sys.argv[1:]
    comfy = ComfyUI(address)
    system = comfy.http.get("/system_stats").raise_for_status().json()["system"]
    print(f"ComfyUI {system['comfyui_version']}")
    known = comfy.http.get("/object_info").json()
    for word, base in {"Plugin": plugins.Plugin, "Filter": Filter}.items():
        missing = [name for name in plugins.installed(base) if f"Zs2kit{word}_{name}" not in known]
        assert not missing, f"without a node: {missing}"
    print(f"{sum(name.startswith('Zs2kit') for name in known)} nodes of zs2kit")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = with_sound(Path(shutil.copy(CLIP, folder)))
        name = comfy.upload(clip)
        run = partial(comfy.run, folder=folder)

        result = run(edit(name))
        checks = verify(clip, result, start=0.5, end=0.9)
        assert all(check.ok for check in checks), [str(check) for check in checks]
        apart = np.abs(pixels(result).astype(int) - pixels(ours(folder / "ours.mp4", clip)))
        print(f"edit: {len(apart)} frames, at most {apart.max()} of 255 levels from those without ComfyUI")
        assert apart.mean() < 1

        made = zs2kit.read(run(text(name)))
        assert (made.width, made.height, made.rate, len(list(made))) == (128, 128, 12, 3)
        print("generate: 3 frames")

        made = zs2kit.read(run(images(name)))
        assert len(list(made)) == 10
        print("images: 5 frames, and as many in between")

        steps = edit(name)
        steps["edit"]["inputs"]["num_inference_steps"] = "1000"
        prompt = comfy.start(steps)
        time.sleep(10)
        comfy.http.post("/interrupt", json={})
        start = time.monotonic()
        messages = [kind for kind, _ in comfy.end(prompt)["status"]["messages"]]
        assert "execution_interrupted" in messages, messages
        print(f"interrupted: it stopped after {time.monotonic() - start:.1f} s")

        steps["edit"]["inputs"]["num_inference_steps"] = "many"
        told = said(comfy.end(comfy.start(steps)))
        assert told and "\n" not in told
        print(f"a wrong input: {told}")
        if rest:
            picture(comfy, edit(name), Path(rest[0]))


if __name__ == "__main__":
    main()
