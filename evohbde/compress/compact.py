"""How is a pruned, quantized or codebook network written into a file that is as small as it should be?"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from evohbde.compress.codes import huffman_decode, huffman_encode, huffman_lengths, pack_indices, unpack_indices
from evohbde.compress.quantization import Kind, attach, quantized_weights
from evohbde.pruning.bits import pack, unpack
from evohbde.pruning.cost import index_width
from evohbde.rundir import load_state, unshared_state

CODINGS = ("values", "codebook", "huffman")
HEADER, CHECKSUM = "evohbde.compact", "sha256"
VERSION = 1

# The integer type as wide as a floating point type, so that equal means equal bits, NaN included.
BITS_OF = {2: torch.int16, 4: torch.int32, 8: torch.int64}

FLOATS = ("float16", "bfloat16", "float32", "float64")

Packed = dict[str, Tensor]
Description = dict[str, Any]


def save_compact(network: nn.Module, path: str | Path, *, coding: str = "values") -> int:
    """Write a network of many zeros, few different weights, or integers as a small safetensors file; return its bytes.

    Parameters of two dimensions and more are written as one bit per weight, which tells zeros from the others, and the
    others; where that is no gain, and for norms, biases and buffers, tensors are written as they are. Quantized weights
    are written as integers of their bits. What is loaded equals what was saved bit for bit, but for the sign of zeros.

    Args:
        network: The network, with zeros where it was pruned (`evohbde.pruning.export` turns masks into zeros), or with
            integers where `evohbde.compress.quantization.quantize` put them.
        path: The file; replaced if there is one.
        coding: How weights that are not zero are written. `"values"`: in full. `"codebook"`: as numbers of
            `ceil(log2 k)` bits into one list of the `k` different values of the whole network, as `share_weights`
            leaves few. `"huffman"`: the same, often ones in fewer bits; of a quantized network its integers.

    Raises:
        ValueError: If `coding` is another word, the weights are of several types, a codebook is larger than what it
            saves, or it is asked for with integers, which are numbers of few bits already.

    Source: Han, Mao & Dally (2016), arXiv 1510.00149, "Deep Compression", section 4 for the Huffman code.
    """
    if coding not in CODINGS:
        raise ValueError(f"`coding` must be one of {', '.join(CODINGS)}, got {coding!r}")
    dense, aliases = unshared_state(network)
    integers, quantized = _quantized(network, dense, coding)
    matrices = {name: dense.pop(name) for name in _matrix_names(network) if name in dense}
    tensors, sparse = _in_full(matrices) if coding == "values" or quantized else _by_codebook(matrices, coding)
    tensors |= integers
    tensors |= {f"dense:{name}": value for name, value in dense.items()}
    tensors |= {f"dense:{name}": value for name, value in matrices.items() if name not in sparse}
    description = {"version": VERSION, "coding": coding, "sparse": sparse, "aliases": aliases, "quantized": quantized}
    metadata = {HEADER: json.dumps(description), CHECKSUM: _checksum(tensors, description)}
    content = save(tensors, metadata=metadata)
    _replace(Path(path), content)
    return len(content)


def load_compact(path: str | Path, model: nn.Module) -> nn.Module:
    """Read a file of `save_compact` into `model`, in place; returns it in evaluation mode.

    Args:
        path: The file.
        model: A network of the same architecture, as its factory builds it; weights that the file has as integers
            become quantized ones. That needs no torchao.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is cut short, changed or of another kind, or the weights are those of another
            architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: write one by save_compact(network, path)")
    tensors, description = _read(path)
    try:
        _check_described(model, description, path)
        state = _state(tensors, description)
        quantized = _parts(state, description.get("quantized", {}), path)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} does not hold what it says of itself: {type(error).__name__}: {error}") from error
    device = next(model.parameters()).device
    for name, (codes, scale, kind) in quantized.items():
        attach(model, name, codes.to(device), scale.to(device), kind)
    return load_state(model, state, path)


