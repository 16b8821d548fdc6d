"""Draw the map of the chapters: `python book/assets/make_map.py` writes
assets/pictures/map.svg and the table in map.md.

The picture leaves out what follows from the rest: whoever has read chapter 7 has read
chapter 2. It leaves out single sections too; the table has all. Run it when a chapter
is new, or its box has changed.
"""

from html import escape

from chapters import BOOK, PAGE, Chapter, arrows, chapters, paths, table, with_table

PICTURE = BOOK / "assets" / "pictures" / "map.svg"

PARTS = ("Koopman", "From data", "HKD", "Reading", "Neighbours", "Yours")
# Where a chapter stands: its part, a word for its box, column and row.
PLACES = {
    1: (1, "Flows", 1.5, 0),
    2: (1, "Lifts", 1.5, 1),
    3: (2, "DMD", 0, 2),
    4: (2, "EDMD", 1, 2),
    5: (2, "Learning", 1, 3),
    6: (2, "Clocks", 2, 2),
    7: (2, "One step", 2, 3),
    8: (3, "Diffusion", 3, 4),
    9: (3, "Network", 1, 4),
    10: (3, "Training", 0, 5),
    11: (3, "Judging", 2, 5),
    12: (3, "Theorems", 3, 5),
    13: (4, "Spectrum", 1, 6),
    14: (4, "Editing", 1, 7),
    15: (4, "In a page", 2, 6),
    16: (5, "KDM", 1, 8),
    17: (5, "Compare", 2, 9),
    18: (5, "Limits", 3, 8),
    19: (6, "Yours", 1, 10),
}
# Corners of arrows that would otherwise run through a box: a column, and the chapter
# at whose height it is.
CORNERS = {
    (3, 16): [(-0.5, 3), (-0.5, 16)],
    (6, 8): [(3, 6)],
    (7, 12): [(2.5, 8), (2.5, 12)],
    (7, 16): [(1.54, 9), (1.54, 16)],
    (8, 17): [(3.48, 8), (3.48, 17)],
    (9, 15): [(1.46, 11), (1.46, 15)],
    (11, 14): [(1.5, 15), (1.5, 14)],
    (11, 19): [(2.5, 11), (2.5, 19)],
}
WIDTH = 360
BOX = (74, 40)
GAP = 20  # what a part adds between rows
ON_THE_RIGHT = {2}  # parts whose name would stand in the way of an arrow


def centre(number: int) -> tuple[float, float]:
    """Where the box of a chapter is, in units of the picture."""
    part, _, column, row = PLACES[number]
    return 49 + 88 * column, 43 + 60 * row + GAP * (part - 1)


def arrow(start: int, end: int) -> str:
    """A curve from below one box to above another, or along corners."""
    x0, y0 = centre(start)
    x1, y1 = centre(end)
    corners = CORNERS.get((start, end), ())
    if not corners and y0 != y1:
        y0 += BOX[1] / 2
        y1 -= BOX[1] / 2 + 2
        middle = (y0 + y1) / 2
        return f"M{x0:g} {y0:g}C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {y1:g}"
    turns = [(49 + 88 * column, centre(n)[1]) for column, n in corners]
    return along([(x0, y0), *turns, (x1, y1)])


def along(points: list[tuple[float, float]]) -> str:
    """A line through points, round at its corners, from box to box."""
    first = edge(points[0], points[1])
    points = [first, *points[1:-1], edge(points[-1], points[-2], 2)]
    way = f"M{points[0][0]:g} {points[0][1]:g}"
    for (xa, ya), (x, y), (xb, yb) in zip(points, points[1:], points[2:]):
        a = min(10, abs(x - xa) + abs(y - ya)) / max(1, abs(x - xa) + abs(y - ya))
        b = min(10, abs(xb - x) + abs(yb - y)) / max(1, abs(xb - x) + abs(yb - y))
        near = (x + a * (xa - x), y + a * (ya - y))
        far = (x + b * (xb - x), y + b * (yb - y))
        way += f"L{near[0]:.4g} {near[1]:.4g}Q{x:g} {y:g} {far[0]:.4g} {far[1]:.4g}"
    return way + f"L{points[-1][0]:.4g} {points[-1][1]:.4g}"


