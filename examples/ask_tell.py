"""How is a searcher driven by an evaluation loop of one's own, here around an int8 model that has no gradients?

Claim: a session of ONNX Runtime that multiplies 8-bit integers, and takes its weights as inputs, has a held-out F1 of
.666 (macro) on shifted digits; with weights searched on its own scores, .836. PyTorch only holds the numbers.
Price: 200 generations of 50, 3,000,000 sample forwards, nine seconds on one CPU core; pip install "evohbde[onnx]"
Run: python -m examples.ask_tell
"""

import onnxruntime
import torch
from onnx import parser
from torch import Tensor
from torch.nn.functional import cross_entropy

from evohbde import HistogramBlocking, NetworkProblem, ParameterLayout
from evohbde.searchers import DE
from evohbde.statistics import bootstrap_score
from problems.digits import shifted_mlp

torch.set_num_threads(1)  # networks this small are fastest on one thread

# Samples and weights go in as float32, are rounded to 8 bits each, multiplied as integers and scaled back.
LAYER = """
    a{0}, a_scale{0}, a_zero{0} = DynamicQuantizeLinear(x{0})  b{0}, b_scale{0}, b_zero{0} = DynamicQuantizeLinear(w{0})
    turned{0} = Transpose(b{0})  product{0} = MatMulInteger(a{0}, turned{0}, a_zero{0}, b_zero{0})
    scale{0} = Mul(a_scale{0}, b_scale{0})  number{0} = Cast<to = 1>(product{0})  scaled{0} = Mul(number{0}, scale{0})
    y{0} = Add(scaled{0}, c{0})  x{1} = Relu(y{0})"""
GRAPH = f"""<ir_version: 8, opset_import: ["" : 13]>
int8 (float[n, 64] x0, float[32, 64] w0, float[32] c0, float[16, 32] w1, float[16] c1, float[10, 16] w2, float[10] c2)
    => (float[n, 10] y2) {{ {LAYER.format(0, 1)} {LAYER.format(1, 2)} {LAYER.format(2, 3)} }}"""

session = onnxruntime.InferenceSession(parser.parse_model(GRAPH).SerializeToString())
task = shifted_mlp(seed=0)
layout = ParameterLayout(task.model)


def logits_of(theta: Tensor, x: Tensor) -> Tensor:
    """Feed weights and samples to the session: `(D,)`, `(n, 64) -> (n, 10)`."""
    weights = zip(("w0", "c0", "w1", "c1", "w2", "c2"), layout.views(theta).values(), strict=True)
    return torch.from_numpy(session.run(["y2"], {"x0": x.numpy(), **{name: w.numpy() for name, w in weights}})[0])


def blocks(theta0: Tensor) -> HistogramBlocking:
    return HistogramBlocking(theta0, mode="offset")


problem = NetworkProblem(task.model, task.train, "cross_entropy", reduction=blocks, seed=0)
searcher = DE(problem, popsize=50, stdev_init=0.03, include_center=True)

# `ask` gives candidates, `tell` takes their scores in the problem's sense; what lies between is yours.
for _ in range(200):
    candidates = searcher.ask()
    losses = [cross_entropy(logits_of(problem.decode(z), task.train.x), task.train.y) for z in candidates]
    searcher.tell(candidates, torch.stack(losses))

best = searcher.population[int(searcher.population.argbest())]
for name, z in {"int8": problem.center, "int8, searched": best}.items():
    predicted = logits_of(problem.decode(z), task.test.x).argmax(1)
    print(f"{name:14} held-out macro-F1 {bootstrap_score(predicted, task.test.y).value:.3f}")
