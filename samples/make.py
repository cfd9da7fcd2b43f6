"""Draws the samples: `python samples/make.py` writes them beside this file, the same every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import cv2
import numpy as np
from numpy.typing import NDArray

import zs2kit
from zs2kit.puppets.skeleton import draw_skeleton
from zs2kit.puppets.world import Scene, motion_scenes, render

FOLDER = Path(__file__).parent
SIZE = 256  # pixels
MODEL_SIZE = 128  # of the demonstration model
HERTZ = 44100  # samples of sound a second
NOTES = 220 * 2 ** (np.array([0, 2, 4, 7, 9, 12]) / 12)  # pentatonic from A: any order sounds good

# name: scene, motion, frames, frames per second, frame widths that the background moves per second, steps of
# the motion per second, and the melody as positions in NOTES
SAMPLES = {
    "robot-dance": (
        Scene("robot", "red", "city", background=4, height=0.72),
        *("dance", 32, Fraction(12), 0.0, 1.5, (0, 2, 4, 2, 5, 4, 2, 1)),
    ),
    "knight-walk": (
        Scene("knight", "green", "desert", background=8, height=0.7),
        *("walk", 48, Fraction(30000, 1001), 0.12, 2.0, (3, 3, 4, 1, 0, 1, 2, 0)),
    ),
    "clown-wave": (
        Scene("clown", "yellow", "grass", background=2, height=0.74),
        *("wave", 30, Fraction(12), 0.0, 1.2, (5, 4, 5, 3, 4, 2, 3, 0)),
    ),
}


def main() -> None:
    """Write every sample."""
    for name, (scene, motion, count, rate, pan, steps, melody) in SAMPLES.items():
        with TemporaryDirectory() as folder:
            sound = Path(folder) / "tune.m4a"
            write_sound(sound, tune(float(count / rate), steps, melody))
            clip = zs2kit.Clip(
                frames(motion_scenes(scene, motion, count, fps=float(rate), pan=pan)),
                *(SIZE, SIZE, rate, 1 / rate, count),
                source=sound,
            )
            print(zs2kit.write(FOLDER / f"{name}.mp4", clip, overwrite=True))
    print(zs2kit.write(FOLDER / "skeleton-jump.mp4", skeleton(), overwrite=True))
    cv2.imwrite(str(FOLDER / "pink-wizard.png"), picture()[..., ::-1])  # OpenCV wants BGR
    write_timeline(FOLDER / "cut.otio")


def skeleton() -> zs2kit.Clip:
    """Poses, drawn as a ControlNet takes them, of a figure that jumps for as long as the robot dances.

    They are drawn at the model's size, where their lines are as thick as those that the ControlNet has
    learned from, and then enlarged.
    """
    scene, _, count, rate, *_ = SAMPLES["robot-dance"]
    side = MODEL_SIZE
    poses = [render(each, side).keypoints for each in motion_scenes(scene, "jump", count, fps=float(rate))]
    maps = [draw_skeleton(each, side, side) for each in poses]
    enlarged = [cv2.resize(each, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for each in maps]
    return zs2kit.Clip.from_images(enlarged, rate)


def picture() -> NDArray[np.uint8]:
    """A figure for `reference.image`: (height, width, 3) RGB."""
    return render(Scene("wizard", "pink", "snow", background=3, height=0.8), SIZE).image


def write_timeline(path: Path) -> None:
    """A cut of a second and a half: the robot, a dissolve, the clown; with a prompt for each as a marker."""
    from opentimelineio import adapters, opentime, schema

    def time(frames: float) -> opentime.RationalTime:
        return opentime.RationalTime(frames, 24)

    def cut(name: str, start: int, length: int, prompt: str) -> schema.Clip:
        shown = opentime.TimeRange(time(start), time(length))
        clip = schema.Clip(name, schema.ExternalReference(f"{name}.mp4"), shown)
        clip.markers.append(schema.Marker(f"prompt: {prompt}", opentime.TimeRange(time(start), time(1))))
        return clip

    dissolve = schema.Transition("dissolve", "SMPTE_Dissolve", time(4), time(4))
    robot = cut("robot-dance", 8, 20, "a blue knight on the beach")
    clown = cut("clown-wave", 12, 16, "a pink wizard in the snow")
    timeline = schema.Timeline("cut")
    timeline.tracks.append(schema.Track("V1", [robot, dissolve, clown], kind="Video"))
    adapters.write_to_file(timeline, str(path))
    print(path)


def frames(scenes: Sequence[Scene]) -> Iterator[zs2kit.Frame]:
    """Draw the scenes, one frame each."""
    for index, scene in enumerate(scenes):
        yield zs2kit.Frame(render(scene, SIZE).image, index)


def tune(seconds: float, steps: float, melody: Sequence[int]) -> NDArray[np.float32]:
    """A drum on every step of the motion, and two plucked notes of the melody; samples in [-1, 1]."""
    time = np.arange(round(seconds * HERTZ)) / HERTZ
    sound = np.zeros_like(time)
    for index in range(int(seconds * steps * 2) + 1):
        since = time - index / (steps * 2)
        heard = since >= 0
        note = NOTES[melody[index % len(melody)]]
        for overtone, loudness in ((1, 0.3), (2, 0.12), (3, 0.05)):
            fading = np.exp(-since[heard] * 6 * overtone)
            sound[heard] += loudness * fading * np.sin(2 * np.pi * overtone * note * since[heard])
        if index % 2 == 0:
            sound[heard] += 0.4 * np.exp(-since[heard] * 18) * np.sin(2 * np.pi * 60 * since[heard])
    return (sound / np.abs(sound).max() * 0.7).astype(np.float32)


def write_sound(path: Path, samples: NDArray[np.float32]) -> None:
    """Encode mono samples as AAC."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=HERTZ, layout="mono", bit_rate=96_000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = HERTZ
        container.mux([*stream.encode(frame), *stream.encode(None)])


if __name__ == "__main__":
    main()
