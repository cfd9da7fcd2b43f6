"""Any frame of a clip at once, and the other readers: decord, cameras, what scripts hold."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from click.testing import CliRunner
from zoo import ZOO, assert_drawn, make

from zs2kit import cli, io
from zs2kit.errors import ClipError, UsageError
from zs2kit.io import decord_process
from zs2kit.testing import drawn_clip
from zs2kit.verify import verify

SEEN = [
    "plain.mp4",
    "b-frames.mp4",
    "open-gop.mp4",
    "ntsc.mp4",
    "variable.mkv",
    "stream.ts",
    "turned left.mp4",
]
SEEN += [
    "late picture.mp4",
    "hevc.mp4",
    "mpeg4.avi",
    "no clock.h264",
    "10 bits.mp4",
    "interlaced.mp4",
    "photo.jpg",
]


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("how", [{}, {"start": 0.1, "end": 0.4}, {"skip": 2}])
def test_any_frame_is_the_one_that_iterating_gives(tmp_path: Path, name: str, how: dict[str, float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = ZOO[name].make(tmp_path / name)
        try:
            clip = io.read(path, **how)
        except UsageError:  # it has none there
            assert name in ("photo.jpg", "late picture.mp4")
            return
        frames = list(clip)
        for number in {0, 1, len(frames) // 2, len(frames) - 1} & set(range(len(frames))):
            found = clip.frame(number)
            assert found.pts == frames[number].pts
            np.testing.assert_array_equal(found.image, frames[number].image)
        for number in (-1, len(frames)):
            with pytest.raises(UsageError, match="has no frame"):
                clip.frame(number)
        for seconds in (0, 0.09, 0.21, 100):
            shown = [each for each in frames if (each.pts - frames[0].pts) * clip.time_base <= seconds]
            assert clip.at(seconds).pts == shown[-1].pts
    with pytest.raises(UsageError, match="`seconds` must be 0 or more"):
        clip.at(-1)


def test_any_frame_of_other_clips(tmp_path: Path) -> None:
    clip = drawn_clip(5)
    np.testing.assert_array_equal(clip.frame(3).image, list(clip)[3].image)
    assert clip.at(2.5 / clip.rate).pts == list(clip)[2].pts
    io.write(tmp_path / "a.%d.png", clip)
    pictures = io.read(tmp_path / "a.%d.png")
    np.testing.assert_array_equal(pictures.frame(4).image, clip.frame(4).image)
    assert pictures.at(0.05).pts == 1 and pictures.at(9).pts == 4
    for each in (clip, pictures):
        with pytest.raises(UsageError, match="there is no frame 5"):
            each.frame(5)


# ---- decord


def test_decord_reads_the_same_frames(tmp_path: Path) -> None:
    for name in ("b-frames.mp4", "variable.mp4", "late picture.mp4"):
        path = ZOO[name].make(tmp_path / name)
        ours, theirs = list(io.read(path)), list(io.read(path, reader="decord"))
        assert [frame.pts for frame in ours] == [frame.pts for frame in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(a.image.astype(int) - b.image).max() <= 3
        part = (
            io.read(path, start=0.7, reader="decord")
            if "late" in name
            else io.read(path, skip=3, reader="decord")
        )
        np.testing.assert_array_equal(part.frame(2).image, list(part)[2].image)


def test_a_long_clip_is_open_at_any_place_at_once(tmp_path: Path) -> None:
    """Ten minutes: any frame in under 0.3 s of the processor's time, by both readers."""
    path = make(tmp_path / "long.mp4", frames=15_000, options={"preset": "ultrafast", "crf": "30"})
    for reader in ("pyav", "decord"):
        clip = io.read(path, reader=reader)
        clip.frame(0)  # the packets are looked through once
        for number in (14_999, 7_001, 240, 12_345):
            started = time.process_time()
            assert clip.frame(number).pts == 512 * number
            assert time.process_time() - started < 0.3


@pytest.mark.parametrize("name", ["10 bits.mp4", "turned left.mp4", "alpha.mov"])
def test_what_decord_misreads_is_refused(tmp_path: Path, name: str) -> None:
    path = ZOO[name].make(tmp_path / name)
    with pytest.raises(UsageError, match="decord reads upright pictures of 8 bits only"):
        io.read(path, reader="decord")


