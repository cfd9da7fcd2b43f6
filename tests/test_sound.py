"""Sound and other streams of a source: what can be copied is copied, and what stays behind is said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from zoo import SUFFIXES, Track, drawn, make, sounding

from zs2kit import io
from zs2kit.errors import ClipError
from zs2kit.verify import verify

# What a clip's sound is, and the results that can hold it as it is
HELD: dict[str, tuple[Track, str]] = {
    "g711.mov": (Track("pcm_alaw", 8000, "mono"), ".mov"),  # cameras
    "g711.avi": (Track("pcm_mulaw", 8000, "mono"), ".mov"),
    "amr.3gp": (Track("libopencore_amrnb", 8000, "mono"), ".mov"),  # phones
    "wma.wmv": (Track("wmav2", 44100), ""),
    "adpcm.avi": (Track("adpcm_ms", 44100, "mono"), ""),
    "adpcm.mov": (Track("adpcm_ima_qt", 44100, "mono"), ".mov"),
    "8 bits.avi": (Track("pcm_u8", 22050, "mono"), ".mov .mkv"),
    "16 bits.avi": (Track("pcm_s16le"), ".mp4 .mov .mkv"),
    "24 bits.mkv": (Track("pcm_s24le", layout="5.1"), ".mp4 .mov .mkv"),
    "floats.mov": (Track("pcm_f32le"), ".mp4 .mov .mkv"),
    "surround.ts": (Track("eac3", layout="5.1"), ".mp4 .mov .mkv"),
    "mp2.ts": (Track("mp2"), ".mp4 .mov .mkv"),
    "7.1.mkv": (Track("aac", layout="7.1"), ".mp4 .mov .mkv"),
    "vorbis.mkv": (Track("vorbis"), ".mp4 .mkv"),
    "lossless.mkv": (Track("wavpack"), ".mkv"),
}


@pytest.mark.parametrize("name", HELD)
def test_sound_is_copied_or_the_way_out_is_said(tmp_path: Path, name: str) -> None:
    """The container that is advised takes it, and AAC always works."""
    track, held = HELD[name]
    source = sounding(tmp_path / name, tracks=(track,), frames=10)
    for suffix in SUFFIXES:
        out = tmp_path / f"out{suffix}"
        if suffix in held.split():
            io.write(out, io.read(source))
            assert [check for check in verify(source, out) if not check.ok] == []
            continue
        with pytest.raises(ClipError) as caught:
            io.Output(out).check(io.read(source))
        assert f"{suffix} can't hold the sound of {source}" in str(caught.value)
        advised = [each for each in SUFFIXES if f"write to a {each} file" in str(caught.value)]
        assert advised == held.split() and "have it encoded as AAC (`sound='aac'`)" in str(caught.value)
    encoded = io.write(tmp_path / "aac.mp4", io.read(source), sound="aac")
    with av.open(str(encoded)) as container:
        (sound,) = container.streams.audio
        assert float(sound.duration * sound.time_base) == pytest.approx(0.4, abs=0.08)
        assert sound.layout.name == track.layout
        packed = av.AudioResampler("flt", track.layout, sound.rate)
        frames = [each for frame in list(container.decode(sound))[1:] for each in packed.resample(frame)]
        channels = len(av.AudioLayout(track.layout).channels)
        found = np.concatenate([frame.to_ndarray()[0].reshape(-1, channels) for frame in frames]).T
    rate, number = sound.rate, found.shape[1]
    for channel, wave in enumerate(found, 1):  # each has its own tone
        if channel == 4:  # AAC keeps only the lowest tones of the subwoofer
            continue
        loudest = np.argmax(np.abs(np.fft.rfft(wave * np.hanning(number)))) * rate / number
        assert loudest == pytest.approx(0.05 * channel * track.rate / (2 * np.pi), abs=2 * rate / number)


def test_tracks_that_a_file_cannot_hold_are_said(tmp_path: Path) -> None:
    source = sounding(
        tmp_path / "a.mkv", tracks=(Track("aac"), Track("flac", layout="mono"), Track("ac3", late=0.2))
    )
    with pytest.warns(UserWarning, match=r"\.mov can't hold everything in .*; left out: sound track 2 \(fl"):
        out = io.write(tmp_path / "out.mov", io.read(source))
    with av.open(str(out)) as container:
        assert [each.codec_context.name for each in container.streams.audio] == ["aac", "ac3"]
        late = container.streams.audio[1]
        assert float(late.start_time * late.time_base) == pytest.approx(0.2, abs=0.03)
    part = io.write(tmp_path / "part.mkv", io.read(source, start=0.4, end=0.8))
    assert [check for check in verify(source, part, start=0.4, end=0.8) if not check.ok] == []


def beside(path: Path) -> list[tuple[str, str]]:
    """The streams other than picture and sound: their kind and the name of their file or codec."""
    with av.open(str(path)) as container:
        return [
            (each.type, each.metadata.get("filename") or (each.codec_context or each).name)
            for each in container.streams
            if each.type not in ("audio",) and each.index > 0
        ]


def with_cover(path: Path) -> Path:
    """A clip with a picture that players show in their lists."""
    data = cv2.imencode(".png", drawn(0))[1].tobytes()
    (path.parent / "cover.png").write_bytes(data)
    plain = make(path.with_name(f"plain{path.suffix}"), sound="aac", time_base=Fraction(1, 1000))
    with (
        av.open(str(plain)) as source,
        av.open(str(path.parent / "cover.png")) as cover,
        av.open(str(path), "w") as container,
    ):
        copies = {
            each.index: container.add_stream_from_template(each, opaque=True) for each in source.streams
        }
        if path.suffix == ".mkv":
            container.add_attachment("cover.png", "image/png", data)
        else:
            stream = container.add_stream_from_template(cover.streams.video[0], opaque=True)
            stream.disposition = av.stream.Disposition.attached_pic
            packet = av.Packet(data)
            packet.pts = packet.dts = 0
            packet.stream = stream
            container.mux(packet)
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_covers_are_copied(tmp_path: Path, suffix: str) -> None:
    source = with_cover(tmp_path / f"a{suffix}")
    for out in (".mp4", ".mkv"):
        result = io.write(tmp_path / f"out{out}", io.read(source, start=0.2))
        assert [kind for kind, _ in beside(result)] == ["video"]
        with av.open(str(result)) as container:
            cover = container.streams.video[1]
            assert cover.disposition & av.stream.Disposition.attached_pic
            np.testing.assert_array_equal(
                next(container.decode(cover)).to_ndarray(format="rgb24")[..., ::-1], drawn(0)
            )
        assert [check for check in verify(source, result, start=0.2) if not check.ok] == []
    with pytest.warns(UserWarning, match=r"\.mov can't hold everything in .*; left out: cover \(png\)"):
        io.write(tmp_path / "out.mov", io.read(source))


def test_an_mkv_takes_back_what_an_mkv_held(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain.mkv", sound="aac flac", time_base=Fraction(1, 1000))
    source = tmp_path / "a.mkv"
    with av.open(str(plain)) as film, av.open(str(source), "w") as container:
        copies = {each.index: container.add_stream_from_template(each, opaque=True) for each in film.streams}
        text = container.add_mux_stream("subrip")
        text.time_base = Fraction(1, 1000)
        container.add_attachment("font.ttf", "font/ttf", b"a font")
        for packet in film.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
        line = av.Packet(b"hello")
        line.pts = line.dts = 100
        line.duration, line.time_base, line.stream = 200, Fraction(1, 1000), text
        container.mux(line)
    out = io.write(tmp_path / "out.mkv", io.read(source))
    assert beside(out) == beside(source)
    with av.open(str(out)) as container:
        assert container.streams.attachments[0].data == b"a font"
    assert [check for check in verify(source, out) if not check.ok] == []
    assert io.Output(tmp_path / "b.mkv").copied(io.read(source)) == [
        *("sound (aac)", "sound (flac)", "subtitles (subrip)", "attachment (font.ttf)")
    ]
    with pytest.warns(
        UserWarning, match=r"left out: sound track 2 \(flac\), subtitle track 3 \(subrip\), attachment font"
    ):
        io.write(tmp_path / "out.mov", io.read(source))


def with_data(path: Path, tag: bytes) -> Path:
    """A clip with a track of data, as cameras and phones write it."""
    plain = make(path.with_name("plain.mp4"), sound="aac")
    with av.open(str(plain)) as film, av.open(str(path), "w") as container:
        copies = {each.index: container.add_stream_from_template(each, opaque=True) for each in film.streams}
        text = container.add_mux_stream("mov_text")
        text.time_base = Fraction(1, 1000)
        for packet in film.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
        for index in range(3):
            data = av.Packet(b"\0\4abc%d" % index)
            data.pts = data.dts = 160 * index
            data.duration, data.time_base, data.stream = 160, Fraction(1, 1000), text
            container.mux(data)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"tx3g", tag).replace(b"sbtl", b"meta"))
    return path


def test_data_tracks_are_copied_or_said(tmp_path: Path) -> None:
    gopro = with_data(tmp_path / "a.mp4", b"gpmd")
    for suffix in (".mp4", ".mov"):
        assert beside(io.write(tmp_path / f"out{suffix}", io.read(gopro))) == [("data", "bin_data")]
    with pytest.warns(UserWarning, match=r"\.mkv can't hold everything in .*; left out: data track 2"):
        io.write(tmp_path / "out.mkv", io.read(gopro))
    phone = with_data(tmp_path / "b.mp4", b"mebx")
    with pytest.warns(UserWarning, match=r"left out: data track 2 \(of an unknown codec\)"):
        io.write(tmp_path / "phone.mov", io.read(phone))


def test_a_second_video_is_said(tmp_path: Path) -> None:
    first = make(tmp_path / "plain.mkv", time_base=Fraction(1, 1000))
    source = tmp_path / "a.mkv"
    with av.open(str(first)) as film, av.open(str(source), "w") as container:
        (video,) = film.streams
        copies = [container.add_stream_from_template(video, opaque=True) for _ in range(2)]
        for packet in film.demux():
            if packet.size:
                data, times = bytes(packet), (packet.pts, packet.dts)
                for copy in copies:
                    again = av.Packet(data)
                    again.pts, again.dts = times
                    again.time_base, again.stream, again.is_keyframe = (
                        packet.time_base,
                        copy,
                        packet.is_keyframe,
                    )
                    container.mux(again)
    with pytest.warns(UserWarning, match=r"left out: video track 1 \(h264\)"):
        io.write(tmp_path / "out.mkv", io.read(source))
