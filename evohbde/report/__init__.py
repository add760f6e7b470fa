"""How are finished runs told on one page that needs nothing else?"""

from evohbde.report.run import NO_FIGURES, run_page, verdict

__all__ = ["NO_FIGURES", "run_page", "verdict"]
