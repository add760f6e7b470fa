"""Does a part of one's own keep the contract that the rest of the package relies on?"""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from torch import Tensor

from evohbde.problem_base import BaseProblem
from evohbde.reductions import Reduction

LEADS = ((), (1,), (3,), (2, 3), (0,))
"""Leading shapes tried: one candidate, batches of them, an empty batch."""


def check_reduction(reduction: Reduction, *, atol: float = 1e-5) -> None:
    """Run a reduction through the contract that problems and searchers rely on.

    For authors of new reductions: call it in a test, on an instance of ordinary size (it builds some `(6, D)` tensors).
    The instance stays as it is. Checked are the law `reduce(expand(z)) == z`, shapes, types and devices for any leading
    dimensions, `expand_into`, gradients through `expand`, that equal inputs give equal results and stay unchanged,
    `to`, and that `state_dict` is safe to load and complete.

    Args:
        reduction: An instance of your own `Reduction`.
        atol: Largest error of the law per reduced value; raise it for half precision.

    Raises:
        AssertionError: If a clause does not hold; the message names the class and the clause.
    """
    _check_attributes(reduction)
    kept = {name: tensor.clone() for name, tensor in _tensors(reduction)}
    _check_law(reduction, atol)
    _check_leads(reduction, atol)
    _check_purity(reduction)
    _check_expand_into(reduction)
    _check_gradient(reduction)
    _check_width(reduction)
    _check_state_dict(reduction)
    _check_move(reduction, atol)
    for name, tensor in _tensors(reduction):
        _demand(_same(tensor, kept[name]), reduction, f"using it changes its tensor `{name}`")


def _demand(holds: bool, part: object, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"{type(part).__name__}: {otherwise}")


def _tensors(reduction: Reduction) -> Iterator[tuple[str, Tensor]]:
    return ((name, value) for name, value in vars(reduction).items() if isinstance(value, Tensor))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


def _draw(reduction: Reduction, *lead: int) -> Tensor:
    """Draw reduced values between `lower` and `upper`, the same ones at every call: `(*lead, d)`."""
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(*lead, reduction.dim, generator=generator, dtype=torch.float64)
    unit = unit.to(reduction.center)
    return reduction.lower + unit * (reduction.upper - reduction.lower)


def _check_attributes(reduction: Reduction) -> None:
    for name in ("dim", "full_dim"):
        value = getattr(reduction, name, None)
        _demand(type(value) is int and value >= 1, reduction, f"`{name}` must be an int of at least 1, got {value!r}")
    for name in ("center", "lower", "upper"):
        tensor = getattr(reduction, name, None)
        if not isinstance(tensor, Tensor) or tensor.shape != (reduction.dim,) or not tensor.is_floating_point():
            got = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            _demand(False, reduction, f"`{name}` must be a float tensor of shape ({reduction.dim},), got {got}")
        else:
            _demand(bool(torch.isfinite(tensor).all()), reduction, f"`{name}` must be finite")
    ordered = (reduction.lower <= reduction.center) & (reduction.center <= reduction.upper)
    _demand(bool(ordered.all()), reduction, "`lower` <= `center` <= `upper` must hold for every reduced value")


def _check_law(reduction: Reduction, atol: float) -> None:
    for where, z in (("at `center`", reduction.center), ("inside the start range", _draw(reduction, 3))):
        error = float((reduction.reduce(reduction.expand(z)) - z).abs().max())
        _demand(error <= atol, reduction, f"reduce(expand(z)) != z {where}: error up to {error:.3g}, allowed {atol:g}")


def _check_leads(reduction: Reduction, atol: float) -> None:
    for lead in LEADS:
        z = _draw(reduction, *lead)
        theta = reduction.expand(z)
        _check_result(reduction, "expand", theta, (*lead, reduction.full_dim))
        _check_result(reduction, "reduce", reduction.reduce(theta), (*lead, reduction.dim))
        one_by_one = [reduction.expand(row) for row in z.reshape(-1, reduction.dim)]
        if one_by_one:
            agree = torch.allclose(theta.reshape(len(one_by_one), -1), torch.stack(one_by_one), rtol=1e-4, atol=atol)
            _demand(agree, reduction, f"expand of a batch {lead} differs from expanding its rows one by one")


def _check_result(reduction: Reduction, method: str, result: Tensor, shape: tuple[int, ...]) -> None:
    got = tuple(result.shape)
    _demand(got == shape, reduction, f"`{method}` must return shape {shape} here, got {got}")
    dtype = reduction.center.dtype
    _demand(result.dtype == dtype, reduction, f"`{method}` must keep the type {dtype} here, got {result.dtype}")
    _demand(result.device == reduction.device, reduction, f"`{method}` must stay on {reduction.device}")


def _check_purity(reduction: Reduction) -> None:
    z = _draw(reduction, 2)
    theta = reduction.expand(z).clone()
    given_z, given_theta = z.clone(), theta.clone()
    _demand(_same(reduction.expand(z), given_theta), reduction, "`expand` gives another result the second time")
    first = reduction.reduce(theta).clone()
    _demand(_same(reduction.reduce(theta), first), reduction, "`reduce` gives another result the second time")
    _demand(_same(z, given_z), reduction, "`expand` changes its input")
    _demand(_same(theta, given_theta), reduction, "`reduce` changes its input")


