"""Scenes as pixels: antialiased by the exact distance to the outline.

Shape legend: T frames, H height, W width, C channels (RGB).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deployments.demo.synth.scenes import Scene, Shape

SQUARE_HALF_SIDE, TRIANGLE_REACH = 0.88, 1.25
"""Per radius, so that the three shapes look equally large."""


def draw(scene: Scene, height: int, width: int, progress: float = 0.0) -> NDArray[np.uint8]:
    """The picture (H, W, C) at `progress` of the way: 0 at its start, 1 at its end."""
    blend = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    top, bottom = (np.asarray(rgb, np.float32) for rgb in scene.ground)
    pixels = np.broadcast_to(top + (bottom - top) * blend, (height, width, 3)).copy()
    alpha = coverage(scene, height, width, progress)[..., None]
    pixels += (np.asarray(scene.paint, np.float32) - pixels) * alpha
    drawn: NDArray[np.uint8] = np.rint(pixels).astype(np.uint8)
    return drawn


def draw_clip(scene: Scene, height: int, width: int, moments: Sequence[float]) -> NDArray[np.uint8]:
    """The pictures (T, H, W, C) at `moments`, each a progress from 0 to 1."""
    return np.stack([draw(scene, height, width, moment) for moment in moments])


def coverage(scene: Scene, height: int, width: int, progress: float = 0.0) -> NDArray[np.float32]:
    """How much of each pixel (H, W) the shape covers, 0 to 1."""
    side = min(height, width)
    centre_x = (scene.start[0] + (scene.end[0] - scene.start[0]) * progress) * width
    centre_y = (scene.start[1] + (scene.end[1] - scene.start[1]) * progress) * height
    x = (np.arange(width, dtype=np.float32) + 0.5 - centre_x)[None, :]
    y = (np.arange(height, dtype=np.float32) + 0.5 - centre_y)[:, None]
    outside = _distance(scene, x, y, scene.radius * side)
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
