"""Boxes of the words of a matplotlib figure, and what is wrong with them."""

from itertools import combinations

from matplotlib.text import Text


def words_of(figure):
    """(text, box) of everything that frames the data: axis titles, ticks, legends, titles."""
    renderer = figure.canvas.get_renderer()
    texts = list(figure.texts)
    for legend in [*figure.legends, *(a.get_legend() for a in figure.axes)]:
        texts += legend.get_texts() if legend is not None else []
    for ax in figure.axes:
        texts += [ax.title, ax._left_title, ax._right_title]
        for axis in (ax.xaxis, ax.yaxis, getattr(ax, "zaxis", None)):
            if axis is None or not axis.get_visible():
                continue
            # In space a tick is put into its place when it is drawn.
            ticks = axis.majorTicks if hasattr(ax, "zaxis") else axis._update_ticks()
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in ticks if low <= tick.get_loc() <= high]
            texts += [axis.label, axis.offsetText]
            texts += [t for tick in ticks for t in (tick.label1, tick.label2)]
    shown = [
        t for t in texts if isinstance(t, Text) and t.get_visible() and t.get_text().strip()
    ]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in shown]


def faults(figure, slack=1.0):
    """Words that are cut off, and pairs of them that lie on each other."""
    figure.canvas.draw()
    words, (wide, high) = words_of(figure), figure.canvas.get_width_height()
    cut = [
        f"cut: {text!r}"
        for text, box in words
        if box.x0 < -slack or box.y0 < -slack or box.x1 > wide + slack or box.y1 > high + slack
    ]
    over = [
        f"over: {a!r} and {b!r}"
        for (a, one), (b, two) in combinations(words, 2)
        if min(one.x1, two.x1) - max(one.x0, two.x0) > slack
        and min(one.y1, two.y1) - max(one.y0, two.y0) > slack
    ]
    return cut + over
