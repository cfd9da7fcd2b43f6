"""The examples of docs/python.md, by the name that each of them shows. tests/test_docs.py runs them all.

Each runs after FIRST, in a folder with a short video, clip.mp4.
"""

from __future__ import annotations

FIRST = """
import zs2kit
from zs2kit_plugins.pose import Pose

clip = zs2kit.read("clip.mp4")  # any short video of yours
model = zs2kit.Model.load()  # the small demonstration model that comes with zs2kit
"""

EXAMPLES = {
    # zs2kit
    "edit": """
edited = zs2kit.edit(
    clip, "a blue knight on the beach", plugins=[Pose(scale=0.9)], model=model, num_inference_steps=1
)
zs2kit.write("knight.mp4", edited, overwrite=True)
""",
    "generate": """
made = zs2kit.generate(
    {0: "a red robot", 2: "a blue robot"}, frames=3, rate=12, model=model, num_inference_steps=1
)
zs2kit.write("robots.mp4", made, overwrite=True)
""",
    "Edit": """
edited = zs2kit.edit(clip, "a clown", plugins=[Pose()], model=model, num_inference_steps=1, chunk_size=2)
frames = iter(edited)
first = next(frames)  # draws a chunk, here two frames
print(edited.index)  # 2
edited.stop()  # from another thread, say from a button
try:
    rest = list(frames)
except zs2kit.Stopped as error:
    print(error)  # stopped after 2 frames
again = next(iter(edited))  # a new iteration begins with the first frame
assert (again.image == first.image).all()
""",
    "Settings": """
quick = zs2kit.Settings(num_inference_steps=1, seed=3)
edited = zs2kit.edit(clip, "a robot", plugins=[Pose()], model=model, settings=quick, seed=4)
print(edited.settings.seed, edited.settings.guidance_scale)  # 4, and the value that suits the model
""",
    "read": """
part = zs2kit.read("clip.mp4", start=0.1, end=0.3)
print(part.width, part.height, part.rate, sum(1 for frame in part))
""",
    "write": """
zs2kit.write("copy.mkv", clip, codec="ffv1", overwrite=True)
""",
    "Clip": """
import numpy as np

grey = [np.full((64, 96, 3), level, np.uint8) for level in (0, 80, 160)]  # height, width, RGB
fade = zs2kit.Clip.from_images(grey, rate=12)
print(fade.width, fade.height, fade.rate)  # 96 64 12
""",
    "Frame": """
for frame in clip:
    seconds = float(frame.pts * clip.time_base)
    print(f"{seconds:.2f} s: {frame.image.shape}")
""",
    "Output": """
output = zs2kit.Output("archive.mkv", codec="ffv1", overwrite=True)
output.check(clip)  # raises ClipError if the clip can't be written there
zs2kit.write(output, clip)
""",
    "Model": """
model = zs2kit.Model.load("puppets", device="cpu", dtype="float32")
print(model.name, model.device, model.native_size)  # native_size is (height, width)
""",
    "ProgressBar": """
edited = zs2kit.edit(
    clip, "a robot", plugins=[Pose()], model=model, num_inference_steps=1, progress=zs2kit.ProgressBar()
)
shown = zs2kit.read(zs2kit.write("robot.mp4", edited, overwrite=True))
shown  # as the last line of a notebook's cell: the video, with its sound
""",
    "Progress": """
def report(progress):
    left = "" if progress.seconds_left is None else f", about {progress.seconds_left:.0f} s left"
    print(f"{progress.stage}: {progress} of {progress.total} frames{left}")


edited = zs2kit.edit(clip, "a robot", plugins=[Pose()], model=model, num_inference_steps=1, progress=report)
zs2kit.write("robot.mp4", edited, overwrite=True)
""",
    "Notice": """
notices = []
long = "a red robot on the beach " * 20  # longer than the text encoder reads
edited = zs2kit.edit(clip, long, plugins=[Pose()], model=model, num_inference_steps=1, notices=notices.append)
list(edited)
for notice in notices:
    print(notice.kind, "-", notice)
""",
    "notify": """
from zs2kit.errors import receiving

with receiving(print):
    zs2kit.notify("low-light", "the clip is dark", "brighten it first")
""",
    "Zs2Error": """
try:
    zs2kit.read("missing.mp4")
except zs2kit.Zs2Error as error:
    print(error.message, "/", error.remedy)
""",
    "Stopped": """
import threading

edited = zs2kit.edit(clip, "a robot", plugins=[Pose()], model=model, num_inference_steps=1)
threading.Timer(0, edited.stop).start()
try:
    zs2kit.write("robot.mp4", edited, overwrite=True, resume=False)
except zs2kit.Stopped:
    print("stopped; write() with resume=True continues")
""",
    "Plugin": """
from dataclasses import dataclass

from zs2kit import Plugin, hookimpl, option


@dataclass(eq=False)
class TopHalf(Plugin):
    \"\"\"Leaves the upper half of each frame as it is.\"\"\"

    share: float = option(0.5, "How much of the height is kept.", minimum=0, maximum=1)

    @hookimpl
    def keep(self, chunk):
        import numpy as np

        mask = np.zeros((chunk.length, *chunk.fit.source), np.float32)
        mask[:, : round(self.share * mask.shape[1])] = 1  # 1 keeps the source
        return mask


edited = zs2kit.edit(
    clip, "a robot", plugins=[Pose(), TopHalf(share=0.4)], model=model, num_inference_steps=1
)
list(edited)
""",
    "option": """
from dataclasses import dataclass
from typing import Literal

from zs2kit import Plugin, option


@dataclass(eq=False)
class Tint(Plugin):
    \"\"\"An example of options; it does nothing.\"\"\"

    amount: float = option(0.5, "How strong the tint is.", minimum=0, maximum=1)
    colour: Literal["red", "blue"] = option("red", "Its colour.")
    mask: str | None = option(None, "A video of masks; none is the whole picture.")


print(Tint(amount=0.2))
""",
    "hookimpl": """
from dataclasses import dataclass

from zs2kit import Plugin, hookimpl


@dataclass(eq=False)
class Counter(Plugin):
    \"\"\"Says how many frames were drawn.\"\"\"

    @hookimpl
    def finish(self, frames):
        zs2kit.notify("counted", f"{frames} frames were drawn")


edited = zs2kit.edit(
    clip, "a robot", plugins=[Pose(), Counter()], model=model, num_inference_steps=1, notices=print
)
list(edited)
""",
    # zs2kit.metrics
    "metrics.measure": """
from zs2kit.metrics import measure

numbers = measure(clip, zs2kit.read("clip.mp4"))  # here a clip against itself
print(numbers["temporal flickering"], numbers["warp error"])
""",
    "metrics.verdict": """
from zs2kit.metrics import measure, verdict

print(verdict(measure(clip, zs2kit.read("clip.mp4"))))
""",
    "metrics.Features": """
from zs2kit.metrics import measure


class MeanColour:
    \"\"\"Features of your own; real ones come from a network.\"\"\"

    name = "colour"

    def image(self, image):
        return image.mean(axis=(0, 1)).astype("float32")

    def text(self, prompt):
        return None  # it reads no text


print(measure(clip, features=[MeanColour()])["colour neighbours"])
""",
    "metrics.TransformersFeatures": """
from zs2kit.errors import ModelError
from zs2kit.metrics import TransformersFeatures, measure

try:
    clip_model = TransformersFeatures("openai/clip-vit-large-patch14")  # fetched from the hub, 1.7 GB
    print(measure(clip, features=[clip_model], prompt="a red robot")["clip text"])
except ModelError as error:  # for example, offline
    print(error)
""",
    "metrics.to_float": """
from zs2kit.metrics import to_float

picture = to_float(next(iter(clip)).image)  # float32 from 0 to 1
print(picture.dtype, picture.min(), picture.max())
""",
    "metrics.luma": """
from zs2kit.metrics import luma, to_float

print(luma(to_float(next(iter(clip)).image)).mean())
""",
    "metrics.psnr": """
from zs2kit.metrics import psnr, to_float

a, b = (to_float(frame.image) for frame in list(clip)[:2])
print(f"{psnr(a, b):.1f} dB")
""",
    "metrics.ssim": """
from zs2kit.metrics import ssim, to_float

a, b = (to_float(frame.image) for frame in list(clip)[:2])
print(ssim(a, b))
""",
    "metrics.ms_ssim": """
import numpy as np

from zs2kit.metrics import ms_ssim

rng = np.random.default_rng(0)
a = rng.random((192, 192, 3), np.float32)
print(ms_ssim(a, np.clip(a + 0.01, 0, 1)))
""",
    "metrics.similarity": """
from zs2kit.metrics import similarity, to_float

a, b = (to_float(frame.image) for frame in list(clip)[:2])
structure, brightness = similarity(a, b)
print(structure.shape, brightness.mean())
""",
    "metrics.background": """
import numpy as np

from zs2kit.metrics import background, to_float

a, b = (to_float(frame.image) for frame in list(clip)[:2])
kept = np.ones(a.shape[:2], bool)
kept[16:48, 16:48] = False  # this square may change
print(background(a, b, kept)["background psnr"])
""",
    "metrics.to_lab": """
from zs2kit.metrics import to_float, to_lab

print(to_lab(to_float(next(iter(clip)).image)).mean(axis=(0, 1)))  # L*, a* and b*
""",
    "metrics.colour_difference": """
from zs2kit.metrics import colour_difference, to_float

a, b = (to_float(frame.image) for frame in list(clip)[:2])
print(f"Delta E {colour_difference(a, b):.1f}")
""",
    "metrics.flow": """
from zs2kit.metrics import flow, to_float

a, b = (to_float(frame.image) for frame in list(clip)[:2])
print(flow(a, b).shape)  # (height, width, 2)
""",
    "metrics.warp_error": """
from zs2kit.flow import visible
from zs2kit.metrics import flow, to_float, warp_error

a, b = (to_float(frame.image) for frame in list(clip)[:2])
forward, backward = flow(a, b), flow(b, a)
print(warp_error(a, b, forward, visible(forward, backward)))
""",
    "metrics.top_motion": """
from zs2kit.metrics import flow, to_float, top_motion

a, b = (to_float(frame.image) for frame in list(clip)[:2])
print(f"{top_motion(flow(a, b)):.2f} pixels")
""",
    "metrics.consistency": """
import numpy as np

from zs2kit.metrics import consistency

features = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)  # (frames, channels)
print(consistency(features))
""",
    "metrics.alignment": """
import numpy as np

from zs2kit.metrics import alignment

rng = np.random.default_rng(0)
print(alignment(rng.normal(size=(8, 32)), rng.normal(size=32)).shape)  # a number for each frame
""",
    "metrics.frechet_distance": """
import numpy as np

from zs2kit.metrics import frechet_distance

rng = np.random.default_rng(0)
print(frechet_distance(rng.normal(size=(200, 4)), rng.normal(size=(200, 4))))
""",
    "metrics.noise_statistics": """
import numpy as np

from zs2kit.metrics import noise_statistics

noise = np.random.default_rng(0).normal(size=(8, 4, 16, 16)).astype(np.float32)
print(noise_statistics(noise)["variance"])
""",
    # zs2kit.plan
    "plan.plan": """
from zs2kit.plan import plan

edited = zs2kit.edit(clip, "a robot", plugins=[Pose()], model=model, num_inference_steps=1)
found = plan(edited, "new.mp4")
print(found.frames, found.shots, f"{found.seconds:.0f} s", found.obstacles)
""",
    "plan.Plan": """
from zs2kit.plan import plan

edited = zs2kit.edit(clip, "a robot", plugins=[Pose()], model=model, num_inference_steps=1)
found = plan(edited, "new.mp4")
if found.disk_bytes > found.free_disk_bytes:
    print("free some disk space first")
""",
    "plan.lines": """
from zs2kit.plan import lines, plan

edited = zs2kit.edit(clip, "a robot", plugins=[Pose()], model=model, num_inference_steps=1)
print("\\n".join(lines(plan(edited, "new.mp4"))))
""",
    "plan.total": """
from zs2kit.plan import plan, total

edited = zs2kit.edit(clip, "a robot", plugins=[Pose()], model=model, num_inference_steps=1)
print(total([plan(edited, "new.mp4"), plan(edited, "other.mp4")]))
""",
    # zs2kit.verify
    "verify.verify": """
from zs2kit.verify import verify

zs2kit.write("copy.mp4", clip, overwrite=True)
checks = verify("clip.mp4", "copy.mp4")
assert all(check.ok for check in checks)
""",
    "verify.Check": """
from zs2kit.verify import verify

for check in verify("clip.mp4", "clip.mp4"):
    print("ok" if check.ok else "WRONG", check.name, check.says)
""",
    # zs2kit.testing
    "Filter": """
from dataclasses import dataclass

from zs2kit import Filter, option


@dataclass(eq=False)
class Darker(Filter):
    \"\"\"Makes a clip darker.\"\"\"

    share: float = option(0.5, "How much of the light is left.", minimum=0, maximum=1)

    def run(self, passage, carry):
        return passage.pixels * self.share


zs2kit.write("darker.mp4", Darker(0.8)(clip), overwrite=True)
""",
    "Filtered": """
from dataclasses import dataclass

from zs2kit import Filter


@dataclass(eq=False)
class Twice(Filter):
    \"\"\"Shows each frame twice, for half as long.\"\"\"

    per_frame = 2

    def run(self, passage, carry):
        return passage.pixels.repeat_interleave(2, dim=0)


edited = zs2kit.edit(clip, "a clown", plugins=[Pose()], model=model, num_inference_steps=1)
filtered = Twice()(edited)
print(filtered.rate == 2 * clip.rate, filtered.clip is edited)  # True True
zs2kit.write("twice.mp4", filtered, overwrite=True)
""",
    "testing.check_filter": """
from dataclasses import dataclass

from zs2kit import Filter, option
from zs2kit.testing import check_filter


@dataclass(eq=False)
class Darker(Filter):
    \"\"\"Makes a clip darker.\"\"\"

    share: float = option(0.5, "How much of the light is left.", minimum=0, maximum=1)

    def run(self, passage, carry):
        return passage.pixels * self.share


check_filter(Darker(), neutral={"share": 1})
""",
    "testing.two_shots": """
from zs2kit.testing import two_shots

print([frame.pts for frame in two_shots([3, 2])])  # [0, 1001, 3003, 4004, 6006]
""",
    "testing.check_plugin": """
from zs2kit.testing import check_plugin
from zs2kit_plugins.strength import Strength

check_plugin(Strength(strength=0.5), num_inference_steps=2)
""",
    "testing.tiny_models": """
from zs2kit.testing import tiny_models

tiny = zs2kit.Model.load(tiny_models()["epsilon"])
print(tiny.native_size)  # (32, 32)
""",
    "testing.tiny_model": """
from pathlib import Path

from zs2kit.testing import tiny_model

tiny = zs2kit.Model.load(tiny_model(Path("tiny"), seed=1))
""",
    "testing.drawn_clip": """
from zs2kit.testing import drawn_clip

print(len(list(drawn_clip(6, width=64, height=48))))
""",
    "testing.make_scan": """
from zs2kit.testing import drawn_clip, make_scan

scan = make_scan(model, [Pose()], drawn_clip(2), num_inference_steps=1)
print(scan.settings.seed)
""",
    "testing.chunks": """
from zs2kit.testing import chunks, drawn_clip

print([chunk.length for chunk in chunks(drawn_clip(6), [4, 2], model)])  # [4, 2]
""",
    "testing.edited_pixels": """
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan, tiny_models

tiny = zs2kit.Model.load(tiny_models()["epsilon"])
source = drawn_clip(3)
pixels = edited_pixels(make_scan(tiny, [], source, num_inference_steps=1), chunks(source, [2, 1], tiny))
print(pixels.shape)  # (3, 3, 32, 32): frames, channels, height, width
""",
}
