"""Which names are public? All of these are `evohbde.<name>`."""

from importlib import import_module
from typing import TYPE_CHECKING

from evohbde.black_box import BlackBox as BlackBox
from evohbde.black_box import BlackBoxProblem as BlackBoxProblem
from evohbde.checkpoint import Checkpointer as Checkpointer
from evohbde.checkpoint import checkpointing as checkpointing
from evohbde.comparison import Comparison as Comparison
from evohbde.comparison import compare as compare
from evohbde.compress.codebook import share_weights as share_weights
from evohbde.compress.codebook_front import CodebookFront as CodebookFront
from evohbde.compress.codebook_front import codebook_front as codebook_front
from evohbde.compress.compact import load_compact as load_compact
from evohbde.compress.compact import save_compact as save_compact
from evohbde.compress.lora import add_lora as add_lora
from evohbde.compress.lora import merge_lora as merge_lora
from evohbde.compress.quantization import quantize as quantize
from evohbde.compress.quantization import train_quantized as train_quantized
from evohbde.data import SuperBatches as SuperBatches
from evohbde.data import Task as Task
from evohbde.data import TensorData as TensorData
from evohbde.distillation import Distillation as Distillation
from evohbde.finetune import FineTuneResult as FineTuneResult
from evohbde.finetune import fine_tune as fine_tune
from evohbde.gradient import pretrain as pretrain
from evohbde.gradient_searcher import GradientSearcher as GradientSearcher
from evohbde.layout import ParameterLayout as ParameterLayout
from evohbde.outputs import score as score
from evohbde.parts import bias_names as bias_names
from evohbde.parts import head_names as head_names
from evohbde.parts import norm_names as norm_names
from evohbde.parts import prunable_names as prunable_names
from evohbde.problem import NetworkProblem as NetworkProblem
from evohbde.problem import ReducedProblem as ReducedProblem
from evohbde.pruning.allocated import AllocatedPruning as AllocatedPruning
from evohbde.pruning.cost import MultiplyAdds as MultiplyAdds
from evohbde.pruning.cost import StoredBits as StoredBits
from evohbde.pruning.export import save_onnx as save_onnx
from evohbde.pruning.front import Front as Front
from evohbde.pruning.hierarchical import HierarchicalPruning2026 as HierarchicalPruning2026
from evohbde.pruning.pipeline import prune as prune
from evohbde.pruning.result import PruneResult as PruneResult
from evohbde.recovery import repair as repair
from evohbde.reductions import Chain as Chain
from evohbde.reductions import ChannelScaling as ChannelScaling
from evohbde.reductions import CorridorMask as CorridorMask
from evohbde.reductions import GroupMask as GroupMask
from evohbde.reductions import HistogramBlocking as HistogramBlocking
from evohbde.reductions import Identity as Identity
from evohbde.reductions import KMeansBlocking as KMeansBlocking
from evohbde.reductions import LowRank as LowRank
from evohbde.reductions import QuantileBlocking as QuantileBlocking
from evohbde.reductions import RandomBlocking as RandomBlocking
from evohbde.reductions import RandomProjection as RandomProjection
from evohbde.reductions import Reduction as Reduction
from evohbde.reductions import SparseBlocks as SparseBlocks
from evohbde.reductions import Subspace as Subspace
from evohbde.reductions import ThresholdPruning as ThresholdPruning
from evohbde.reductions import channel_groups as channel_groups
from evohbde.reductions import magnitude_blocks as magnitude_blocks
from evohbde.reductions import merge_blocks as merge_blocks
from evohbde.reductions import merge_plan as merge_plan
from evohbde.run import run_until as run_until
from evohbde.rundir import load_network as load_network

# Names whose module needs an optional package; it is imported when they are first asked for.
OPTIONAL = {
    "PymooSearcher": "evohbde.pymoo_bridge",
    "StructuredProblem": "evohbde.pruning.structured",
    "StructuredPruning": "evohbde.pruning.structured",
    "as_pymoo": "evohbde.pymoo_bridge",
}

if TYPE_CHECKING:
    from evohbde.pruning.structured import StructuredProblem as StructuredProblem
    from evohbde.pruning.structured import StructuredPruning as StructuredPruning
    from evohbde.pymoo_bridge import PymooSearcher as PymooSearcher
    from evohbde.pymoo_bridge import as_pymoo as as_pymoo
else:

    def __getattr__(name):
        if name in OPTIONAL:
            return getattr(import_module(OPTIONAL[name]), name)
        raise AttributeError(f"module 'evohbde.api' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *OPTIONAL})
