"""What lies behind the shapes: a plain or blended colour, soft noise, or what looks like a photograph.

A ground has no size: it is rendered from its seed at any. Shape legend: H height, W width, C channels (RGB).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]
Field = NDArray[np.float32]


class GroundKind(StrEnum):
    DARK = "dark"
    WHITE = "white"
    COLOUR = "a colour"
    GRADIENT = "a gradient"
    NOISE = "soft noise"
    PHOTOGRAPH = "like a photograph"


@dataclass(frozen=True, slots=True)
class Ground:
    """How to render it; `palette` holds the two colours of a gradient, up to six of noise and photographs."""

    kind: GroundKind
    palette: tuple[Rgb, ...]
    seed: int = 0
    mirrored: bool = False

    def mirror(self) -> "Ground":
        return replace(self, mirrored=not self.mirrored)


def random_ground(rng: np.random.Generator, kind: GroundKind, usable: Callable[[Rgb], bool]) -> Ground | None:
    """Draw a ground whose colours are all `usable`; None where that fails, as with white under a white shape."""
    count = {GroundKind.GRADIENT: 2, GroundKind.NOISE: 3, GroundKind.PHOTOGRAPH: 6}.get(kind, 1)
    if kind is GroundKind.DARK:
        count = int(rng.integers(1, 3))
    palette: list[Rgb] = []
    for _ in range(60):
        colour = _random_colour(rng, kind)
        # What is blended must be usable on the whole way from one colour to the next.
        if all(usable(mix(colour, other, share)) for other in (*palette, colour) for share in (0, 0.25, 0.5, 0.75)):
            palette.append(colour)
        if len(palette) == count:
            return Ground(kind, tuple(palette), int(rng.integers(2**31)))
    if len(palette) >= 2:
        return Ground(kind, tuple(palette), int(rng.integers(2**31)))
    return None


def mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    """`share` of `other` in `one`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def render(ground: Ground, height: int, width: int) -> NDArray[np.uint8]:
    """The ground as a picture (H, W, C)."""
    rng = np.random.default_rng(ground.seed)
    colours = np.asarray(ground.palette, np.float32)
    if ground.kind is GroundKind.PHOTOGRAPH:
        pixels = _photograph(rng, colours, height, width)
    elif ground.kind is GroundKind.NOISE:
        pixels = _blended(colours, _noise(rng, height, width, int(rng.integers(2, 7))))
        pixels += _noise(rng, height, width, 40)[..., None] * rng.uniform(0, 16) - 6
    else:
        slope = rng.uniform(-1, 1, 2) if ground.kind is GroundKind.GRADIENT else (1.0, 0.0)
        pixels = _blended(colours, _slope(float(slope[0]), float(slope[1]), height, width))
    whole = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(whole[:, ::-1]) if ground.mirrored else whole


def _random_colour(rng: np.random.Generator, kind: GroundKind) -> Rgb:
    if kind is GroundKind.WHITE:
        level = int(rng.choice([255, 255, 255, 250, 244, 238]))
        return level, level, level
    if kind is GroundKind.DARK:
        level = int(rng.integers(0, 62))
        red, green, blue = np.clip(level + rng.integers(-10, 11, 3), 0, 255)
    elif rng.random() < 0.35:
        level = int(rng.integers(0, 256))
        red, green, blue = np.clip(level + rng.integers(-12, 13, 3), 0, 255)
    else:
        red, green, blue = rng.integers(0, 256, 3)
        if kind is GroundKind.PHOTOGRAPH:
            # Hardly anything out there is of a pure colour.
            red, green, blue = mix((int(red), int(green), int(blue)), (128, 120, 110), float(rng.uniform(0, 0.9)))
    return int(red), int(green), int(blue)


def _slope(down: float, across: float, height: int, width: int) -> Field:
    """From 0 to 1 along a direction, (H, W)."""
    rows, columns = np.linspace(0, 1, height, dtype=np.float32), np.linspace(0, 1, width, dtype=np.float32)
    field: Field = rows[:, None] * np.float32(down) + columns[None, :] * np.float32(across)
    field -= field.min()
    field /= np.float32(max(float(field.max()), 1e-6))
    return field


