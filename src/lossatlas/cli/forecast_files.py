"""What `lossatlas forecast` leaves in its folder: results, tables, pictures, a page."""

import base64
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from lossatlas import store
from lossatlas.cli.forecast_words import fit_table, laws_table, left_out_table
from lossatlas.forecast import Fit, Prediction, SchedulePlan
from lossatlas.text import plain

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{{ title }} · forecast</title>
<style>
{% include "report.css" %}
figure img { max-width: 100%; height: auto; }
</style>
</head>
<body>
<header>
  <p class="kind">Fit of a law of the loss</p>
  <h1>{{ title }}</h1>
  <p class="headline">{{ headline }}</p>
</header>
<main>
{% if warnings %}
<section><h2>Before you trust it</h2><ul class="reading">
{% for line in warnings %}<li>{{ line }}</li>
{% endfor %}</ul></section>
{% endif %}
<section><h2>Pictures</h2>
{% for name, data in pictures.items() %}
<figure><img alt="{{ name }}" src="data:image/png;base64,{{ data }}"></figure>
{% endfor %}</section>
{% for table in tables if table.rows %}
<section><h2>{{ table.title }}</h2><div class="scroll"><table>
<tbody>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div></section>
{% endfor %}
</main>
<footer>Made by lossatlas {{ version }}. This page loads nothing from the network.</footer>
</body>
</html>
"""


def write_fit(fit: Fit, out: Path) -> None:
    """Write fit.nc, two pictures and the page."""
    fit.save(out / "fit.nc")
    drawn = {"curves": fit.plot("curves"), "residuals": fit.plot("residuals")}
    images = _write_pictures(drawn, out)
    tables = [
        # The warnings head the page already, and the page need not name itself.
        {
            "title": "Numbers",
            "rows": [row for row in fit_table(fit, out) if row[0] not in {"warning", "report"}],
        },
        {"title": "Laws compared, error on curves left out", "rows": laws_table(fit)},
        {"title": "Forecasts of curves left out", "rows": left_out_table(fit)},
    ]
    page = _template().render(
        title=fit.law.name, headline=fit.headline, warnings=fit.warnings, pictures=images,
        tables=tables, version=fit.provenance.versions.get("lossatlas", ""),
    )  # fmt: skip
    with store.writing(out / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_prediction(told: Prediction, out: Path | None) -> None:
    """Write forecast.csv and its picture."""
    if out is None:
        return
    columns = {key: getattr(told, key) for key in ("step", "loss", "lower", "upper")}
    _write_csv(out / "forecast.csv", columns)
    _write_pictures({"forecast": told.plot()}, out)


def write_plan(plan: SchedulePlan, out: Path | None) -> None:
    """Write schedule.csv (update, cooldown, free) and its picture."""
    if out is None:
        return
    update = np.arange(1, plan.free.size + 1)
    columns = {"update": update, "lr": plan.wsd, "free": plan.free}
    _write_csv(out / "schedule.csv", columns)
    _write_pictures({"schedule": plan.plot()}, out)


def _write_csv(path: Path, columns: dict[str, Any]) -> None:
    with store.writing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))


# Each picture as PNG in the folder, and as base64 for a page.
def _write_pictures(drawn: Mapping[str, Axes], out: Path) -> dict[str, str]:
    images = {}
    for name, ax in drawn.items():
        data = io.BytesIO()
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.savefig(data, format="png", dpi=150)
        plt.close(figure)
        with store.writing(out / f"{name}.png") as temporary:
            temporary.write_bytes(data.getvalue())
        images[name] = base64.b64encode(data.getvalue()).decode()
    return images


def _template() -> jinja2.Template:
    engine = jinja2.Environment(
        loader=jinja2.PackageLoader("lossatlas.report", "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )  # fmt: skip
    return engine.from_string(_PAGE)
