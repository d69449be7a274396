"""Charts as inline SVG: a few shapes that reports need, legible in light and dark, on paper and on a phone.

Colours are the Okabe–Ito palette, which stays apart for colour-blind readers; text and axes take the page's own colour.
Lines are labelled at their end where they differ, so nobody has to look things up in a legend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A", "#B8A100")
WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 132, 16, 40


@dataclass(frozen=True)
class Line:
    """One series; None breaks the line."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


def colour(i: int) -> str:
    """The i-th colour."""
    return PALETTE[i % len(PALETTE)]


def ticks(low: float, high: float, num: int = 5) -> list[float]:
    """Round numbers that span a range."""
    if high <= low:
        return [low]
    rough = (high - low) / num
    power = 10.0 ** int(f"{rough:e}".split("e")[1])
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first = -(-low // step) * step
    return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _frame(title: str, body: Sequence[str], height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" preserveAspectRatio="xMidYMid meet">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def _axes(
    xs: tuple[float, float], ys: tuple[float, float], x_label: str, y_label: str
) -> tuple[list[str], float, float]:
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    kx, ky = width / ((xs[1] - xs[0]) or 1), height / ((ys[1] - ys[0]) or 1)
    body = []
    for tick in ticks(*ys):
        y = TOP + height - (tick - ys[0]) * ky
        body.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in ticks(*xs, num=6):
        x = LEFT + (tick - xs[0]) * kx
        body.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{_number(tick)}</text>')
    body.append(
        f'<text class="axis" x="{LEFT + width / 2}" y="{HEIGHT - 2}" text-anchor="middle">{escape(x_label)}</text>'
    )
    body.append(f'<text class="axis" x="{LEFT - 50}" y="{TOP - 4}">{escape(y_label)}</text>')
    return body, kx, ky


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, y_label: str, from_zero: bool = False) -> str:
    """Lines over a common axis, each labelled at its end."""
    points = [(x, y) for line in lines for x, y in zip(line.x, line.y, strict=True) if y is not None]
    if not points:
        return ""
    xs = (min(p[0] for p in points), max(p[0] for p in points))
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    low = 0.0 if from_zero else low
    pad = (high - low) * 0.05 or 1.0
    ys = (low if from_zero else low - pad, high + pad)
    body, kx, ky = _axes(xs, ys, x_label, y_label)
    floor = HEIGHT - BOTTOM
    ends: list[tuple[float, int, str]] = []
    for i, line in enumerate(lines):
        path, pen = [], "M"
        last = None
        for x, y in zip(line.x, line.y, strict=True):
            if y is None:
                pen = "M"
                continue
            last = floor - (y - ys[0]) * ky
            path.append(f"{pen}{LEFT + (x - xs[0]) * kx:.1f},{last:.1f}")
            pen = "L"
        body.append(f'<path d="{"".join(path)}" fill="none" stroke="{colour(i)}" stroke-width="2"/>')
        if last is not None:
            ends.append((last, i, line.name))
    body += _end_labels(ends)
    return _frame(title, body)


def heat_map(
    title: str, names: Sequence[str], x: Sequence[float], rows: Sequence[Sequence[float | None]], *, x_label: str
) -> str:
    """One row per name, one cell per moment, the darker the higher the share (0–1); above 1 in the second colour."""
    if not names or not x:
        return ""
    left, row = 170, 14
    width, height = WIDTH - left - 24, TOP + row * len(names) + 58
    step = width / len(x)
    body = []
    for i, (name, values) in enumerate(zip(names, rows, strict=True)):
        y = TOP + row * i
        body.append(f'<text class="tick" x="{left - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>')
        for j, value in enumerate(values):
            if value is None:
                continue
            fill, opacity = (PALETTE[1], 1.0) if value > 1 else (PALETTE[0], 0.06 + 0.94 * max(value, 0.0))
            body.append(
                f'<rect x="{left + j * step:.1f}" y="{y}" width="{step + 0.3:.1f}" height="{row - 2}" fill="{fill}" '
                f'fill-opacity="{opacity:.2f}"/>'
            )
    base = TOP + row * len(names)
    for tick in ticks(min(x), max(x), 6):
        at = left + (tick - min(x)) / ((max(x) - min(x)) or 1) * (width - step)
        body.append(f'<text class="tick" x="{at:.1f}" y="{base + 16}" text-anchor="middle">{_number(tick)}</text>')
    body.append(
        f'<text class="axis" x="{left + width / 2}" y="{base + 32}" text-anchor="middle">{escape(x_label)}</text>'
    )
    for k, (share, text) in enumerate(((0.1, "10 %"), (0.5, "50 %"), (1.0, "100 %"), (1.1, "above"))):
        fill, opacity = (PALETTE[1], 1.0) if share > 1 else (PALETTE[0], 0.06 + 0.94 * share)
        at = left + 90 * k
        body.append(
            f'<rect x="{at}" y="{base + 40}" width="12" height="12" fill="{fill}" fill-opacity="{opacity:.2f}"/>'
        )
        body.append(f'<text class="tick" x="{at + 18}" y="{base + 50}">{text}</text>')
    return _frame(title, body, height)


@dataclass(frozen=True)
class Spot:
    """One point of a frontier and what a reader who points at it is told."""

    x: float
    y: float
    note: str


@dataclass(frozen=True)
class Spots:
    """The points of one setting: loose ones (one a seed), and a path along one knob, joined in the order given."""

    name: str
    loose: Sequence[Spot]
    path: Sequence[Spot] = ()


