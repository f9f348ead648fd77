"""What a picture or a clip shows: one coloured shape on a dark ground, at rest or moving straight.

Lengths are fractions: x of the width, y of the height, radius of the short side; y grows downwards. A scene has no size
and no duration: `drawing` gives it pixels, `files` gives it seconds.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

Rgb = tuple[int, int, int]


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"
    YELLOW = "yellow"
    GREEN = "green"
    PURPLE = "purple"
    WHITE = "white"


class Shape(StrEnum):
    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"


class Direction(StrEnum):
    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    STILL = "still"


PAINT: dict[Colour, Rgb] = {
    Colour.RED: (226, 52, 52),
    Colour.BLUE: (48, 102, 232),
    Colour.YELLOW: (246, 208, 56),
    Colour.GREEN: (52, 178, 92),
    Colour.PURPLE: (150, 76, 206),
    Colour.WHITE: (244, 244, 242),
}
STEP: dict[Direction, tuple[int, int]] = {
    Direction.LEFT: (-1, 0),
    Direction.RIGHT: (1, 0),
    Direction.UP: (0, -1),
    Direction.DOWN: (0, 1),
    Direction.STILL: (0, 0),
}
MIRRORED = {Direction.LEFT: Direction.RIGHT, Direction.RIGHT: Direction.LEFT}
REVERSED = MIRRORED | {Direction.UP: Direction.DOWN, Direction.DOWN: Direction.UP}


@dataclass(frozen=True, slots=True)
class Scene:
    """One shape, where it starts and where it ends."""

    colour: Colour
    shape: Shape
    direction: Direction
    paint: Rgb
    ground: tuple[Rgb, Rgb]
    """Colours at the top and at the bottom, blended between."""
    radius: float
    tilt_deg: float
    start: tuple[float, float]
    end: tuple[float, float]
    """Centre (x, y) at the first and at the last moment."""

    def mirrored(self) -> "Scene":
        """The same scene seen in a mirror: left and right change places."""
        return replace(
            self,
            direction=MIRRORED.get(self.direction, self.direction),
            tilt_deg=-self.tilt_deg,
            start=(1 - self.start[0], self.start[1]),
            end=(1 - self.end[0], self.end[1]),
        )

    def reversed(self) -> "Scene":
        """The same scene played backwards."""
        direction = REVERSED.get(self.direction, self.direction)
        return replace(self, direction=direction, start=self.end, end=self.start)

    def frozen(self) -> "Scene":
        """The same scene stopped at its start."""
        return replace(self, direction=Direction.STILL, end=self.start)


def random_scene(
    rng: np.random.Generator,
    colour: Colour | None = None,
    shape: Shape | None = None,
    direction: Direction | None = None,
) -> Scene:
    """Draw a scene; what is given is kept."""
    colour = colour or Colour(rng.choice(list(Colour)))
    shape = shape or Shape(rng.choice(list(Shape)))
    direction = direction or Direction(rng.choice(list(Direction)))
    start, end = _random_path(rng, direction)
    top = _random_ground(rng)
    bottom = top if rng.random() < 0.5 else _random_ground(rng)
    return Scene(
        colour=colour,
        shape=shape,
        direction=direction,
        paint=_jitter(rng, PAINT[colour], 14),
        ground=(top, bottom),
        radius=float(rng.uniform(0.2, 0.3)),
        tilt_deg=float(rng.uniform(-8, 8)),
        start=start,
        end=end,
    )


def _random_path(rng: np.random.Generator, direction: Direction) -> tuple[tuple[float, float], tuple[float, float]]:
    """Start and end of a straight way of 0.36 to 0.56 of the side along it, nearly all of the shape always in sight."""
    way = rng.uniform(0.36, 0.56)
    along = rng.uniform(0.22, 0.78 - way) if way < 0.56 else 0.22
    across = rng.uniform(0.3, 0.7)
    step_x, step_y = STEP[direction]
    if direction is Direction.STILL:
        centre = (float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7)))
        return centre, centre
    first, last = (along, along + way) if step_x + step_y > 0 else (along + way, along)
    if step_x:
        return (float(first), float(across)), (float(last), float(across))
    return (float(across), float(first)), (float(across), float(last))


def _random_ground(rng: np.random.Generator) -> Rgb:
    """A dark, nearly grey colour: every paint stands out from it."""
    return _jitter(rng, (int(level := rng.integers(14, 62)), int(level), int(level)), 10)


def _jitter(rng: np.random.Generator, rgb: Rgb, amount: int) -> Rgb:
    red, green, blue = np.clip(np.asarray(rgb) + rng.integers(-amount, amount + 1, 3), 0, 255)
    return int(red), int(green), int(blue)
