"""Pictures in notebooks: alive where scripts run, still on paper and everywhere else.

The plotting library is written into one output of a notebook and serves the others, so that
nothing is loaded from a network.
"""

import base64
import gzip
import hashlib
import html
import json
from typing import Any

from lossatlas.executor.progress import kernel

# A figure that is larger, packed, is shown still.
_MOST = 1_500_000
_CONFIG = {"displaylogo": False, "responsive": True, "plotlyServerURL": "", "scrollZoom": False}
# The cell whose output holds the library; running that cell again writes it again.
_HOLDER: list[Any] = []

_INFLATE = """const inflate = (text) => new Response(new Blob([Uint8Array.from(atob(text),
  (c) => c.charCodeAt(0))]).stream().pipeThrough(new DecompressionStream("gzip"))).text();"""
# The library must neither become a module of the notebook's loader nor replace its plotly.
_LIBRARY = """if (!window.lossatlasPlotly) {
  window.lossatlasPlotly = inflate("%s").then((text) => {
    const module = { exports: {} }, before = window.Plotly;
    new Function("module", text)(module);
    window.Plotly = before;
    return module.exports;
  });
  window.dispatchEvent(new Event("lossatlas"));
}"""
_DRAW = """const draw = async () => {
  const plotly = await window.lossatlasPlotly, figure = JSON.parse(await inflate("%(data)s"));
  for (let tries = 0; tries < 20; tries += 1) {
    const places = document.querySelectorAll('[data-lossatlas="%(key)s"]:not([data-live])');
    for (const place of places) {
      place.dataset.live = "";
      const target = place.appendChild(document.createElement("div"));
      await plotly.newPlot(target, figure.data, figure.layout, %(config)s);
      place.querySelector("img").hidden = true;
    }
    if (places.length) return;
    await new Promise((go) => setTimeout(go, 250));
  }
};
const start = () => draw().catch((error) => console.warn("lossatlas:", error));
if (window.lossatlasPlotly) start();
else window.addEventListener("lossatlas", start, { once: true });"""


def still(png: bytes, alt: str) -> str:
    """A picture that needs no script."""
    data = base64.b64encode(png).decode()
    about = html.escape(alt, quote=True)
    return f'<img src="data:image/png;base64,{data}" alt="{about}" style="max-width:100%">'


def picture(png: bytes, alt: str, figure: Any) -> str:
    """A still picture that a script replaces by a plotly figure.

    Args:
        png: the still picture.
        alt: what a reader hears who sees none.
        figure: of plotly; its texts are safe.

    Returns:
        Markup for one output of a notebook. Where no script runs, or the output that holds the
        library is gone, the still picture stays.
    """
    data = _packed(figure.to_json())
    if len(data) > _MOST:
        return f"<p>{still(png, alt)}</p>"
    key = hashlib.sha256(data.encode()).hexdigest()[:16]
    draw = _DRAW % {"data": data, "key": key, "config": json.dumps(_CONFIG)}
    script = "\n".join((_INFLATE, _library(), draw))
    return (
        f'<div data-lossatlas="{key}">{still(png, alt)}</div>'
        f"<script>(() => {{\n{script}\n}})();</script>"
    )


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _library() -> str:
    from lossatlas.plots.library import packed_library

    cell = _cell()
    if _HOLDER and _HOLDER[0] != cell:
        return ""
    _HOLDER[:] = [cell]
    return _LIBRARY % packed_library()


def _cell() -> Any:
    # What the frontend calls the cell that runs; None where it does not say.
    runs = kernel()
    message = runs.get_parent("shell") if hasattr(runs, "get_parent") else {}
    return message.get("metadata", {}).get("cellId") or message.get("header", {}).get("msg_id")
