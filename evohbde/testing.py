"""Does a part of one's own keep the contract that the rest of the package relies on?"""

from __future__ import annotations

import io
from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor

from evohbde.reductions import Reduction
from evohbde.searcher_contract import check_searcher as check_searcher
from evohbde.searcher_contract import demand as _demand

LEADS = ((), (1,), (3,), (2, 3), (0,))
"""Leading shapes tried: one candidate, batches of them, an empty batch."""


def check_reduction(reduction: Reduction, *, atol: float = 1e-5) -> None:
    """Run a reduction through the contract that problems and searchers rely on.

    For authors of new reductions: call it in a test, on an instance of ordinary size (it builds some `(6, D)` tensors).
    The instance stays as it is. Checked are the law `reduce(expand(z)) == z`, shapes, types and devices for any leading
    dimensions, `expand_into`, gradients through `expand`, that equal inputs give equal results and stay unchanged,
    `to`, and that `state_dict` is safe to load and complete. Where `is_unique` is false, the law is that `reduce` gives
    some `z` of the same weights; where `is_binary` is true, only zeros and ones are tried and no gradient is asked for,
    nor where `is_smooth` is false.

    Args:
        reduction: An instance of your own `Reduction`.
        atol: Largest error of the law per value; raise it for half precision.

    Raises:
        AssertionError: If a clause does not hold; the message names the class and the clause.
    """
    _check_attributes(reduction)
    kept = {name: tensor.clone() for name, tensor in _tensors(reduction)}
    _check_law(reduction, atol)
    _check_leads(reduction, atol)
    _check_purity(reduction)
    _check_expand_into(reduction)
    if reduction.is_smooth and not reduction.is_binary:
        _check_gradient(reduction)
    _check_width(reduction)
    _check_state_dict(reduction)
    _check_move(reduction, atol)
    for name, tensor in _tensors(reduction):
        _demand(_same(tensor, kept[name]), reduction, f"using it changes its tensor `{name}`")


def _tensors(reduction: Reduction) -> Iterator[tuple[str, Tensor]]:
    return ((name, value) for name, value in vars(reduction).items() if isinstance(value, Tensor))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


def _draw(reduction: Reduction, *lead: int) -> Tensor:
    """Draw reduced values between `lower` and `upper`, or zeros and ones, the same at every call: `(*lead, d)`."""
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(*lead, reduction.dim, generator=generator, dtype=torch.float64)
    if reduction.is_binary:
        return unit.round().to(reduction.center)
    unit = unit.to(reduction.center)
    return reduction.lower + unit * (reduction.upper - reduction.lower)


def _check_attributes(reduction: Reduction) -> None:
    for name in ("dim", "full_dim"):
        value = getattr(reduction, name, None)
        _demand(type(value) is int and value >= 1, reduction, f"`{name}` must be an int of at least 1, got {value!r}")
    for name in ("is_unique", "is_binary", "is_smooth"):
        value = getattr(reduction, name)
        _demand(type(value) is bool, reduction, f"`{name}` must be True or False, got {value!r}")
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
        theta = reduction.expand(z)
        found, law = reduction.reduce(theta), "reduce(expand(z)) != z"
        if not reduction.is_unique:
            z, found, law = theta, reduction.expand(found), "expand(reduce(expand(z))) != expand(z)"
        error = float((found - z).abs().max())
        _demand(error <= atol, reduction, f"{law} {where}: error up to {error:.3g}, allowed {atol:g}")


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
    if reduction.is_gather:
        several = torch.stack([z, z])
        written = reduction.expand_into(several, expected.new_empty(2, len(expected)))
        _demand(_same(written[1], expected), reduction, "with `is_gather`, `expand_into` must take several candidates")


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