def frontier_chart(
    title: str, groups: Sequence[Spots], *, x_label: str, y_label: str, mark_x: float | None = None
) -> str:
    """Risk against cost: a dot per seed, small dots joined along a knob; a dashed line at the budget."""
    points = [p for g in groups for p in (*g.loose, *g.path)]
    if not points:
        return ""
    most = max([p.x for p in points] + ([mark_x] if mark_x is not None else []))
    xs, ys = (0.0, most * 1.05 or 1.0), (0.0, max(p.y for p in points) * 1.05 or 1.0)
    body, kx, ky = _axes(xs, ys, x_label, y_label)
    floor = HEIGHT - BOTTOM
    if mark_x is not None:
        x = LEFT + mark_x * kx
        body.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor}" stroke-dasharray="4 4"/>')
    legend = []
    for i, group in enumerate(groups):
        if group.path:
            path = "L".join(f"{LEFT + p.x * kx:.1f},{floor - p.y * ky:.1f}" for p in group.path)
            body.append(f'<path d="M{path}" fill="none" stroke="{colour(i)}" stroke-width="1.5"/>')
        for spots, radius in ((group.path, 2.5), (group.loose, 4.5)):
            body += [
                f'<circle cx="{LEFT + p.x * kx:.1f}" cy="{floor - p.y * ky:.1f}" r="{radius}" fill="{colour(i)}" '
                f'fill-opacity="0.75"><title>{escape(f"{group.name}: {p.note}")}</title></circle>'
                for p in spots
            ]
        y = HEIGHT + 16 + 18 * i
        legend.append(f'<circle cx="{LEFT + 4}" cy="{y - 4}" r="4" fill="{colour(i)}"/>')
        legend.append(f'<text class="tick" x="{LEFT + 16}" y="{y}">{escape(group.name)}</text>')
    return _frame(title, body + legend, HEIGHT + 18 * len(groups) + 12)


def _end_labels(ends: list[tuple[float, int, str]]) -> list[str]:
    """Names at the right, pushed apart so that none covers another; up, where there is no room below."""
    body, below = [], -1e9
    lowest = max((y for y, _, _ in ends), default=0.0)
    crowd = sum(y > lowest - 15 for y, _, _ in ends)
    shift = max(0.0, lowest + 15 * (crowd - 1) - (HEIGHT - BOTTOM))
    for y, i, name in sorted(ends):
        at = max(min(y, HEIGHT - BOTTOM) - shift, below + 15, TOP + 6)
        below = at
        body.append(
            f'<text class="name" x="{WIDTH - RIGHT + 8}" y="{at + 4:.1f}" style="fill:{colour(i)}">{escape(name)}</text>'
        )
    return body


def dot_chart(title: str, groups: Sequence[tuple[str, Sequence[float]]], *, x_label: str) -> str:
    """One row per group, a dot per value, a bar at the mean: the spread over seeds."""
    values = [v for _, vs in groups for v in vs]
    if not values:
        return ""
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    left, right, row = max(170, 30 + 8 * max(len(name) for name, _ in groups)), 24, 34
    height = TOP + row * len(groups) + 44
    k = (WIDTH - left - right) / (high - low)
    body = []
    for tick in ticks(low, high, 6):
        x = left + (tick - low) * k
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 40}"/>')
        body.append(f'<text class="tick" x="{x:.1f}" y="{height - 22}" text-anchor="middle">{_number(tick)}</text>')
    for i, (name, vs) in enumerate(groups):
        y = TOP + row * i + row / 2
        body.append(f'<text class="name" x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for v in vs:
            body.append(
                f'<circle cx="{left + (v - low) * k:.1f}" cy="{y}" r="5" fill="{colour(i)}" fill-opacity="0.45"/>'
            )
        mean = left + (sum(vs) / len(vs) - low) * k if vs else left
        body.append(
            f'<line x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 11}" y2="{y + 11}" stroke="{colour(i)}" stroke-width="3"/>'
        )
    body.append(f'<text class="axis" x="{left}" y="{height - 4}">{escape(x_label)}</text>')
    return _frame(title, body, height)


def bar_chart(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, unit: str) -> str:
    """Stacked horizontal bars with their parts named below: cost split, reasons, causes."""
    parts = list(dict.fromkeys(name for _, stack in groups for name, _ in stack))
    most = max((sum(v for _, v in stack) for _, stack in groups), default=0.0)
    if not most:
        return ""
    left, right, row = 170, 150, 34
    height = TOP + row * len(groups) + 24 * len(parts) + 16
    k = (WIDTH - left - right) / most
    body = []
    for i, (name, stack) in enumerate(groups):
        y, x = TOP + row * i, float(left)
        body.append(f'<text class="name" x="{left - 12}" y="{y + 20}" text-anchor="end">{escape(name)}</text>')
        for part, value in stack:
            fill = colour(parts.index(part))
            body.append(f'<rect x="{x:.1f}" y="{y + 4}" width="{value * k:.1f}" height="24" rx="2" fill="{fill}"/>')
            x += value * k
        total = sum(v for _, v in stack)
        body.append(f'<text class="tick" x="{x + 8:.1f}" y="{y + 21}">{_number(total)} {escape(unit)}</text>')
    for i, part in enumerate(parts):
        x, y = left, TOP + row * len(groups) + 22 + 24 * i
        body.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" rx="2" fill="{colour(i)}"/>')
        body.append(f'<text class="tick" x="{x + 20}" y="{y}">{escape(part)}</text>')
    return _frame(title, body, height)