def _check_expand_into(reduction: Reduction) -> None:
    z = _draw(reduction)
    kept, expected = z.clone(), reduction.expand(z)
    buffer = torch.full_like(expected, torch.nan)
    returned = reduction.expand_into(z, buffer)
    _demand(returned is buffer, reduction, "`expand_into` must return the buffer it was given")
    _demand(_same(buffer, expected), reduction, "`expand_into` must write bit for bit what `expand` returns")
    _demand(_same(z, kept), reduction, "`expand_into` changes its input")


def _check_gradient(reduction: Reduction) -> None:
    z = _draw(reduction, 2).requires_grad_()
    theta = reduction.expand(z)
    _demand(theta.requires_grad, reduction, "`expand` must be differentiable with respect to z")
    (gradient,) = torch.autograd.grad(theta.sum(), z, allow_unused=True)
    finite = gradient is not None and bool(torch.isfinite(gradient).all())
    _demand(finite, reduction, "the gradient through `expand` must be finite")


def _check_width(reduction: Reduction) -> None:
    for method, width in ((reduction.expand, reduction.dim), (reduction.reduce, reduction.full_dim)):
        try:
            method(torch.zeros(2, width + 1).to(reduction.center))
        except ValueError:
            continue
        name = getattr(method, "__name__", "")
        _demand(False, reduction, f"`{name}` must raise ValueError for {width + 1} columns instead of {width}")


def _check_state_dict(reduction: Reduction) -> None:
    buffer = io.BytesIO()
    try:
        torch.save(reduction.state_dict(), buffer)
        buffer.seek(0)
        state = torch.load(buffer, weights_only=True)
        restored = Reduction.from_state_dict(state)
    except Exception as error:  # whatever another's class raises, the broken clause is the message
        raise AssertionError(f"{type(reduction).__name__}: its `state_dict` cannot be loaded again: {error}") from error
    _demand(type(restored) is type(reduction), reduction, f"its state gives a {type(restored).__name__}")
    theta = reduction.expand(_draw(reduction, 2))
    try:
        equal = _same(restored.expand(_draw(restored, 2)), theta)
        equal = equal and _same(restored.reduce(theta), reduction.reduce(theta))
    except AttributeError as error:
        raise AssertionError(
            f"{type(reduction).__name__}: {error}; name every attribute in `_tensors` or `_options`"
        ) from error
    _demand(equal, reduction, "it differs after from_state_dict(state_dict())")


def _check_move(reduction: Reduction, atol: float) -> None:
    moved = deepcopy(reduction)
    _demand(moved.to("meta") is moved, reduction, "`to` must return the reduction itself")
    left = [name for name, tensor in _tensors(moved) if tensor.device.type != "meta"]
    _demand(not left, reduction, f"`to` leaves {', '.join(left)} behind: name every tensor in `_tensors`")
    if torch.cuda.is_available():
        elsewhere = deepcopy(reduction).to("cuda")
        _check_law(elsewhere, atol)
        theta, expected = elsewhere.expand(_draw(elsewhere, 2)).cpu(), reduction.expand(_draw(reduction, 2)).cpu()
        _demand(torch.allclose(theta, expected, atol=atol), reduction, "`expand` differs between CPU and GPU")


MakeSearcher = Callable[[Problem], SearchAlgorithm]


def check_searcher(
    make_searcher: MakeSearcher, *, dim: int = 6, num_steps: int = 60, leaves_global_random_alone: bool = True
) -> None:
    """Run a searcher through the contract that the rest of the package relies on.

    For authors of new searchers: call it in a test. The problem that `make_searcher` gets has one objective, `dim`
    values, initial bounds from -1 to 1, no strict ones, a seed, and a `center` to start from: the origin.
    Checked are a population and a status that belong together, that a quadratic function is minimised and maximised,
    that candidates whose score is NaN neither stop nor win the search, that a seed gives the same search again, that a
    copy or pickle made in the middle goes on bit for bit, and that no global generator is touched.

    Args:
        make_searcher: Makes your searcher for a given problem, with options that suit the problem above.
        dim: Number of values.
        num_steps: Steps in which the mean of the population shall get better than the first best candidate.
        leaves_global_random_alone: Whether to check the global generators of Python, NumPy and PyTorch. EvoTorch's own
            searchers draw from that of PyTorch.

    Raises:
        AssertionError: If a clause does not hold; the message names the class and the clause.
    """
    with _guarded_random_state():
        _check_status(make_searcher, dim)
        for sense in ("min", "max"):
            _check_progress(make_searcher, _Quadratic(sense, dim), num_steps, "")
            _check_progress(make_searcher, _Quadratic(sense, dim, fails=True), num_steps, " where scores are NaN")
        _check_seed(make_searcher, dim)
        _check_copies(make_searcher, dim)
        if leaves_global_random_alone:
            _check_global_random_state(make_searcher, dim)


