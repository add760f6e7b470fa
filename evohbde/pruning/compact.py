"""How is a pruned network written into a file that is as small as it should be?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from evohbde.pruning.bits import pack, unpack
from evohbde.pruning.codes import huffman_decode, huffman_encode, huffman_lengths, pack_indices, unpack_indices
from evohbde.pruning.cost import index_width
from evohbde.rundir import load_state, unshared_state

CODINGS = ("values", "codebook", "huffman")
HEADER, CHECKSUM = "evohbde.compact", "sha256"
VERSION = 1

# The integer type as wide as a floating point type, so that equal means equal bits, NaN included.
BITS_OF = {2: torch.int16, 4: torch.int32, 8: torch.int64}

Packed = dict[str, Tensor]
Description = dict[str, Any]


def save_compact(network: nn.Module, path: str | Path, *, coding: str = "values") -> int:
    """Write a network with many zeros, or few different weights, as a small safetensors file; return its bytes.

    Parameters of two dimensions and more are written as one bit per weight, which tells zeros from the others, and the
    others; where that is no gain, and for norms, biases and buffers, tensors are written as they are. What is loaded
    equals what was saved bit for bit, but for the sign of zeros.

    Args:
        network: The network, with zeros where it was pruned (`evohbde.pruning.export` turns masks into zeros).
        path: The file; replaced if there is one.
        coding: How weights that are not zero are written. `"values"`: in full. `"codebook"`: as numbers of
            `ceil(log2 k)` bits into one list of the `k` different values of the whole network, as a `Blocking` in mode
            `"replace"` leaves few. `"huffman"`: the same, often ones in fewer bits.

    Raises:
        ValueError: If `coding` is another word, the weights are of several types, or a codebook is larger than what it
            saves.

    Source: Han, Mao & Dally (2016), arXiv 1510.00149, "Deep Compression", section 4 for the Huffman code.
    """
    if coding not in CODINGS:
        raise ValueError(f"`coding` must be one of {', '.join(CODINGS)}, got {coding!r}")
    dense, aliases = unshared_state(network)
    matrices = {name: dense.pop(name) for name in _matrix_names(network) if name in dense}
    tensors, sparse = _in_full(matrices) if coding == "values" else _by_codebook(matrices, coding)
    tensors |= {f"dense:{name}": value for name, value in dense.items()}
    tensors |= {f"dense:{name}": value for name, value in matrices.items() if name not in sparse}
    description = {"version": VERSION, "coding": coding, "sparse": sparse, "aliases": aliases}
    metadata = {HEADER: json.dumps(description), CHECKSUM: _checksum(tensors, description)}
    content = save(tensors, metadata=metadata)
    _replace(Path(path), content)
    return len(content)


def load_compact(path: str | Path, model: nn.Module) -> nn.Module:
    """Read a file of `save_compact` into `model`, in place; returns it in evaluation mode.

    Args:
        path: The file.
        model: A network of the same architecture, as its factory builds it.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is cut short, changed or of another kind, or the weights are those of another
            architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: write one by save_compact(network, path)")
    tensors, description = _read(path)
    return load_state(model, _state(tensors, description), path)


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
    if description["version"] != VERSION:
        raise ValueError(f"{path} is of version {description['version']}, this evohbde reads {VERSION}: update it")
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