def _noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Field:
    """Smooth noise (H, W) within 0 and 1, with about `cells` hills along the longer side."""
    longest = max(height, width)
    grid = rng.random((max(2, cells * height // longest), max(2, cells * width // longest)), np.float32)
    smooth: Field = np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    return np.clip(smooth, 0, 1, out=smooth)


def _blended(colours: Field, field: Field) -> Field:
    """Colours (H, W, C) along `colours`, in their order, at each value of `field`."""
    places = np.linspace(0, 1, len(colours))
    mixed = [np.interp(field, places, colours[:, channel]) for channel in range(3)]
    return np.stack(mixed, axis=2).astype(np.float32)


def _photograph(rng: np.random.Generator, colours: Field, height: int, width: int) -> Field:
    """Light that falls off, things of many outlines with texture and shade, blur here and grain all over."""
    pixels = _blended(colours[:2], _slope(1.0, float(rng.uniform(-0.4, 0.4)), height, width))
    if rng.random() < 0.6:
        _add_hills(rng, pixels, colours)
    for _ in range(int(rng.integers(2, 14))):
        _add_thing(rng, pixels, colours)
    if rng.random() < 0.5:
        blur = max(height, width) * float(rng.uniform(0.002, 0.012))
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), blur), np.float32)
    light = _noise(rng, height, width, 3) - np.float32(0.5)
    pixels *= 1 + light[..., None] * np.float32(rng.uniform(0, 0.35))
    fine = _noise(rng, height, width, int(rng.integers(30, 120))) - np.float32(0.5)
    pixels += fine[..., None] * np.float32(rng.uniform(4, 36))
    return pixels


def _add_hills(rng: np.random.Generator, pixels: Field, colours: Field) -> None:
    """Ridges one behind the other, the nearest lowest."""
    height, width, _ = pixels.shape
    rows = np.arange(height, dtype=np.float32)[:, None] / height
    for layer in range(int(rng.integers(1, 4))):
        ridge = _noise(rng, 2, width, int(rng.integers(3, 16)))[0] * rng.uniform(0.05, 0.3) + 0.3 + 0.2 * layer
        below = np.clip((rows - ridge.astype(np.float32)[None]) * height, 0, 1)[..., None]
        pixels += (_textured(rng, colours, height, width) - pixels) * below


def _textured(rng: np.random.Generator, colours: Field, height: int, width: int) -> Field:
    chosen = colours[rng.integers(0, len(colours), 2)]
    return _blended(chosen, _noise(rng, height, width, int(rng.integers(4, 50))))


def _add_thing(rng: np.random.Generator, pixels: Field, colours: Field) -> None:
    """One crooked, shaded thing: no circle, no square, no triangle."""
    height, width, _ = pixels.shape
    smooth = rng.random() < 0.3
    corners = 40 if smooth else int(rng.integers(5, 12))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = rng.uniform(0.35, 1.0, corners) * rng.uniform(0.04, 0.3) * min(height, width)
    if smooth:
        reach = reach.mean() * (1 + 0.3 * np.sin(2 * angles + rng.uniform(0, 6)) + 0.2 * np.sin(3 * angles))
    stretch = rng.choice([rng.uniform(0.4, 0.7), rng.uniform(1.4, 2.2)])
    centre = rng.uniform(0, 1, 2) * (width, height)
    outline = np.stack((np.cos(angles) * reach * stretch, np.sin(angles) * reach), 1) + centre
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    first, last = np.floor(outline.min(0)).astype(int) - 1, np.ceil(outline.max(0)).astype(int) + 2
    rows, columns = slice(max(0, first[1]), max(0, last[1])), slice(max(0, first[0]), max(0, last[0]))
    part = pixels[rows, columns]
    if part.size == 0:
        return
    shown = _textured(rng, colours, *part.shape[:2])
    shown *= 1 - _slope(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1)), *part.shape[:2])[..., None] * np.float32(
        rng.uniform(0, 0.6)
    )
    part += (shown - part) * (mask[rows, columns].astype(np.float32)[..., None] / 255)
