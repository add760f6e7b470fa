"""Search algorithms for any EvoTorch problem; none of them knows what a network is."""

from evohbde.searchers.annealing import SimulatedAnnealing as SimulatedAnnealing
from evohbde.searchers.base import PopulationSearcher as PopulationSearcher
from evohbde.searchers.cmaes import CMAES as CMAES
from evohbde.searchers.coordinate_search import CoordinateSearch as CoordinateSearch
from evohbde.searchers.de import DE as DE
from evohbde.searchers.jade import JADE as JADE
from evohbde.searchers.jde import JDE as JDE
from evohbde.searchers.local_search import IteratedLocalSearch as IteratedLocalSearch
from evohbde.searchers.moead import MOEAD as MOEAD
from evohbde.searchers.nsga2 import NSGA2 as NSGA2
from evohbde.searchers.random_search import RandomSearch as RandomSearch
from evohbde.searchers.shade import LSHADE as LSHADE
from evohbde.searchers.shade import SHADE as SHADE
from evohbde.searchers.tabu import BinaryTabuSearch as BinaryTabuSearch
from evohbde.searchers.tabu import TabuSearch as TabuSearch