class _Quadratic(BaseProblem):
    """Squared distance to a goal; with `fails`, NaN wherever the first value is positive."""

    def __init__(self, sense: str, dim: int, *, fails: bool = False, seed: int = 0) -> None:
        super().__init__(sense, solution_length=dim, initial_bounds=(-1, 1), seed=seed)
        self.center, self.fails = torch.zeros(dim), fails
        self.goal = torch.linspace(-0.5, 0.5, dim)

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        z = batch.access_values(keep_evals=True).as_subclass(Tensor)
        scores = (z - self.goal).square().sum(1) * (1.0 if self.senses[0] == "min" else -1.0)
        batch.set_evals(torch.where(z[:, 0] > 0, torch.nan, scores) if self.fails else scores)


def _population(searcher: SearchAlgorithm) -> Tensor:
    """Values and scores side by side: `(n, d + 1)`."""
    population = getattr(searcher, "population", None)
    if not isinstance(population, SolutionBatch):
        raise AssertionError(f"{type(searcher).__name__}: `population` must be an evotorch.SolutionBatch")
    values, scores = population.values.as_subclass(Tensor), population.evals.as_subclass(Tensor)
    return torch.cat([values, scores], dim=1).clone()


def _check_status(make_searcher: MakeSearcher, dim: int) -> None:
    problem = _Quadratic("min", dim)
    searcher = make_searcher(problem)
    _demand(isinstance(searcher, SearchAlgorithm), searcher, "it must be an EvoTorch SearchAlgorithm")
    _demand(searcher.problem is problem, searcher, "`problem` must be the problem it was made for")
    for step in range(1, 4):
        before = problem.num_evaluations
        searcher.step()
        _demand(searcher.status.get("iter") == step, searcher, "`step` must make one step: override `_step` instead")
        _demand(problem.num_evaluations > before, searcher, "a step must score candidates by `problem.evaluate`")
        values, scores = _population(searcher).split([dim, 1], dim=1)
        expected = (values - problem.goal).square().sum(1, keepdim=True)
        agree = torch.allclose(scores, expected, rtol=1e-4, atol=1e-6)
        _demand(agree, searcher, "the scores of `population` must be those of its values")


def _check_progress(make_searcher: MakeSearcher, problem: _Quadratic, num_steps: int, where: str) -> None:
    sign = 1.0 if problem.senses[0] == "min" else -1.0
    searcher = make_searcher(problem)
    searcher.run(1)
    first = sign * float(searcher.status["best_eval"])
    searcher.run(num_steps - 1)
    scores = sign * _population(searcher)[:, -1]
    scores = scores[scores < torch.finfo(scores.dtype).max]
    mean = float(scores.mean()) if len(scores) else torch.inf
    _demand(
        mean < first, searcher, f"no progress on a quadratic ({problem.senses[0]}{where}): {mean:.3g} >= {first:.3g}"
    )
    if problem.fails:
        best = searcher.status["best"].values
        _demand(bool(best[0] <= 0), searcher, "a candidate whose score is NaN has become the best")


def _state_after(make_searcher: MakeSearcher, dim: int, seed: int) -> Tensor:
    searcher = make_searcher(_Quadratic("min", dim, seed=seed))
    searcher.run(5)
    return _population(searcher)


def _check_seed(make_searcher: MakeSearcher, dim: int) -> None:
    _seed_global_generators(1)
    first = _state_after(make_searcher, dim, seed=1)
    _seed_global_generators(2)
    again, other = (_state_after(make_searcher, dim, seed=seed) for seed in (1, 2))
    name = make_searcher(_Quadratic("min", dim))
    _demand(torch.equal(first, again), name, "the problem's seed must give the same search: draw from its generator")
    _demand(not torch.equal(first, other), name, "another seed of the problem gives the same search")


def _check_copies(make_searcher: MakeSearcher, dim: int) -> None:
    searcher = make_searcher(_Quadratic("min", dim))
    searcher.run(3)
    try:
        copies = {"copy": deepcopy(searcher), "pickle": pickle.loads(pickle.dumps(searcher))}
    except Exception as error:  # whatever another's class raises, the broken clause is the message
        raise AssertionError(f"{type(searcher).__name__}: it cannot be copied and pickled: {error}") from error
    searcher.run(3)
    for kind, twin in copies.items():
        twin.run(3)
        same = torch.equal(_population(twin), _population(searcher))
        _demand(same, searcher, f"a {kind} made in the middle of a search goes on differently")


def _check_global_random_state(make_searcher: MakeSearcher, dim: int) -> None:
    before = _global_random_state()
    searcher = make_searcher(_Quadratic("min", dim))
    searcher.run(3)
    after = _global_random_state()
    for name, state in before.items():
        _demand(state == after[name], searcher, f"it draws from the global generator of {name}")


def _global_random_state() -> dict[str, bytes]:
    states = {"Python": random.getstate(), "NumPy": np.random.get_state()}  # noqa: NPY002 - only looked at
    return {**{name: pickle.dumps(state) for name, state in states.items()}, "PyTorch": _torch_state()}


def _torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _seed_global_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def _guarded_random_state() -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
