"""Maps between a network's full weights and the few values that are searched."""

from evohbde.reductions.base import Identity as Identity
from evohbde.reductions.base import Reduction as Reduction
from evohbde.reductions.blocking import Blocking as Blocking
from evohbde.reductions.blocking import HistogramBlocking as HistogramBlocking
from evohbde.reductions.blocking import KMeansBlocking as KMeansBlocking
from evohbde.reductions.blocking import QuantileBlocking as QuantileBlocking
from evohbde.reductions.blocking import RandomBlocking as RandomBlocking
from evohbde.reductions.corridor import CorridorMask as CorridorMask
from evohbde.reductions.lowrank import LowRank as LowRank
from evohbde.reductions.masking import GroupMask as GroupMask
from evohbde.reductions.merging import merge_blocks as merge_blocks
from evohbde.reductions.merging import merge_plan as merge_plan
from evohbde.reductions.projection import Chain as Chain
from evohbde.reductions.projection import RandomProjection as RandomProjection
from evohbde.reductions.sparse_blocks import SparseBlocks as SparseBlocks
from evohbde.reductions.sparse_blocks import magnitude_blocks as magnitude_blocks
from evohbde.reductions.subspaces import ChannelScaling as ChannelScaling
from evohbde.reductions.subspaces import Subspace as Subspace
from evohbde.reductions.subspaces import channel_groups as channel_groups
from evohbde.reductions.thresholds import ThresholdPruning as ThresholdPruning
