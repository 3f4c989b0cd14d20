"""The validation curve of a run as a picture."""

import csv
from pathlib import Path


def draw_curve(log: Path, picture: Path) -> None:
    """Draws PSNR-Y, and the distance where there is one, over the steps in `log` (a run's log.csv) to the PNG `picture`."""
    from matplotlib.figure import Figure

    with log.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="PSNR-Y on held-out pictures, dB")
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["psnr_y"] for row in rows], marker=".")
    axes.grid(alpha=0.3)
    distances = [row["squeeze_distance"] for row in rows]
    if distances[0] == distances[0]:  # not NaN
        axes.twinx(ylabel="squeeze_distance").plot(steps, distances, color="tab:orange", marker=".")
    figure.savefig(picture, dpi=100)
