"""What a picture or a clip shows: coloured shapes on a ground, at rest or moving straight; or a photograph without any.

Lengths are fractions: x of the width, y of the height, radius of the short side; y grows downwards. A scene has no size
and no duration: `drawing` gives it pixels, `files` gives it seconds.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from deployments.demo.synth.grounds import Ground, GroundKind, Rgb, mix, random_ground


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


PAINTS: dict[Colour, tuple[Rgb, ...]] = {
    Colour.RED: ((226, 52, 52), (255, 0, 0), (214, 39, 40), (239, 68, 68), (180, 20, 30)),
    Colour.BLUE: ((48, 102, 232), (0, 0, 255), (31, 119, 180), (59, 130, 246), (20, 40, 160)),
    Colour.YELLOW: ((246, 208, 56), (255, 255, 0), (250, 204, 21), (240, 220, 20)),
    Colour.GREEN: ((52, 178, 92), (0, 255, 0), (0, 128, 0), (44, 160, 44), (34, 197, 94)),
    Colour.PURPLE: ((150, 76, 206), (128, 0, 128), (148, 103, 189), (168, 85, 247), (110, 30, 170)),
    Colour.WHITE: ((244, 244, 242), (255, 255, 255)),
}
"""What people and their programs call by that name; the first of each is the demo's own."""
TELLING_COLOURS = (Colour.RED, Colour.BLUE, Colour.YELLOW)
"""Those that become others when red and blue change places."""
STEP: dict[Direction, tuple[int, int]] = {
    Direction.LEFT: (-1, 0),
    Direction.RIGHT: (1, 0),
    Direction.UP: (0, -1),
    Direction.DOWN: (0, 1),
    Direction.STILL: (0, 0),
}
MIRRORED = {Direction.LEFT: Direction.RIGHT, Direction.RIGHT: Direction.LEFT}
REVERSED = MIRRORED | {Direction.UP: Direction.DOWN, Direction.DOWN: Direction.UP}
RADII = (0.1, 0.3)
"""Smallest and largest: shapes of 20 to 60 % of the short side."""
OUTLINED_RADIUS = 0.16
"""Smallest radius of a shape of which the outline alone is drawn: thinner lines vanish in a codec."""
SHARE_OF_GROUNDS: dict[GroundKind, float] = {
    GroundKind.DARK: 0.25,
    GroundKind.WHITE: 0.2,
    GroundKind.COLOUR: 0.15,
    GroundKind.GRADIENT: 0.15,
    GroundKind.NOISE: 0.15,
    GroundKind.PHOTOGRAPH: 0.1,
}
CONTRAST = 100.0
"""Least distance of a paint from its ground, of the 442 from black to white."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One shape, where it starts and where it ends."""

    colour: Colour
    shape: Shape
    direction: Direction
    paint: Rgb
    radius: float
    tilt_deg: float
    start: Point
    end: Point
    """Centre (x, y) at the first and at the last moment."""
    stroke: float | None = None
    """Width of the line as a share of the radius where only the outline is drawn; None where it is filled."""

    def mirrored(self) -> "Figure":
        return replace(
            self,
            direction=MIRRORED.get(self.direction, self.direction),
            tilt_deg=-self.tilt_deg,
            start=(1 - self.start[0], self.start[1]),
            end=(1 - self.end[0], self.end[1]),
        )

    def reversed(self) -> "Figure":
        direction = REVERSED.get(self.direction, self.direction)
        return replace(self, direction=direction, start=self.end, end=self.start)

    def frozen(self) -> "Figure":
        return replace(self, direction=Direction.STILL, end=self.start)


@dataclass(frozen=True, slots=True)
class Scene:
    """One shape or two on a ground; none: the ground is all there is to see."""

    ground: Ground
    figures: tuple[Figure, ...]
    pan: Point = (0.0, 0.0)
    """How far the camera moves over a ground without shapes."""

    def mirrored(self) -> "Scene":
        """The same scene seen in a mirror: left and right change places."""
        figures = tuple(figure.mirrored() for figure in self.figures)
        return replace(self, ground=self.ground.mirror(), figures=figures, pan=(-self.pan[0], self.pan[1]))

    def reversed(self) -> "Scene":
        """The same scene played backwards."""
        return replace(self, figures=tuple(figure.reversed() for figure in self.figures))

    def frozen(self) -> "Scene":
        """The same scene stopped at its start."""
        return replace(self, figures=tuple(figure.frozen() for figure in self.figures))


