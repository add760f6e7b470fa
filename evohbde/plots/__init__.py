"""What does a run look like, and what do many?

The only room that imports matplotlib. Figures are built without pyplot, so no state is shared and no window opens.
"""

from evohbde.plots.base import BLUE, GREEN, GREY, ORANGE, PURPLE, Figure, to_png
from evohbde.plots.comparison import plot_convergence_bands, plot_ranks, plot_seeds
from evohbde.plots.front import plot_front, plot_hypervolume
from evohbde.plots.run import draw_run, plot_convergence, plot_histogram, plot_scores

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "Figure",
    "draw_run",
    "plot_convergence",
    "plot_convergence_bands",
    "plot_front",
    "plot_histogram",
    "plot_hypervolume",
    "plot_ranks",
    "plot_scores",
    "plot_seeds",
    "to_png",
]
