"""Maps between a network's full weights and the few values that are searched."""

from evohbde.reductions.base import Identity as Identity
from evohbde.reductions.base import Reduction as Reduction
from evohbde.reductions.blocking import Blocking as Blocking
from evohbde.reductions.blocking import HistogramBlocking as HistogramBlocking
from evohbde.reductions.blocking import KMeansBlocking as KMeansBlocking
from evohbde.reductions.blocking import QuantileBlocking as QuantileBlocking
from evohbde.reductions.blocking import RandomBlocking as RandomBlocking
from evohbde.reductions.merging import merge_blocks as merge_blocks
from evohbde.reductions.merging import merge_plan as merge_plan
from evohbde.reductions.projection import Chain as Chain
from evohbde.reductions.projection import RandomProjection as RandomProjection