def random_scene(
    rng: np.random.Generator,
    colour: Colour | None = None,
    shape: Shape | None = None,
    direction: Direction | None = None,
    kind: GroundKind | None = None,
    radii: tuple[float, float] = RADII,
) -> Scene:
    """Draw a scene with one shape; what is given is kept. A white shape is never on white: `kind` gives way there."""
    direction = direction or Direction(rng.choice(list(Direction)))
    radius = _random_radius(rng, radii)
    start, end = _random_path(rng, direction, radius)
    figure = _random_figure(rng, colour, shape, direction, radius, (start, end))
    return Scene(_ground_for(rng, (figure,), kind), (figure,))


def random_pair(rng: np.random.Generator, kind: GroundKind | None = None) -> Scene:
    """Draw a scene with two shapes at rest, of two colours, that don't touch; in the order of `Colour`."""
    colours = sorted(rng.choice(list(Colour), 2, replace=False), key=list(Colour).index)
    while True:
        radii = [_random_radius(rng, (RADII[0], 0.22)) for _ in colours]
        centres = [_random_point(rng, radius) for radius in radii]
        apart = abs(centres[0][0] - centres[1][0]), abs(centres[0][1] - centres[1][1])
        if max(apart) > sum(radii) * 1.25:
            break
    figures = tuple(
        _random_figure(rng, Colour(colour), None, Direction.STILL, radius, (centre, centre))
        for colour, radius, centre in zip(colours, radii, centres, strict=True)
    )
    return Scene(_ground_for(rng, figures, kind), figures)


def random_photograph(rng: np.random.Generator) -> Scene:
    """Draw a scene without any shape: like a photograph, of all colours."""
    ground = random_ground(rng, GroundKind.PHOTOGRAPH, lambda colour: True)
    assert ground is not None
    pan = rng.uniform(-1, 1, 2) * rng.choice([0.0, 0.08, 0.16])
    return Scene(ground, (), (float(pan[0]), float(pan[1])))


def _ground_for(rng: np.random.Generator, figures: tuple[Figure, ...], kind: GroundKind | None) -> Ground:
    """A ground that every figure stands out from."""

    def usable(colour: Rgb) -> bool:
        return all(distance(colour, figure.paint) >= CONTRAST for figure in figures)

    while True:
        ground = random_ground(
            rng, kind or GroundKind(rng.choice(list(SHARE_OF_GROUNDS), p=list(SHARE_OF_GROUNDS.values()))), usable
        )
        if ground is not None:
            return ground
        kind = None


def distance(one: Rgb, other: Rgb) -> float:
    """Between two colours, 0 to 442."""
    return float(np.linalg.norm(np.subtract(one, other)))


def _random_figure(
    rng: np.random.Generator,
    colour: Colour | None,
    shape: Shape | None,
    direction: Direction,
    radius: float,
    path: tuple[Point, Point],
) -> Figure:
    colour = colour or Colour(rng.choice(list(Colour)))
    paints = PAINTS[colour]
    first, second = (paints[place] for place in rng.integers(0, len(paints), 2))
    paint = mix(first, second, float(rng.uniform(0, 1)))
    outlined = radius >= OUTLINED_RADIUS and rng.random() < 0.2
    return Figure(
        colour=colour,
        shape=shape or Shape(rng.choice(list(Shape))),
        direction=direction,
        paint=_jitter(rng, paint, 10),
        radius=radius,
        tilt_deg=float(rng.uniform(-8, 8)),
        start=path[0],
        end=path[1],
        stroke=float(rng.uniform(0.2, 0.45)) if outlined else None,
    )


def _random_radius(rng: np.random.Generator, radii: tuple[float, float]) -> float:
    """Even by its logarithm: a small shape is as often seen as a large one."""
    return float(np.exp(rng.uniform(*np.log(radii))))


def _random_point(rng: np.random.Generator, radius: float) -> Point:
    return float(rng.uniform(radius, 1 - radius)), float(rng.uniform(radius, 1 - radius))


def _random_path(rng: np.random.Generator, direction: Direction, radius: float) -> tuple[Point, Point]:
    """Start and end of a straight way of 0.3 to 0.6 of the side along it, nearly all of the shape always in sight."""
    if direction is Direction.STILL:
        centre = _random_point(rng, radius)
        return centre, centre
    margin = 0.75 * radius
    way = rng.uniform(0.3, min(0.6, 1 - 2 * margin))
    along = rng.uniform(margin, 1 - margin - way)
    across = rng.uniform(radius, 1 - radius)
    step_x, step_y = STEP[direction]
    first, last = (along, along + way) if step_x + step_y > 0 else (along + way, along)
    if step_x:
        return (float(first), float(across)), (float(last), float(across))
    return (float(across), float(first)), (float(across), float(last))


def _jitter(rng: np.random.Generator, rgb: Rgb, amount: int) -> Rgb:
    red, green, blue = np.clip(np.asarray(rgb) + rng.integers(-amount, amount + 1, 3), 0, 255)
    return int(red), int(green), int(blue)
