"""Scenes as pixels: antialiased by the exact distance to the outline.

Shape legend: T frames, H height, W width, C channels (RGB).
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deployments.demo.synth.grounds import render
from deployments.demo.synth.scenes import Figure, Scene, Shape

SQUARE_HALF_SIDE, TRIANGLE_REACH = 0.88, 1.25
"""Per radius, so that the three shapes look equally large."""
REACH = 1.25
"""Radii within which every shape lies."""


def draw(scene: Scene, height: int, width: int, progress: float = 0.0) -> NDArray[np.uint8]:
    """The picture (H, W, C) at `progress` of the way: 0 at its start, 1 at its end."""
    pixels_HWC: NDArray[np.uint8] = draw_clip(scene, height, width, [progress])[0]
    return pixels_HWC


def draw_clip(scene: Scene, height: int, width: int, moments: Iterable[float]) -> NDArray[np.uint8]:
    """The pictures (T, H, W, C) at `moments`, each a progress from 0 to 1."""
    if scene.pan != (0.0, 0.0):
        return np.stack([_view(scene, height, width, moment) for moment in moments])
    ground = render(scene.ground, height, width)
    return np.stack([_painted(scene, ground, moment) for moment in moments])


def coverage(figure: Figure, height: int, width: int, progress: float = 0.0) -> NDArray[np.float32]:
    """How much of each pixel (H, W) lies within the figure's outline, 0 to 1, filled or not."""
    alpha = np.zeros((height, width), np.float32)
    rows, columns = _box(figure, height, width, progress)
    alpha[rows, columns] = _covered(replace(figure, stroke=None), height, width, progress, rows, columns)
    return alpha


def _view(scene: Scene, height: int, width: int, progress: float) -> NDArray[np.uint8]:
    """What a camera that pans sees of a ground that is larger."""
    across, down = (round(side * abs(pan)) for side, pan in zip((width, height), scene.pan, strict=True))
    whole = render(scene.ground, height + down, width + across)
    left, top = (
        round(room * (progress if pan > 0 else 1 - progress))
        for room, pan in zip((across, down), scene.pan, strict=True)
    )
    return whole[top : top + height, left : left + width]


def _painted(scene: Scene, ground_HWC: NDArray[np.uint8], progress: float) -> NDArray[np.uint8]:
    height, width, _ = ground_HWC.shape
    pixels = ground_HWC.copy()
    for figure in scene.figures:
        rows, columns = _box(figure, height, width, progress)
        alpha = _covered(figure, height, width, progress, rows, columns)[..., None]
        below = pixels[rows, columns].astype(np.float32)
        pixels[rows, columns] = np.rint(below + (np.asarray(figure.paint, np.float32) - below) * alpha)
    return pixels


def _centre(figure: Figure, height: int, width: int, progress: float) -> tuple[float, float]:
    """x and y in pixels."""
    x, y = (first + (last - first) * progress for first, last in zip(figure.start, figure.end, strict=True))
    return x * width, y * height


def _box(figure: Figure, height: int, width: int, progress: float) -> tuple[slice, slice]:
    """Rows and columns that the shape may touch."""
    x, y = _centre(figure, height, width, progress)
    reach = figure.radius * min(height, width) * REACH + 1
    rows, columns = (
        slice(max(0, int(middle - reach)), max(0, min(side, int(middle + reach) + 2)))
        for middle, side in ((y, height), (x, width))
    )
    return rows, columns


def _covered(
    figure: Figure, height: int, width: int, progress: float, rows: slice, columns: slice
) -> NDArray[np.float32]:
    centre_x, centre_y = _centre(figure, height, width, progress)
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - centre_x)[None, :]
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - centre_y)[:, None]
    radius = figure.radius * min(height, width)
    outside = _distance(figure, x.astype(np.float32), y.astype(np.float32), radius)
    if figure.stroke is not None:
        outside = np.maximum(outside, -outside - np.float32(max(1.0, radius * figure.stroke)))
    return np.clip(0.5 - outside, 0, 1, out=outside)


def _distance(figure: Figure, x: NDArray[np.float32], y: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Signed distance in pixels to the outline, negative inside, for offsets x (1, W) and y (H, 1) from the centre."""
    if figure.shape is Shape.CIRCLE:
        from_centre: NDArray[np.float32] = np.hypot(x, y)
        return from_centre - np.float32(radius)
    angle = np.deg2rad(np.float32(figure.tilt_deg))
    across, down = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if figure.shape is Shape.SQUARE:
        furthest: NDArray[np.float32] = np.maximum(np.abs(across), np.abs(down))
        return furthest - np.float32(radius * SQUARE_HALF_SIDE)
    # An upright triangle: three half planes at half its reach from the centre, which is a third of its height.
    slant = np.float32(np.sqrt(3) / 2) * np.abs(across) - down / 2
    lowest: NDArray[np.float32] = np.maximum(slant, down)
    return lowest - np.float32(radius * TRIANGLE_REACH / 2)
