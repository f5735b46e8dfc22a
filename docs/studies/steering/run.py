"""Run the study: `python docs/studies/steering/run.py penalties|mnist|cifar`.

Every training that is done is kept in parts/ and never done again. Needs the data beside the
checkout and pytorch_optimizer.
"""

import argparse
import logging
from pathlib import Path

import penalties
import rates

PARTS = Path(__file__).parent / "parts"
_log = logging.getLogger("study")


def main() -> None:
    """Run one part, or go on with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["penalties", *rates.PROBLEMS])
    parser.add_argument("--parts", type=Path, default=PARTS, help="where what is done is kept")
    parser.add_argument("--main", action="store_true", help="without the further recipes")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if asked.part == "penalties":
        penalties.measure(asked.parts, _log.info)
    else:
        rates.measure(asked.part, asked.parts, _log.info, more=not asked.main)


if __name__ == "__main__":
    main()