def test_a_reader_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no reader 'decrod'; did you mean decord"):
        io.read(make(tmp_path / "a.mp4"), reader="decrod")


@pytest.mark.parametrize("code", ["os.abort()", "time.sleep(60)", "raise SystemExit"])
def test_decord_that_crashes_or_hangs_ends_its_own_process_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """A module that behaves so stands in for decord."""
    (tmp_path / "decord.py").write_text(
        f"import os, time\nclass VideoReader:\n    def __init__(self, *_, **__):\n        {code}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(decord_process, "PATIENCE", 1.0)
    with pytest.raises(ClipError, match=r"decord crashes or hangs on .*; use the other reader"):
        io.read(make(tmp_path / "a.mp4"), reader="decord").frame(3)


def test_a_file_that_is_no_video_of_decord(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(ClipError, match="decord can't open"):
        decord_process.DecordProcess(path)


@pytest.mark.parametrize("first", ["torch", "zs2kit"])
def test_torch_works_beside_decord(tmp_path: Path, first: str) -> None:
    """On a machine without a GPU too: sampling after decord has read, whatever was imported first."""
    path = make(tmp_path / "a.mp4", frames=3)
    code = f"""
import {first}
import zs2kit, torch
from zs2kit.testing import tiny_models
clip = zs2kit.read({str(path)!r}, reader="decord")
clip.frame(1)
made = zs2kit.edit(clip, "a disc", plugins=(), model=tiny_models()["epsilon"], num_inference_steps=1)
print(len(list(made)), float((torch.ones(64, 64) @ torch.ones(64, 64)).sum()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.split() == ["3", "262144.0"], done.stderr


# ---- cameras, and what scripts hold


def test_what_scripts_hold_is_a_clip(tmp_path: Path) -> None:
    import cv2
    import torch
    from PIL import Image

    frames = list(drawn_clip(4))
    images = np.stack([frame.image for frame in frames])
    held = [images, list(images), [Image.fromarray(each) for each in images], torch.from_numpy(images)]
    held += [torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255]
    for each in held:
        with pytest.warns(UserWarning, match="pictures have no frame rate, so 25 are shown per second"):
            out = io.write(tmp_path / "out.mkv", each, codec="ffv1", overwrite=True)
        for ours, theirs in zip(io.read(out), frames, strict=True):
            np.testing.assert_array_equal(ours.image, theirs.image)
    path = ZOO["variable.mp4"].make(tmp_path / "a.mp4")
    clip = io.read(path)
    copy = io.write(tmp_path / "captured.mkv", cv2.VideoCapture(str(path)), codec="ffv1")
    for ours, theirs in zip(io.read(copy), clip, strict=True):
        assert np.abs(ours.image.astype(int) - theirs.image).max() <= 3
    times = [[float(each.pts * it.time_base) for each in it] for it in (io.read(copy), clip)]
    np.testing.assert_allclose(times[0], np.array(times[1]) - times[1][0], atol=0.002)
    for wrong in (b"bytes", 7, {"a": 1}):
        with pytest.raises(UsageError, match="is not a clip"):
            io.write(tmp_path / "x.mp4", wrong)
    for wrong in (images[0], np.zeros((2, 8, 8, 3), np.int64), [np.full((8, 8, 3), np.nan)]):
        with pytest.raises(ClipError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            io.write(tmp_path / "x.mp4", wrong)


def test_a_reader_of_decord_is_a_clip(tmp_path: Path) -> None:
    """In a process of its own, as its import may disturb torch here."""
    path = make(tmp_path / "a.mp4", frames=5)
    code = f"""
import sys
sys.modules["nvidia"] = None
import decord, zs2kit
out = zs2kit.write({str(tmp_path / "out.mkv")!r}, decord.VideoReader({str(path)!r}), codec="ffv1")
clip = zs2kit.read(out)
print(len(list(clip)), clip.rate)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["5", "25"], done.stderr


def test_no_camera_and_no_stream_are_one_line(tmp_path: Path) -> None:
    def said(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.main, ["edit", *words, "-o", str(tmp_path / "o.mp4"), "--quiet"])
        assert "Traceback" not in result.output and result.stderr.count("\n") == 1, result.output
        return result.exit_code, result.stderr

    assert said("--camera", "77", "--end", "1") == (1, "zs2kit: error: there is no camera 77\n")
    assert "camera 77 has no end; say after how many seconds to stop, with --end" in said("--camera", "77")[1]
    assert "comes instead of CLIP" in said("--camera", "0", "a.mp4")[1]
    assert said()[0] == 2
    code, line = said("rtsp://127.0.0.1:9/x", "--end", "1")
    assert code == 1 and "rtsp://127.0.0.1:9/x can't be opened" in line


def test_a_stream_is_read_as_it_comes(tmp_path: Path) -> None:
    """Of a server on this machine; it ends before we do."""
    source = make(tmp_path / "a.ts", frames=20)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.func.log_message = lambda *_: None
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/{source.name}"
            with pytest.warns(
                UserWarning, match=r"a\.ts is read as it comes, so an edit of it can't be resumed"
            ):
                clip = io.read(address, end=60)
            with pytest.warns(UserWarning, match=r"a\.ts has ended, after 20 frames"):
                frames = list(clip)
        finally:
            server.shutdown()
            thread.join()
    assert_drawn(frames)
    with pytest.raises(ClipError, match="already iterated over"):
        next(iter(clip))


def test_a_source_that_ends_is_said() -> None:
    """Of OpenCV's interface, a camera that gives three pictures and is then unplugged."""
    from zs2kit.io.cameras import captured

    class Camera:
        def __init__(self) -> None:
            self.pictures = [np.zeros((8, 8, 3), np.uint8)] * 3

        def read(self) -> tuple[bool, np.ndarray | None]:
            return (True, self.pictures.pop()) if self.pictures else (False, None)

        def get(self, what: int) -> float:
            return 0.0

    clip = captured(Camera(), "camera 0", 5.0)
    with pytest.warns(UserWarning, match="camera 0 has ended, after 3 frames; what has come is used"):
        frames = list(clip)
    assert [frame.pts for frame in frames] == sorted({frame.pts for frame in frames}) and len(frames) == 3


# ---- pipes


def piped(data: bytes, tiny_folders: dict[str, Path], *words: object) -> tuple[int, bytes, bytes]:
    """Return the exit code, what is on standard output, and what is on standard error."""
    options = [
        "--model",
        tiny_folders["epsilon"],
        "--plugin",
        "none",
        "--steps",
        1,
        "--prompt",
        "x",
        "--quiet",
    ]
    result = CliRunner().invoke(cli.main, ["edit", *map(str, [*words, *options])], input=data)
    return result.exit_code, result.stdout_bytes, result.stderr_bytes


def test_a_pipe_in_and_out(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    source = make(tmp_path / "a.mp4", frames=6, sound="aac")
    code, out, error = piped(source.read_bytes(), tiny_folders, "-", "-o", "-")
    assert (code, error) == (0, b"")
    result = tmp_path / "b.mkv"
    result.write_bytes(out)
    assert [each for each in verify(source, result) if not each.ok] == []
    named = piped(source.read_bytes(), tiny_folders, "-", "-o", tmp_path / "c.mkv")
    assert named == (0, f"{tmp_path / 'c.mkv'}\n".encode(), b"")
    assert (tmp_path / "c.mkv").read_bytes() == result.read_bytes()
    cut = piped(make(tmp_path / "a.ts", frames=40).read_bytes()[:-3000], tiny_folders, "-", "-o", "-")
    assert cut[0] == 0 and cut[1][:4] == out[:4]


@pytest.mark.parametrize(
    ("data", "words", "code", "says"),
    [
        (b"", ("-", "-o", "-"), 1, b"nothing came on standard input"),
        (b"no video", ("-", "-o", "-"), 1, b"standard input is not a video"),
        (b"", ("-",), 2, b"standard input is a single clip without a name; name the result: --out"),
        (b"", ("-", "a.mp4", "-o", "-"), 2, b"standard input is a single clip"),
        (
            b"",
            ("a.mp4", "-o", "-", "--report", "a.json"),
            2,
            b"nothing can be written beside standard output",
        ),
    ],
)
def test_pipes_that_are_wrong(
    tiny_folders: dict[str, Path], data: bytes, words: tuple[str, ...], code: int, says: bytes
) -> None:
    ended, out, error = piped(data, tiny_folders, *words)
    assert (ended, out) == (code, b"")
    assert says in error and error.count(b"\n") == 1


PRODUCER = """
import sys, av
share = float(sys.argv[2])
class Pipe:
    data = b""
    def write(self, data):
        Pipe.data += bytes(data)
        return len(data)
with av.open(sys.argv[1]) as source, av.open(Pipe(), "w", format=sys.argv[3]) as container:
    copies = [container.add_stream_from_template(each, opaque=True) for each in source.streams]
    for packet in source.demux():
        if packet.size:
            packet.stream = copies[packet.stream_index]
            container.mux(packet)
sys.stdout.buffer.write(Pipe.data[: int(share * len(Pipe.data))])
"""


@pytest.mark.parametrize("kind", ["nut", "matroska"])
@pytest.mark.parametrize("share", [1, 0.6])
def test_processes_on_both_sides(
    tmp_path: Path, tiny_folders: dict[str, Path], kind: str, share: float
) -> None:
    """A pipe that ends in the middle is said; what has come is edited, and goes on to the next process."""
    source = make(tmp_path / "a.mp4", frames=12, sound="aac", options={"g": "4", "bf": "0"})
    words = ["edit", "-", "-o", "-", "--model", tiny_folders["epsilon"], "--plugin", "none", "--steps", 1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    before = subprocess.Popen(
        [sys.executable, "-c", PRODUCER, source, str(share), kind], stdout=subprocess.PIPE, env=environment
    )
    middle = subprocess.Popen(
        [sys.executable, "-m", "zs2kit", *map(str, words), "--prompt", "x", "--progress", "none"],
        stdin=before.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    code = "import av, sys; print(len(list(av.open(sys.stdin.buffer).decode(video=0))))"
    after = subprocess.Popen(
        [sys.executable, "-c", code], stdin=middle.stdout, stdout=subprocess.PIPE, env=environment
    )
    for pipe in (before.stdout, middle.stdout):
        pipe.close()
    counted, _ = after.communicate(timeout=300)
    said = middle.stderr.read().decode()
    assert (before.wait(), middle.wait(), after.wait()) == (0, 0, 0), said
    middle.stderr.close()
    assert ("standard input ends in the middle; what has come is used" in said) == (share < 1)
    assert int(counted) == 12 if share == 1 else 0 < int(counted) < 12


def test_a_sheet_decodes_its_frames_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zs2kit.io import decoding
    from zs2kit.sheet import write_sheet

    clip = io.read(make(tmp_path / "a.mp4", frames=40))
    converted: list[int] = []
    rgb = decoding.rgb
    monkeypatch.setattr(decoding, "rgb", lambda *args: converted.append(1) or rgb(*args))
    write_sheet(tmp_path / "a.png", {"a": clip}, columns=4)
    assert len(converted) == 4


def test_a_sheet_is_as_wide_as_its_widest_row(tmp_path: Path) -> None:
    import cv2

    from zs2kit.sheet import CAPTION, GAP, HEIGHT, write_sheet

    narrow, wide = (drawn_clip(n, width=width, height=HEIGHT) for n, width in ((1, 20), (3, 50)))
    write_sheet(tmp_path / "a.png", {"source": narrow, "result": wide})
    picture = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    assert picture.shape[1] == 3 * (50 + GAP) - GAP
    *_, last = wide
    assert (picture[-GAP - HEIGHT : -GAP, -50:] == last.image).all()
    write_sheet(tmp_path / "b.png", {"source": narrow})
    caption = cv2.imread(str(tmp_path / "b.png"))[:CAPTION]
    assert (caption[:, 30:] < 128).any() and (caption[:, -1] == 255).all()  # the whole word
