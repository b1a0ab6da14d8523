"""Line plots as SVG, written by hand: panels two abreast, axes, ticks, markers, one legend; run by bench/sizes.py.

Colours are of middling brightness and the ground is left transparent, so that a plot reads on light and dark pages.
"""

import math
from html import escape

WIDTH, PANEL_HEIGHT, HEAD = 700, 240, 62
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 30, 42  # around the axes of a panel
INK = "#6e7781"
COLOURS = ("#2383e2", "#d9730d", "#2f9e5b", "#b0569c")


def text(x, y, words, anchor="middle", size=11, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {more}>{escape(words)}</text>'


def line(x1, y1, x2, y2, opacity):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{INK}" stroke-opacity="{opacity}"/>'


def marker(kind, x, y, colour):
    """Shapes differ too, for those who do not tell the colours apart."""
    if kind == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{colour}"/>'
    if kind == 1:
        return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{colour}"/>'
    up = -1 if kind == 2 else 1
    return f'<path d="M{x - 4:.1f} {y - up * 3:.1f}h8l-4 {up * 7}z" fill="{colour}"/>'


def linear_ticks(highest):
    """From 0, by 1, 2 or 5 times a power of ten, about five of them; the last is not below `highest`."""
    rough = highest / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(highest / step - 1e-9) + 1)]


def log_ticks(lowest, highest):
    """Powers of ten, with 2 and 5 times them where that leaves few; they enclose the values."""
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    ticks = [m * 10.0**p for p in powers for m in ((1, 2, 5) if len(powers) < 4 else (1,))]
    first = max((t for t in ticks if t <= lowest), default=ticks[0])
    last = min((t for t in ticks if t >= highest), default=ticks[-1])
    return [t for t in ticks if first <= t <= last]


def named(value):
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def panel(title, x_label, y_label, lines, log=False):
    """A panel's facts; `lines` is a dict of name: [(x, y), ...]. x is always logarithmic, ticked where it was measured."""
    return dict(title=title, x_label=x_label, y_label=y_label, lines=lines, log=log)


def draw_axes(p, box, xs, ticks, x_of, y_of):
    left, top, right, bottom = box
    yield text(left - LEFT + 8, top - 16, p["title"], "start", 12, 'font-weight="600"')
    yield text((left + right) / 2, bottom + 32, p["x_label"])
    yield text(right, top - 16, p["y_label"], "end")
    for t in ticks:
        yield line(left, y_of(t), right, y_of(t), 0.6 if t == ticks[0] else 0.22)
        yield text(left - 6, y_of(t) + 4, named(t), "end")
    for x in xs:
        yield line(x_of(x), bottom, x_of(x), bottom + 4, 0.6)
        yield text(x_of(x), bottom + 16, named(x))


def draw_panel(p, names, box):
    left, top, right, bottom = box
    points = [point for line_of in p["lines"].values() for point in line_of]
    if not points:
        return
    xs, ys = sorted({x for x, _ in points}), [y for _, y in points]
    ticks = log_ticks(min(ys), max(ys)) if p["log"] else linear_ticks(max(ys))
    scale = math.log if p["log"] else float
    low, high = scale(ticks[0]), scale(ticks[-1])
    span = math.log(xs[-1] / xs[0]) or 1.0

    def x_of(x):
        return left + 12 + (right - left - 24) * math.log(x / xs[0]) / span

    def y_of(y):
        return bottom - (bottom - top) * (scale(y) - low) / (high - low)

    yield from draw_axes(p, box, xs, ticks, x_of, y_of)
    for i, name in enumerate(names):
        way = [(x_of(x), y_of(y)) for x, y in sorted(p["lines"].get(name, []))]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in way)
        yield f'<polyline points="{path}" fill="none" stroke="{COLOURS[i]}" stroke-width="2"/>'
        yield from (marker(i, x, y, COLOURS[i]) for x, y in way)


def draw_legend(names):
    x = LEFT - 40.0
    for i, name in enumerate(names):
        yield f'<line x1="{x:.1f}" y1="44" x2="{x + 24:.1f}" y2="44" stroke="{COLOURS[i]}" stroke-width="2"/>'
        yield marker(i, x + 12, 44, COLOURS[i])
        yield text(x + 30, 48, name, "start")
        x += 50 + 6.2 * len(name)


def figure(title, subtitle, names, panels):
    """The SVG's text. At most as many `names` (of lines) as there are colours."""
    half, rows = WIDTH / 2, (len(panels) + 1) // 2
    height = HEAD + rows * PANEL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, Helvetica, Arial, sans-serif" fill="{INK}" role="img">',
        f"<title>{escape(title)}</title>",
        text(12, 16, title, "start", 13, 'font-weight="600"'),
        text(12, 31, subtitle, "start", 10.5),
        *draw_legend(names),
    ]
    for i, p in enumerate(panels):
        x, y = half * (i % 2), HEAD + PANEL_HEIGHT * (i // 2)
        parts += draw_panel(p, names, (x + LEFT, y + TOP, x + half - RIGHT, y + PANEL_HEIGHT - BOTTOM))
    return "\n".join([*parts, "</svg>", ""])
