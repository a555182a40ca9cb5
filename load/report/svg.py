"""Charts as inline SVG: axes, lines, dots, bars. Colours are classes; the page's style names them."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 520, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 10, 34

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    low: float
    high: float
    unit: str = ""
    log: bool = False
    show: Callable[[float], str] | None = None
    """Text of a value; without: as short as it can be."""

    def at(self, value: float) -> float:
        """0…1 along the axis; outside for what lies outside."""
        if self.log:
            value, low, high = (math.log10(max(v, 1e-12)) for v in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low or 1.0)

    def text(self, value: float) -> str:
        return self.show(value) if self.show else short(value)

    def ticks(self, most: float = 6) -> list[float]:
        if self.log:
            powers = range(
                math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1
            )
            return [10.0**power for power in powers]
        step = round_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def round_step(rough: float) -> float:
    """The next of 1, 2, 5 × a power of ten."""
    if not rough > 0 or not math.isfinite(rough):
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))


def axis_to(
    high: float, unit: str = "", *, low: float = 0.0, show: Callable[[float], str] | None = None
) -> Axis:
    """From `low` to a round value at or above `high`."""
    if not math.isfinite(high) or high <= low:
        high = low + 1.0
    step = round_step((high - low) / 5)
    return Axis(low, low + step * math.ceil((high - low) / step - 1e-9), unit, show=show)


def short(value: float) -> str:
    if value == 0 or abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}"


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


@dataclass(slots=True)
class Chart:
    """Collects marks in the axes' units and ends as one <svg>."""

    x: Axis
    y: Axis
    height: int = HEIGHT
    width: int = WIDTH
    left: int = _LEFT
    marks: list[str] = field(default_factory=list)
    hover: list[dict[str, object]] = field(default_factory=list)

    def px(self, value: float) -> float:
        return round(
            self.left + (self.width - self.left - _RIGHT) * min(1.02, max(-0.02, self.x.at(value))), 1
        )

    def py(self, value: float) -> float:
        inside = self.height - _TOP - _BOTTOM
        return round(_TOP + inside * (1 - min(1.02, max(-0.02, self.y.at(value)))), 1)

    def line(self, points: Sequence[Point], kind: str, name: str = "", *, dots: bool = False) -> None:
        """Broken where a value is not known; `name` shows under the pointer."""
        known = [(x, y) if math.isfinite(x) and math.isfinite(y) else None for x, y in points]
        stretch: list[str] = []
        for point in [*known, None]:
            if point is not None:
                stretch.append(f"{self.px(point[0])} {self.py(point[1])}")
            elif stretch:
                self.marks.append(f'<path class="line {kind}" d="M{"L".join(stretch)}"/>')
                stretch = []
        if dots:
            self.dots([point for point in known if point is not None], kind, 3.5)
        if name:
            self.hover.append(
                {
                    "name": name,
                    "kind": kind,
                    "points": [
                        [self.px(x), self.py(y), f"{self.x.text(x)} {self.x.unit}".strip(), f"{self.y.text(y)} {self.y.unit}".strip()]
                        for x, y in (point for point in known if point is not None)
                    ],
                }
            )  # fmt: skip

    def dots(self, points: Iterable[Point], kind: str, radius: float = 2.2) -> None:
        self.marks.append(
            "".join(
                f'<circle class="dot {kind}" cx="{self.px(x)}" cy="{self.py(y)}" r="{radius}"/>'
                for x, y in points
            )
        )

    def across(self, y: float, text: str, kind: str = "limit") -> None:
        """A level over the whole width."""
        if self.y.low <= y <= self.y.high:
            at = self.py(y)
            self.marks.append(
                f'<path class="rule {kind}" d="M{self.left} {at}H{self.width - _RIGHT}"/>'
                f'<text class="note {kind}" x="{self.left + 6}" y="{at - 5}">{escape(text)}</text>'
            )

    def upright(self, x: float, text: str, kind: str = "limit", *, row: int = 0) -> None:
        if self.x.low <= x <= self.x.high:
            at = self.px(x)
            end = self.x.at(x) > 0.75
            self.marks.append(
                f'<path class="rule {kind}" d="M{at} {_TOP}V{self.height - _BOTTOM}"/>'
                f'<text class="note {kind}" x="{at - 5 if end else at + 5}" y="{_TOP + 11 + 14 * row}" '
                f'text-anchor="{"end" if end else "start"}">{escape(text)}</text>'
            )

    def band(self, begin: float, end: float, text: str) -> None:
        """A stretch of the x axis, behind everything."""
        left, right = self.px(begin), self.px(end)
        self.marks.insert(
            0,
            f'<rect class="band" x="{left}" y="{_TOP}" width="{max(0, right - left):.1f}" '
            f'height="{self.height - _TOP - _BOTTOM}"><title>{escape(text)}</title></rect>',
        )

    def svg(self, about: str) -> str:
        """about: what a person who does not see it is told."""
        bottom = self.height - _BOTTOM
        parts = []
        for value in self.y.ticks(self.height / 42):
            at = self.py(value)
            parts.append(f'<path class="grid" d="M{self.left} {at}H{self.width - _RIGHT}"/>')
            parts.append(
                f'<text class="tick" x="{self.left - 7}" y="{at + 4}" text-anchor="end">{escape(self.y.text(value))}</text>'
            )
        for value in self.x.ticks(self.width / 85):
            at = self.px(value)
            parts.append(
                f'<path class="axis" d="M{at} {bottom}v4"/>'
                f'<text class="tick" x="{at}" y="{bottom + 17}" text-anchor="middle">{escape(self.x.text(value))}</text>'
            )
        parts.append(f'<path class="axis" d="M{self.left} {bottom}H{self.width - _RIGHT}"/>')
        parts.append(
            f'<text class="unit" x="{self.width - _RIGHT}" y="{self.height - 3}" text-anchor="end">{escape(self.x.unit)}</text>'
            f'<text class="unit" x="{self.left}" y="{self.height - 3}">{escape(f"↑ {self.y.unit}" if self.y.unit else "")}</text>'
        )
        hover = (
            escape(json.dumps(self.hover, separators=(",", ":"), ensure_ascii=False)) if self.hover else ""
        )
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(about)}"'
            + (f' data-hover="{hover}" data-left="{self.left}" data-bottom="{bottom}"' if hover else "")
            + f">{''.join(parts)}{''.join(self.marks)}</svg>"
        )


def card(
    title: str, about: str, body: str, legend: Sequence[tuple[str, str]] = (), *, wide: bool = False
) -> str:
    """A figure with its heading; legend: (class, text)."""
    keys = "".join(f'<span class="key"><i class="{kind}"></i>{escape(text)}</span>' for kind, text in legend)
    return (
        f'<figure class="card{" wide" if wide else ""}"><figcaption><h3>{escape(title)}</h3>'
        f"<p>{escape(about)}</p>{f'<p class=legend>{keys}</p>' if keys else ''}</figcaption>{body}</figure>"
    )
