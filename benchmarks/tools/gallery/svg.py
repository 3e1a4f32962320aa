"""Figures as SVG inside a page, in the colours and the font of its style sheet."""

import re
from io import StringIO

from markupsafe import Markup
from matplotlib.figure import Figure

# What matplotlib draws in, and the custom property of the style sheets that stands for it in the page.
PAINT = {
    "#010101": "--series-1",
    "#020202": "--series-2",
    "#030303": "--muted",
    "#040404": "--ink",
    "#050505": "--line",
    "#060606": "--chart-cool",
    "#070707": "--chart-warm",
}
ONE, TWO, MUTED, INK, LINE, COOL, WARM = PAINT
LOOK = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LINE,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "gallery",
}


def to_page(figure: Figure, name: str, title: str, description: str) -> Markup:
    """A figure as SVG inside a page: its ids made unique by `name`, its colours those of the style sheet."""
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", svg, flags=re.DOTALL)
    for color, variable in PAINT.items():
        svg = svg.replace(color, f"var({variable})")
    svg = re.sub(r"(font(?:-family)?): ([^;\"]*?)(?:'[^;\"]*|sans-serif)(?=[;\"])", with_page_font, svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"\n\s*", "\n", svg).strip()
    view = re.search(r'viewBox="[^"]+"', svg)[0]
    opening = Markup('<svg {} role="img" aria-labelledby="{}-title" aria-describedby="{}-desc" class="chart">').format(
        Markup(view), name, name
    )
    opening += Markup('<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>').format(
        name, title, name, description
    )
    return opening + Markup(svg[svg.index(">") + 1 :])


def with_page_font(match: re.Match) -> str:
    return f"{match[1]}: {match[2]}var(--sans)" if match[1] == "font" else "font-family: var(--sans)"
