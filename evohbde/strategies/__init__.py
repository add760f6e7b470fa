"""How are candidates turned into outputs? All strategies give the same outputs up to rounding."""

from evohbde.strategies.batched import Batched as Batched
from evohbde.strategies.choice import NAMES as NAMES
from evohbde.strategies.choice import Choice as Choice
from evohbde.strategies.choice import check_strategy as check_strategy
from evohbde.strategies.choice import choose as choose
from evohbde.strategies.choice import recall_choice as recall_choice
from evohbde.strategies.folded import Folded as Folded
from evohbde.strategies.graphs import Graphs as Graphs
from evohbde.strategies.precision import check_precision as check_precision
from evohbde.strategies.precision import computing as computing
from evohbde.strategies.views import Strategy as Strategy
from evohbde.strategies.views import Views as Views
from evohbde.strategies.views import Working as Working
from evohbde.strategies.vmapped import Vmapped as Vmapped
