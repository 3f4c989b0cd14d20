"""Writes the dashboards as the JSON files that Grafana loads, beside this one: `python docker/grafana/dashboards`.

`--into FOLDER` writes them elsewhere.
"""

import argparse
import json
from pathlib import Path

import engine
import live
import service
from grafana_foundation_sdk.cog.encoder import JSONEncoder

PAGES = {"live": live.dashboard, "engine": engine.dashboard, "service": service.dashboard}


def main() -> None:
    """Writes one file for each dashboard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    folder: Path = parser.parse_args().into
    for name, dashboard in PAGES.items():
        text = json.dumps(dashboard(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
