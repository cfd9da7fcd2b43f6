"""Which light the numbers of a stored picture stand for, and how a display shows it.

A model sees pictures as an 8-bit display shows them, and what it draws is converted back. So 16-bit pictures,
scene-linear ones (EXR) and HDR (PQ, HLG) keep their own numbers wherever nothing is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Light = Literal["display", "linear", "pq", "hlg"]

WHITE = 203.0  # cd/m2: what a display shows as white, which is HDR's reference white (ITU-R BT.2408)
PEAK = 1000.0  # cd/m2: the brightest light that is shown, which is HDR's nominal peak (ITU-R BT.2100)
_GAMMA = 2.4  # of a BT.709 display (ITU-R BT.1886)

# The chromaticities of red, green, blue and white, by FFmpeg's number for the primaries
_CHROMATICITIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), (0.3127, 0.3290)),  # BT.709
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290)),  # BT.2020
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),  # DCI-P3
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290)),  # Display P3
}


@dataclass(frozen=True)
class Encoding:
    """What the numbers of stored pictures mean: arrays (height, width, 3 or 4), RGB and perhaps alpha.

    bits: the significant bits of each number. Numbers of up to 8 bits are stored in uint8 arrays; those of
    more bits in uint16 arrays, where white is 65535; ``floating`` ones, of 16 or 32 bits, in float32 arrays.
    light: "display" is as a display shows it; "linear" is scene-linear with BT.709's primaries, where 1 is
    white; "pq" and "hlg" are HDR.
    primaries: FFmpeg's number for the primaries of HDR.
    """

    bits: int = 8
    floating: bool = False
    alpha: bool = False
    light: Light = "display"
    primaries: int = 9

    @property
    def is_plain(self) -> bool:
        """Whether pictures are stored just as they are shown, so that one array is enough."""
        return self == Encoding(primaries=self.primaries)

    @property
    def channels(self) -> int:
        """3, or 4 with alpha."""
        return 4 if self.alpha else 3

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type of stored arrays."""
        return np.dtype(np.float32 if self.floating else np.uint8 if self.bits <= 8 else np.uint16)

    @property
    def is_hdr(self) -> bool:
        """Whether the light is PQ or HLG."""
        return self.light in ("pq", "hlg")

    @cached_property
    def _largest(self) -> float:
        return 1.0 if self.floating else float(np.iinfo(self.dtype).max)

    def shown(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Return a stored picture as a display shows it: (height, width, 3), from 0 to 1."""
        colours = stored[..., :3]
        if self.is_hdr:
            return _tone_mapped(colours, self.light, self.primaries)
        scaled = colours.astype(np.float32) / np.float32(self._largest)
        if self.light == "linear":
            return _srgb(np.clip(scaled, 0, 1))
        return np.asarray(np.clip(scaled, 0, 1), np.float32)

    def image(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        """Return a stored picture as a display shows it: (height, width, 3), uint8."""
        if self.light == "display" and self.bits <= 8:
            return np.ascontiguousarray(stored[..., :3])
        shown: NDArray[np.uint8] = np.rint(self.shown(stored) * 255).astype(np.uint8)
        return shown

    def stored(self, shown: NDArray[np.floating[Any]], alpha: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the stored form of a picture that a display shows as ``shown``, (height, width, 3), 0 to 1.

        alpha: the stored picture's alpha; None means opaque.
        """
        if self.is_hdr:
            colours = _untone_mapped(shown, self.light, self.primaries)
        else:
            colours = _linear(shown) if self.light == "linear" else shown
        if not self.floating:
            colours = np.rint(np.clip(colours, 0, 1) * self._largest)
        colours = colours.astype(self.dtype)
        if not self.alpha:
            return colours
        if alpha is None:
            alpha = np.full(colours.shape[:2], self._largest, self.dtype)
        return np.dstack([colours, alpha])

    def converted(self, stored: NDArray[Any], target: Encoding) -> NDArray[Any]:
        """Convert a stored picture to another encoding."""
        if replace(self, bits=0) == replace(target, bits=0) and self.dtype == target.dtype:
            return stored
        alpha = None
        if self.alpha and target.alpha:
            scaled = stored[..., 3].astype(np.float64) / self._largest * target._largest
            alpha = (scaled if target.floating else np.rint(scaled)).astype(target.dtype)
        same = self.light == target.light and not (self.is_hdr or self.floating or target.floating)
        if not same:
            return target.stored(self.shown(stored), alpha)
        colours = np.rint(stored[..., :3].astype(np.float64) / self._largest * target._largest)
        colours = colours.astype(target.dtype)
        if not target.alpha:
            return colours
        opaque = np.full(colours.shape[:2], target._largest, target.dtype)
        return np.dstack([colours, opaque if alpha is None else alpha])

    @property
    def view(self) -> str:
        """How pictures are shown to the model, in words."""
        if self.light == "linear":
            return "in sRGB, from 0 to 1"
        if self.is_hdr:
            return f"tone-mapped by ITU-R BT.2390, from {PEAK:g} to {WHITE:g} cd/m2"
        return "as it is"


def _srgb(linear: NDArray[Any]) -> NDArray[np.float32]:
    """Linear light, from 0 to 1 -> sRGB (IEC 61966-2-1)."""
    power = 1.055 * np.power(linear, 1 / 2.4, dtype=np.float32) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, power).astype(np.float32)


