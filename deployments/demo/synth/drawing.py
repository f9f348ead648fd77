"""Scenes as pixels: antialiased by the exact distance to the outline.

Shape legend: T frames, H height, W width, C channels (RGB).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from deployments.demo.synth.scenes import Scene, Shape

SQUARE_HALF_SIDE, TRIANGLE_REACH = 0.88, 1.25
"""Per radius, so that the three shapes look equally large."""
REACH = 1.25
"""Radii within which every shape lies."""


def draw(scene: Scene, height: int, width: int, progress: float = 0.0) -> NDArray[np.uint8]:
    """The picture (H, W, C) at `progress` of the way: 0 at its start, 1 at its end."""
    return _painted(scene, _ground(scene, height, width), progress)


def draw_clip(scene: Scene, height: int, width: int, moments: Iterable[float]) -> NDArray[np.uint8]:
    """The pictures (T, H, W, C) at `moments`, each a progress from 0 to 1."""
    ground = _ground(scene, height, width)
    return np.stack([_painted(scene, ground, moment) for moment in moments])


def coverage(scene: Scene, height: int, width: int, progress: float = 0.0) -> NDArray[np.float32]:
    """How much of each pixel (H, W) the shape covers, 0 to 1."""
    alpha = np.zeros((height, width), np.float32)
    rows, columns = _box(scene, height, width, progress)
    alpha[rows, columns] = _covered(scene, height, width, progress, rows, columns)
    return alpha


def _ground(scene: Scene, height: int, width: int) -> NDArray[np.uint8]:
    blend = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    top, bottom = (np.asarray(rgb, np.float32) for rgb in scene.ground)
    row = np.rint(top + (bottom - top) * blend).astype(np.uint8)
    return np.repeat(row, width, axis=1)


def _painted(scene: Scene, ground_HWC: NDArray[np.uint8], progress: float) -> NDArray[np.uint8]:
    height, width, _ = ground_HWC.shape
    rows, columns = _box(scene, height, width, progress)
    alpha = _covered(scene, height, width, progress, rows, columns)[..., None]
    pixels = ground_HWC.copy()
    below = pixels[rows, columns].astype(np.float32)
    pixels[rows, columns] = np.rint(below + (np.asarray(scene.paint, np.float32) - below) * alpha)
    return pixels


def _centre(scene: Scene, height: int, width: int, progress: float) -> tuple[float, float]:
    """x and y in pixels."""
    x, y = (first + (last - first) * progress for first, last in zip(scene.start, scene.end, strict=True))
    return x * width, y * height


def _box(scene: Scene, height: int, width: int, progress: float) -> tuple[slice, slice]:
    """Rows and columns that the shape may touch."""
    x, y = _centre(scene, height, width, progress)
    reach = scene.radius * min(height, width) * REACH + 1
    rows, columns = (
        slice(max(0, int(middle - reach)), max(0, min(side, int(middle + reach) + 2)))
        for middle, side in ((y, height), (x, width))
    )
    return rows, columns


def _covered(
    scene: Scene, height: int, width: int, progress: float, rows: slice, columns: slice
) -> NDArray[np.float32]:
    centre_x, centre_y = _centre(scene, height, width, progress)
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - centre_x)[None, :]
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - centre_y)[:, None]
    outside = _distance(scene, x.astype(np.float32), y.astype(np.float32), scene.radius * min(height, width))
    return np.clip(0.5 - outside, 0, 1, out=outside)


def _distance(scene: Scene, x: NDArray[np.float32], y: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Signed distance in pixels to the outline, negative inside, for offsets x (1, W) and y (H, 1) from the centre."""
    if scene.shape is Shape.CIRCLE:
        from_centre: NDArray[np.float32] = np.hypot(x, y)
        return from_centre - np.float32(radius)
    angle = np.deg2rad(np.float32(scene.tilt_deg))
    across, down = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if scene.shape is Shape.SQUARE:
        furthest: NDArray[np.float32] = np.maximum(np.abs(across), np.abs(down))
        return furthest - np.float32(radius * SQUARE_HALF_SIDE)
    # An upright triangle: three half planes at half its reach from the centre, which is a third of its height.
    slant = np.float32(np.sqrt(3) / 2) * np.abs(across) - down / 2
    lowest: NDArray[np.float32] = np.maximum(slant, down)
    return lowest - np.float32(radius * TRIANGLE_REACH / 2)