def edge(at: tuple[float, float], toward: tuple[float, float], gap: float = 0):
    """The point of a box, centred `at`, from which a line leaves `toward` a point."""
    x, y = at
    dx = toward[0] - x
    dy = toward[1] - y
    if abs(dy) <= BOX[1] / 2:  # sideways
        return x + (BOX[0] / 2 + gap) * (1 if dx > 0 else -1), toward[1]
    inside = max(-BOX[0] / 2 + 8, min(BOX[0] / 2 - 8, dx))
    return x + inside, y + (BOX[1] / 2 + gap) * (1 if dy > 0 else -1)


def box(one: Chapter, ways: dict[str, list[int]]) -> str:
    """A chapter's box, a link to its page."""
    part, word, *_ = PLACES[one.number]
    x, y = centre(one.number)
    left = x - BOX[0] / 2
    top = y - BOX[1] / 2
    on = "".join(f" on-{name}" for name, route in ways.items() if one.number in route)
    return (
        f'<a href="{one.page}.html" class="map-box map-part-{part}{on}"'
        f' aria-label="{one.number} {word}: {escape(one.title)}">'
        f'<rect x="{left:g}" y="{top:g}" width="{BOX[0]}" height="{BOX[1]}" rx="6"/>'
        f'<rect class="map-stripe" x="{left:g}" y="{top:g}" width="5"'
        f' height="{BOX[1]}" rx="2.5"/>'
        f'<text x="{x + 2:g}" y="{y - 3:g}" class="map-number">{one.number}</text> '
        f'<text x="{x + 2:g}" y="{y + 12:g}">{word}</text></a>'
    )


def svg(book: dict[int, Chapter], ways: dict[str, list[int]]) -> str:
    """The picture. Colours are the page's own: book.css."""
    rows = {PLACES[n][0]: [] for n in book}
    for n in book:
        rows[PLACES[n][0]].append(centre(n)[1])
    height = max(max(ys) for ys in rows.values()) + BOX[1] / 2 + 8
    lines = [
        f'<svg class="book-map" viewBox="0 0 {WIDTH} {height:g}" role="group"'
        ' aria-labelledby="book-map-title" xmlns="http://www.w3.org/2000/svg">',
        '<title id="book-map-title">Map of the chapters: an arrow leads from a chapter'
        " to one that needs it. The table below says the same in words.</title>",
        '<defs><marker id="map-head" viewBox="0 0 8 8" refX="6" refY="4"'
        ' markerWidth="6" markerHeight="6" orient="auto"><path d="M0 1L7 4L0 7"/>'
        "</marker></defs>",
    ]
    for part, ys in rows.items():
        top = min(ys) - BOX[1] / 2 - 19
        tall = max(ys) + BOX[1] / 2 + 7 - top
        at = 'x="348" text-anchor="end"' if part in ON_THE_RIGHT else 'x="12"'
        lines.append(
            f'<rect class="map-band" y="{top:g}" width="{WIDTH}" height="{tall:g}"/>'
            f'<text class="map-name" {at} y="{top + 13:g}">'
            f"{'I II III IV V VI'.split()[part - 1]} {PARTS[part - 1]}</text>"
        )
    for start, end in arrows(book):
        both = [name for name, way in ways.items() if start in way and end in way]
        on = "".join(f" on-{name}" for name in both)
        lines.append(
            f'<path class="map-arrow{on}" d="{arrow(start, end)}"'
            ' marker-end="url(#map-head)"/>'
        )
    lines += [box(one, ways) for one in book.values()]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Write both."""
    book = chapters()
    PICTURE.write_text(svg(book, paths()), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(page, table(book)), encoding="utf-8")


if __name__ == "__main__":
    main()
