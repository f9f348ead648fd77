"""Plots as small SVG files that read well on light and dark pages: lines, bars side by side, or bars stacked."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 720, 380
BESIDE = 210
"""Of a stacked plot's width, for its legend."""
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 50, 62
PALETTE = ("#2f7ed8", "#e07b00", "#2a9d5c", "#c2408f", "#8a6fd1", "#8a8a2a", "#c94f4f", "#2f97a8", "#a5713c", "#7d7d85")
"""Readable on white and on near-black."""
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600 } .axis { stroke: #57606a }
.grid { stroke: #57606a; stroke-opacity: .2 } text.within { fill: #fff } .frame { fill: none }
@media (prefers-color-scheme: dark) { text { fill: #d0d7de } .axis { stroke: #8b949e } .grid { stroke: #8b949e } }
"""


def svg(plot: Mapping[str, Any]) -> str:
    """The picture of one plot as `harness.Benchmark.plot` keeps it."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(plot['title'])}</title><style>{_STYLE}</style>",
        _text(WIDTH / 2, 20, plot["title"], "middle", "title"),
    ]
    values = [value for numbers in plot["series"].values() for value in numbers if value is not None]
    if values:
        parts += _KINDS[plot["kind"]](plot, values)
        names = list(plot["series"])
        parts += _legend_beside(names) if plot["kind"] == "stacked" else _legend(names)
    parts.append(_text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 10, plot["x_label"], "middle"))
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    parts.append(_text(16, middle, plot["y_label"], "middle", turned=True))
    return "\n".join([*parts, "</svg>"]) + "\n"


class Axis:
    """Maps values to pixels; knows its round ticks."""

    def __init__(self, values: Sequence[float], start_px: float, end_px: float, *, log: bool, from_zero: bool) -> None:
        known = [value for value in values if value > 0] if log else list(values)
        self._log = log and bool(known)
        if self._log:
            low, high = 10 ** math.floor(math.log10(min(known))), 10 ** math.ceil(math.log10(max(known)))
            self.low, self.high = low, high if high > low else low * 10
            decades = round(math.log10(self.high / self.low))
            self.ticks = [self.low * 10**power for power in range(decades + 1)]
        else:
            low = min(0.0, *known) if from_zero else min(known)
            step = _round_step((max(known) - low) or abs(max(known)) or 1.0)
            self.low = math.floor(low / step) * step
            self.high = max(math.ceil(max(known) / step) * step, self.low + step)
            self.ticks = [self.low + step * i for i in range(round((self.high - self.low) / step) + 1)]
        self._start_px, self._end_px = start_px, end_px

    def px(self, value: float) -> float:
        if self._log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self._start_px + share * (self._end_px - self._start_px)


def _round_step(span: float) -> float:
    rough = span / 5
    power = 10 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _lines(plot: Mapping[str, Any], values: Sequence[float]) -> list[str]:
    x_axis = Axis(plot["x"], LEFT, WIDTH - RIGHT, log=plot["log_x"], from_zero=not plot["log_x"])
    y_axis = Axis(values, HEIGHT - BOTTOM, TOP, log=plot["log_y"], from_zero=True)
    parts = _y_grid(y_axis)
    for tick in x_axis.ticks:
        parts.append(_text(x_axis.px(tick), HEIGHT - BOTTOM + 18, _number(tick), "middle"))
    for number, numbers in enumerate(plot["series"].values()):
        colour = PALETTE[number % len(PALETTE)]
        points = [(x_axis.px(x), y_axis.px(y)) for x, y in zip(plot["x"], numbers, strict=True) if y is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points]
    return parts


def _bars(plot: Mapping[str, Any], values: Sequence[float]) -> list[str]:
    y_axis = Axis(values, HEIGHT - BOTTOM, TOP, log=plot["log_y"], from_zero=True)
    parts = _y_grid(y_axis)
    group_px = (WIDTH - LEFT - RIGHT) / len(plot["x"])
    bar_px = min(60.0, group_px * 0.8 / len(plot["series"]))
    for place, name in enumerate(plot["x"]):
        middle = LEFT + (place + 0.5) * group_px
        parts.append(_text(middle, HEIGHT - BOTTOM + 18, str(name), "middle"))
        for number, numbers in enumerate(plot["series"].values()):
            if numbers[place] is None:
                continue
            top = y_axis.px(numbers[place])
            left = middle + (number - len(plot["series"]) / 2) * bar_px
            height = HEIGHT - BOTTOM - top
            colour = PALETTE[number % len(PALETTE)]
            size = f'width="{bar_px * 0.94:.1f}" height="{height:.1f}"'
            parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" {size} fill="{colour}"/>')
            parts.append(_text(left + bar_px * 0.47, top - 4, _number(numbers[place]), "middle"))
    return parts


def _stacked(plot: Mapping[str, Any], values: Sequence[float]) -> list[str]:
    """One bar for each `x`, made of the series from below to above."""
    heights = [sum(numbers[place] or 0.0 for numbers in plot["series"].values()) for place in range(len(plot["x"]))]
    y_axis = Axis(heights, HEIGHT - BOTTOM, TOP, log=False, from_zero=True)
    parts = _y_grid(y_axis)
    group_px = (WIDTH - LEFT - BESIDE) / len(plot["x"])
    bar_px = min(90.0, group_px * 0.7)
    for place, name in enumerate(plot["x"]):
        middle = LEFT + (place + 0.5) * group_px
        parts.append(_text(middle, HEIGHT - BOTTOM + 18, str(name), "middle"))
        below = 0.0
        for number, numbers in enumerate(plot["series"].values()):
            value = numbers[place] or 0.0
            top, bottom = y_axis.px(below + value), y_axis.px(below)
            size = f'width="{bar_px:.1f}" height="{bottom - top:.1f}"'
            colour = PALETTE[number % len(PALETTE)]
            parts.append(f'<rect x="{middle - bar_px / 2:.1f}" y="{top:.1f}" {size} fill="{colour}"/>')
            if bottom - top > 16:
                parts.append(_text(middle, (top + bottom) / 2 + 5, _number(value), "middle", "within"))
            below += value
    return parts


def _y_grid(axis: Axis) -> list[str]:
    parts = []
    for tick in axis.ticks:
        y = axis.px(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, _number(tick), "end"))
    bottom = HEIGHT - BOTTOM
    return [*parts, f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>']


def _legend(names: Sequence[str]) -> list[str]:
    if len(names) == 1 and not names[0]:
        return []
    parts, x = [], float(LEFT)
    for number, name in enumerate(names):
        parts.append(f'<rect x="{x:.0f}" y="30" width="12" height="12" fill="{PALETTE[number % len(PALETTE)]}"/>')
        parts.append(_text(x + 17, 41, name, "start"))
        x += 17 + 7.2 * len(name) + 18
    return parts


def _legend_beside(names: Sequence[str]) -> list[str]:
    """In the order of the stack, its top first."""
    parts, left = [], WIDTH - BESIDE + 14
    for place, (number, name) in enumerate(reversed(list(enumerate(names)))):
        y = TOP + 22 * place
        parts.append(f'<rect x="{left}" y="{y}" width="12" height="12" fill="{PALETTE[number % len(PALETTE)]}"/>')
        parts.append(_text(left + 17, y + 11, name, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str, kind: str = "", *, turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    css = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}{turn}>{escape(text)}</text>'


_KINDS = {"lines": _lines, "bars": _bars, "stacked": _stacked}


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