def _check_described(model: nn.Module, description: Description, path: Path) -> None:
    """Refuse what is not of this network before room is made for it: a file may claim any size."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name, about in {**description["sparse"], **description.get("quantized", {})}.items():
        if shapes.get(name) != about["shape"]:
            raise ValueError(
                f"the weights in {path} are not those of this {type(model).__name__}: {name} is {about['shape']} in "
                f"the file and {shapes.get(name, 'missing')} in the network"
            )
    for name, about in description["sparse"].items():
        if about["dtype"] not in FLOATS or not 0 <= about["kept"] <= math.prod(about["shape"]):
            raise ValueError(f"{path} says of {name} what cannot be: {about}")
    for name, about in description.get("quantized", {}).items():
        if about["bits"] not in range(1, 9) or not isinstance(about["rounds_inputs"], bool):
            raise ValueError(f"{path} says of {name} what cannot be: {about}")


def _matrix_names(network: nn.Module) -> list[str]:
    return [name for name, p in network.named_parameters() if p.ndim >= 2 and p.is_floating_point()]


def _in_full(matrices: Mapping[str, Tensor]) -> tuple[Packed, Description]:
    tensors: Packed = {}
    sparse: Description = {}
    for name, value in matrices.items():
        kept = value != 0
        num_kept = int(kept.sum())
        if value.numel() / 8 + num_kept * value.element_size() < value.numel() * value.element_size():
            sparse[name] = _described(value, num_kept)
            tensors[f"mask:{name}"], tensors[f"values:{name}"] = pack(kept.flatten()), value[kept]
    return tensors, sparse


def _by_codebook(matrices: Mapping[str, Tensor], coding: str) -> tuple[Packed, Description]:
    dtypes = {value.dtype for value in matrices.values()}
    if len(dtypes) != 1:
        raise ValueError(
            f"a codebook holds weights of one type, these are of {len(dtypes)} ({', '.join(map(str, dtypes))}): "
            "convert the network, or use coding='values'"
        )
    dtype = dtypes.pop()
    values = torch.cat([value[value != 0] for value in matrices.values()])
    book, indices, counts = values.view(BITS_OF[dtype.itemsize]).unique(return_inverse=True, return_counts=True)
    tensors: Packed = {"codebook": book.view(dtype)}
    lengths = huffman_lengths(counts.numpy()) if coding == "huffman" else None
    if lengths is not None:
        tensors["lengths"] = torch.from_numpy(lengths)
    sparse: Description = {}
    start = 0
    for name, value in matrices.items():
        kept = value != 0
        num_kept = int(kept.sum())
        some, start = indices[start : start + num_kept].numpy(), start + num_kept
        sparse[name] = _described(value, num_kept)
        if num_kept < value.numel():
            tensors[f"mask:{name}"] = pack(kept.flatten())
        code = pack_indices(some, index_width(len(book))) if lengths is None else huffman_encode(some, lengths)
        tensors[f"code:{name}"] = torch.from_numpy(code)
    _check_gain(matrices, tensors, len(book), len(values))
    return tensors, sparse


def _quantized(network: nn.Module, dense: Packed, coding: str) -> tuple[Packed, Description]:
    """Take the integers of quantized weights out of `dense`, as few bits and with what is needed to read them."""
    found = {name: held.kind for name, held in quantized_weights(network).items() if _places(name)[0] in dense}
    if found and coding == "codebook":
        raise ValueError("the integers of a quantized network take few bits already: use coding='values' or 'huffman'")
    codes = {name: dense.pop(_places(name)[0]) for name in found}
    description: Description = {}
    for name, value in codes.items():
        description[name] = {"shape": list(value.shape), **found[name]._asdict()}
    flat = {name: value.flatten().numpy() for name, value in codes.items()}
    tensors: Packed = {}
    if coding == "huffman" and codes:
        book, counts = np.unique(np.concatenate(list(flat.values())), return_counts=True)
        lengths = huffman_lengths(counts)
        tensors |= {"integers": torch.from_numpy(book), "integer_lengths": torch.from_numpy(lengths)}
        packed = {name: huffman_encode(np.searchsorted(book, some), lengths) for name, some in flat.items()}
    else:
        lifted = {name: some.astype(np.int64) + _lift(description[name]) for name, some in flat.items()}
        packed = {name: pack_indices(some, description[name]["bits"]) for name, some in lifted.items()}
    return tensors | {f"code:{name}": torch.from_numpy(code) for name, code in packed.items()}, description


def _integers(name: str, tensors: Packed, about: Description) -> Tensor:
    code, count = tensors[f"code:{name}"].numpy(), math.prod(about["shape"])
    if "integers" in tensors:
        indices = huffman_decode(code, tensors["integer_lengths"].numpy(), count)
        codes = tensors["integers"][torch.from_numpy(indices)]
    else:
        codes = torch.from_numpy(unpack_indices(code, about["bits"], count) - _lift(about))
    return codes.to(torch.int8).view(about["shape"])


def _lift(about: Description) -> int:
    """What is added to integers so that none is negative."""
    return int(1 << (about["bits"] - 1))


def _places(name: str) -> tuple[str, str]:
    """Under which names the state dict has the integers and the scales of a quantized weight."""
    path, _, attribute = name.rpartition(".")
    parts = f"parametrizations.{attribute}.original"
    return (f"{path}.{parts}0", f"{path}.{parts}1") if path else (f"{parts}0", f"{parts}1")


def _parts(state: Packed, quantized: Description, path: Path) -> dict[str, tuple[Tensor, Tensor, Kind]]:
    """Integers and scales of the weights that the file has as integers."""
    found = {}
    for name, about in quantized.items():
        codes, scale = (state[place] for place in _places(name))
        if scale.ndim != 2 or len(scale) != len(codes) or codes[0].numel() % scale.shape[1]:
            raise ValueError(f"{path} has scales of shape {tuple(scale.shape)} for {name} of {tuple(codes.shape)}")
        found[name] = codes, scale, Kind(about["bits"], about["rounds_inputs"])
    return found


def _described(value: Tensor, num_kept: int) -> Description:
    return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."), "kept": num_kept}


def _check_gain(matrices: Mapping[str, Tensor], tensors: Packed, num_values: int, num_kept: int) -> None:
    before = sum(value.nbytes for value in matrices.values())
    after = sum(value.nbytes for value in tensors.values())
    if after > before:
        raise ValueError(
            f"a codebook saves nothing: the {num_kept:,} weights that are not zero have {num_values:,} different "
            "values; use coding='values', or tie weights first, by a Blocking in mode 'replace'"
        )


def _read(path: Path) -> tuple[Packed, Description]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is cut short, changed or no safetensors file: {error}") from error
    if not {HEADER, CHECKSUM} <= metadata.keys():
        raise ValueError(f"{path} is not written by save_compact: read it by evohbde.load_network(model, path)")
    try:
        description = json.loads(metadata[HEADER])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is changed: its description is no JSON ({error})") from error
    if _checksum(tensors, description) != metadata[CHECKSUM]:
        raise ValueError(f"{path} is changed: its content does not have the checksum in its header; copy it again")
    version = description.get("version") if isinstance(description, dict) else None
    if version != VERSION:
        raise ValueError(f"{path} is of version {version}, this evohbde reads {VERSION}: update it")
    return tensors, description


def _state(tensors: Packed, description: Description) -> dict[str, Tensor]:
    state = {name.removeprefix("dense:"): value for name, value in tensors.items() if name.startswith("dense:")}
    for name, about in description["sparse"].items():
        shape, num_kept = about["shape"], about["kept"]
        value = torch.zeros(shape, dtype=getattr(torch, about["dtype"]))
        mask = tensors.get(f"mask:{name}")
        kept = torch.ones_like(value, dtype=torch.bool) if mask is None else unpack(mask, value.numel()).view(shape)
        value[kept] = _values(name, tensors, num_kept)
        state[name] = value
    for name, about in description.get("quantized", {}).items():
        state[_places(name)[0]] = _integers(name, tensors, about)
    return state | {name: state[first] for name, first in description["aliases"].items()}


def _values(name: str, tensors: Packed, num_kept: int) -> Tensor:
    if f"values:{name}" in tensors:
        return tensors[f"values:{name}"]
    code, book = tensors[f"code:{name}"].numpy(), tensors["codebook"]
    if "lengths" in tensors:
        indices = huffman_decode(code, tensors["lengths"].numpy(), num_kept)
    else:
        indices = unpack_indices(code, index_width(len(book)), num_kept)
    return book[torch.from_numpy(indices)]


def _checksum(tensors: Packed, description: Description) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    # All of the file or nothing: a reader never finds half of one.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
