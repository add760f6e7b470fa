"""Search algorithms for any EvoTorch problem; none of them knows what a network is."""

from evohbde.searchers.base import PopulationSearcher as PopulationSearcher
from evohbde.searchers.cmaes import CMAES as CMAES
from evohbde.searchers.de import DE as DE