def _linear(srgb: NDArray[Any]) -> NDArray[np.float32]:
    """sRGB -> linear light."""
    power = np.power((srgb + 0.055) / 1.055, 2.4)
    return np.where(srgb <= 0.04045, srgb / 12.92, power).astype(np.float32)


def _nits(pq: NDArray[Any]) -> NDArray[Any]:
    """PQ, from 0 to 1 -> cd/m2 (SMPTE ST 2084)."""
    root = np.power(pq, 32 / 2523)
    part = np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)
    return np.asarray(10_000 * np.power(part, 8192 / 1305))


def _pq(nits: NDArray[Any]) -> NDArray[Any]:
    """cd/m2 -> PQ, from 0 to 1."""
    root = np.power(np.clip(nits, 0, 10_000) / 10_000, 1305 / 8192)
    return np.asarray(np.power((3424 / 4096 + 2413 / 128 * root) / (1 + 2392 / 128 * root), 2523 / 32))


def _scene(hlg: NDArray[Any]) -> NDArray[Any]:
    """HLG -> the scene's linear light, both from 0 to 1 (ITU-R BT.2100)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.asarray(np.where(hlg <= 0.5, hlg**2 / 3, (np.exp((hlg - c) / a) + b) / 12))


def _hlg(scene: NDArray[Any]) -> NDArray[Any]:
    """The scene's linear light -> HLG."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    log = a * np.log(np.maximum(12 * scene, 1) - b) + c
    return np.asarray(np.where(scene <= 1 / 12, np.sqrt(3 * scene), log))


@lru_cache
def _curve() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return BT.2390's curve at many points: cd/m2 from 0 to PEAK, and what each becomes, up to WHITE."""
    peak, white = (_pq(np.array(each)) for each in (PEAK, WHITE))
    e = np.linspace(0, 1, 4096)
    largest = float(white / peak)
    knee = 1.5 * largest - 0.5
    t = (np.maximum(e, knee) - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * largest
    )
    return _nits(e * peak), _nits(np.where(e < knee, e, spline) * peak)


@lru_cache
def _to_709(primaries: int) -> NDArray[np.float32]:
    """Return the matrix from linear RGB of these primaries to that of BT.709."""
    theirs = _to_xyz(_CHROMATICITIES.get(primaries, _CHROMATICITIES[9]))
    return np.asarray(np.linalg.inv(_to_xyz(_CHROMATICITIES[1])) @ theirs, np.float32)


def _to_xyz(chromaticities: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    red, green, blue, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in chromaticities)
    columns = np.stack([red, green, blue], 1)
    return np.asarray(columns * np.linalg.solve(columns, white))


def _luma(primaries: int) -> NDArray[np.float32]:
    theirs = _to_xyz(_CHROMATICITIES.get(primaries, _CHROMATICITIES[9]))
    return np.asarray(theirs[1], np.float32)


@lru_cache
def _decoded(light: Light) -> NDArray[np.float32]:
    """Return the cd/m2 (PQ) or the scene's light (HLG) for each of the 65536 levels."""
    levels = np.linspace(0, 1, 1 << 16)
    return np.asarray(_nits(levels) if light == "pq" else _scene(levels), np.float32)


def _tone_mapped(stored: NDArray[np.uint16], light: Light, primaries: int) -> NDArray[np.float32]:
    """HDR, (height, width, 3) -> what a BT.709 display shows, from 0 to 1.

    The curve is applied to the largest of red, green and blue. All three change by the same factor, so hues
    stay as they are.
    """
    nits = _decoded(light)[stored]
    if light == "hlg":  # the system gamma 1.2 of a display of 1000 cd/m2
        nits *= PEAK * np.power(np.maximum(nits @ _luma(primaries), 1e-9), np.float32(0.2))[..., None]
    brightest = nits.max(axis=2)
    before, after = _curve()
    mapped = np.interp(brightest, before, after).astype(np.float32)
    nits *= (mapped / np.maximum(brightest, np.float32(1e-6)))[..., None]
    linear = np.clip(nits @ _to_709(primaries).T / np.float32(WHITE), 0, 1)
    return np.asarray(np.power(linear, np.float32(1 / _GAMMA)), np.float32)


def _untone_mapped(shown: NDArray[Any], light: Light, primaries: int) -> NDArray[Any]:
    """What a BT.709 display shows -> HDR, from 0 to 1; the inverse of `_tone_mapped`."""
    linear = np.power(np.clip(shown, 0, 1).astype(np.float32), np.float32(_GAMMA)) * np.float32(WHITE)
    nits = np.maximum(linear @ np.linalg.inv(_to_709(primaries)).T.astype(np.float32), 0)
    brightest = nits.max(axis=2)
    before, after = _curve()
    mapped = np.interp(brightest, after, before).astype(np.float32)
    nits *= (mapped / np.maximum(brightest, np.float32(1e-6)))[..., None]
    if light == "pq":
        return _pq(nits)
    luminance = np.maximum(nits @ _luma(primaries) / PEAK, 1e-9)
    return _hlg(np.clip(nits / PEAK * np.power(luminance, -0.2 / 1.2)[..., None], 0, 1))
