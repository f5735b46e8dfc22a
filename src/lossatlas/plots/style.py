"""One look for every picture: colors that survive color blindness, gray print and a beamer.

Plain data, so that pages can be drawn without matplotlib and pictures without plotly.
"""

INK = "#1b2a33"
MUTED = "#5d6b74"
FAINT = "#9aa6ad"
GRID = "#e4e9ec"
PAPER = "#ffffff"
WALL = "#eceff1"

# Hues of Okabe and Ito that stay apart for every common kind of color vision.
PATH = "#d55e00"
BASIN = "#00648c"
RIDGE = "#cc79a7"
BAND = "#f3e2c7"
SURE = "#f4c542"
SHARED = "#bcd3d6"
FILL = "#2b7a90"

# The sea chart: deep water is a low loss, sand a high one. Lightness rises all the way, so
# that the order also reads in gray.
DEPTH = ("#0a1f3c", "#123c5e", "#1a5d7a", "#2f7f8e", "#5fa199", "#98c1a6", "#cddcbb", "#f4efd8")
# The same for surfaces under light, which lifts it: neither end may reach black or white.
RELIEF = (
    "#17406b",
    "#1c5c80",
    "#2a7d8e",
    "#4f9c97",
    "#88ba9f",
    "#bccfa8",
    "#dcd9b0",
    "#eadfb8",
)
# Errors: pale where the map is sure, dark where it is not.
EMBER = ("#fdf6ec", "#fbe0c0", "#f6bf8b", "#e8935a", "#c9652f", "#96431b", "#5c2a12")
# Further metrics: no water, so that an accuracy is not read as a depth.
METRIC = ("#f6f2fa", "#ddd1ea", "#bda7d3", "#9a7cb9", "#77559b", "#553578", "#351a52")

FAMILY = ("DejaVu Sans",)
WEB_FAMILY = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
)
LABEL_SIZE = 9
TITLE_SIZE = 10.5
DIMENSION_COLORS = (BASIN, RIDGE, INK)
DIMENSION_NAMES = ("basins (H0)", "loops (H1)", "shells (H2)")
# Okabe and Ito: the order keeps neighbors apart for every common kind of color vision.
HUES = (BASIN, PATH, "#009e73", "#b3477d", "#56b4e9", "#8a6d00", INK, FAINT)
DASHES = 4


def hue(index: int) -> tuple[str, int]:
    """Color and dash of the curve of this number: no two of the first 32 are alike."""
    return HUES[index % len(HUES)], index // len(HUES) % DASHES


def color_stops(colors: tuple[str, ...]) -> list[tuple[float, str]]:
    """A color scale as plotly and matplotlib both read it."""
    last = len(colors) - 1
    return [(position / last, color) for position, color in enumerate(colors)]


def translucent(color: str, opacity: float) -> str:
    """A color with some transparency, in the notation of the web."""
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:g})"
