"""Run the study: `python docs/studies/steering/run.py penalties|mnist|cifar|pages`.

Every training that is done is kept in parts/ and never done again; its numbers go to
results.json, from which `pages` writes rates.md, penalties.md and figures. README.md is of the
study of the recipe, larger.json and costs.json. Needs the data beside the checkout and
pytorch_optimizer.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import page_penalties
import page_rates
import penalties
import rates
import summary
import texts

HERE = Path(__file__).parent


def main() -> None:
    """Run one part, or go on with it; or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["penalties", *rates.PROBLEMS, "pages"])
    parser.add_argument(
        "--parts", type=Path, default=HERE / "parts", help="where what is done is kept"
    )
    parser.add_argument("--seeds", type=int, default=rates.SEEDS, help="of mnist or cifar")
    asked = parser.parse_args()
    asked.parts.mkdir(exist_ok=True)
    kept = HERE / "results.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if asked.part == "pages":
        _write(found)
        return
    found |= {asked.part: _measured(asked.part, asked.parts, asked.seeds)}
    kept.write_text(json.dumps(found, separators=(",", ":")) + "\n")


def _measured(part: str, folder: Path, seeds: int) -> Any:
    if part != "penalties":
        return rates.plain(part, rates.measure(part, folder, seeds=seeds))
    tables = penalties.measure(folder)
    return {name: _plain(table) for name, table in tables.items()}


def _plain(table: np.ndarray) -> list[Any]:
    rows = [[[float(f"{x:.5g}") for x in row] for row in setting] for setting in table.tolist()]
    return [[[None if x != x else x for x in row] for row in setting] for setting in rows]


def _write(found: dict[str, Any]) -> None:
    studies = {name: found[name] for name in rates.PROBLEMS}
    page_rates.draw(studies, HERE)
    (HERE / "rates.md").write_text(texts.rates(studies))
    summary.write()
    study = page_penalties.Penalties(found["penalties"])
    page_penalties.draw(study, HERE)
    (HERE / "penalties.md").write_text(texts.penalties(study))


if __name__ == "__main__":
    main()
