"""`make observe`: prints every panel of the dashboards with what it shows, and whether an overload shows where it should."""

import sys
import tempfile
from pathlib import Path

from tests.observe.run import observe


def main() -> int:
    """The exit code: 0 if all is as the table says."""
    with tempfile.TemporaryDirectory(prefix="fourfold-observe-") as folder:
        faults = observe(Path(folder), print)
    print("\nWrong:" if faults else "\nEvery panel shows what it should.")
    for fault in faults:
        print(fault)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
