"""How do CIFAR images and the released networks become tasks?

The images come from JPEG archives (`cifar10-train.tar.xz`, `cifar10-test.tar.xz`) or from torchvision. To networks
trained on the uncompressed images the JPEG ones are a real shift. Accuracy on the 5,000 JPEG test images of the
networks as given: resnet20-cifar10 .810, resnet56-cifar10 .830, resnet20-jpeg-cifar10 .874.
"""

import io
import lzma
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from evohbde.data import Task, TensorData

from .networks import initialised, load_safetensors, resnet18, resnet20, resnet56

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 32
SUFFIXES = {".jpg", ".jpeg", ".png"}
FORMATS = ("JPEG", "PNG")
REPOSITORY = Path(__file__).resolve().parents[1]


class Images(NamedTuple):
    """`images` uint8 `(n, 3, 32, 32)`, `labels` int64 `(n,)` that index the alphabetical `classes`."""

    images: Tensor
    labels: Tensor
    classes: list[str]


class PerClass(NamedTuple):
    """How many images of each class a task holds."""

    train: int
    validation: int
    test: int


class EncodedImage(NamedTuple):
    """A compressed image as it lies in the archive `parent/class_name/file_name`."""

    class_name: str
    file_name: str
    parent: str
    content: bytes


class Source(NamedTuple):
    """Labelled images of which only those asked for, `take(indices)`, need to be decoded: uint8 `(n, 3, 32, 32)`."""

    labels: Tensor
    classes: list[str]
    take: Callable[[Tensor], Tensor]


def shifted_resnet20(
    seed: int = 0,
    *,
    train_per_class: int = 400,
    validation_per_class: int = 100,
    test_per_class: int = 500,
    weights: str = "resnet20-cifar10",
) -> Task:
    """Give the ResNet-20 trained on uncompressed CIFAR-10, with JPEG images to search on and to be tested on."""
    per_class = PerClass(train_per_class, validation_per_class, test_per_class)
    return _jpeg_task(released_network(resnet20, weights), "shifted-resnet20", seed, per_class)


def shifted_resnet56(
    seed: int = 0,
    *,
    train_per_class: int = 400,
    validation_per_class: int = 100,
    test_per_class: int = 500,
    weights: str = "resnet56-cifar10",
) -> Task:
    """Give the ResNet-56 trained on uncompressed CIFAR-10, with JPEG images to search on and to be tested on."""
    per_class = PerClass(train_per_class, validation_per_class, test_per_class)
    return _jpeg_task(released_network(resnet56, weights), "shifted-resnet56", seed, per_class)


def resnet20_jpeg(
    seed: int = 0,
    *,
    train_per_class: int = 400,
    validation_per_class: int = 100,
    test_per_class: int = 500,
    weights: str = "resnet20-jpeg-cifar10",
) -> Task:
    """Give the ResNet-20 tuned on the JPEG images: no shift is left, and it knows most training images by heart."""
    per_class = PerClass(train_per_class, validation_per_class, test_per_class)
    return _jpeg_task(released_network(resnet20, weights), "resnet20-jpeg", seed, per_class)


def resnet18_cifar10(
    seed: int = 0,
    *,
    root: str | Path | None = None,
    train_per_class: int = 4000,
    validation_per_class: int = 500,
    test_per_class: int = 500,
) -> Task:
    """Give a random ResNet-18, to be pre-trained, with CIFAR-10 from torchvision's `root`, or without one the JPEGs."""
    model = initialised(lambda: resnet18(10), seed)
    per_class = PerClass(train_per_class, validation_per_class, test_per_class)
    if root is None:
        return _jpeg_task(model, "resnet18-cifar10", seed, per_class)
    train, test = (_decoded(cifar10(root, train=is_train)) for is_train in (True, False))
    return image_task(model, "resnet18-cifar10", train, test, seed=seed, per_class=per_class)


def resnet18_cifar100(
    seed: int = 0,
    *,
    root: str | Path,
    train_per_class: int = 400,
    validation_per_class: int = 50,
    test_per_class: int = 100,
) -> Task:
    """Give a random ResNet-18, to be pre-trained, with CIFAR-100 from torchvision's `root`."""
    model = initialised(lambda: resnet18(100), seed)
    per_class = PerClass(train_per_class, validation_per_class, test_per_class)
    train, test = (_decoded(cifar100(root, train=is_train)) for is_train in (True, False))
    return image_task(model, "resnet18-cifar100", train, test, seed=seed, per_class=per_class)


def image_task(model: nn.Module, name: str, train: Source, test: Source, *, seed: int, per_class: PerClass) -> Task:
    """Draw shuffled, stratified train and validation sets from `train`, disjoint, and a test set from `test`.

    For one seed the train set of a smaller `per_class.train` is part of that of a larger one, and validation is fixed.
    """
    if train.classes != test.classes:
        raise ValueError(f"train and test must have the same classes, got {train.classes} and {test.classes}")
    draw_train, draw_test = (torch.Generator().manual_seed(seed) for _ in range(2))
    chosen, kept = stratified_indices(train.labels, per_class.train, per_class.validation, generator=draw_train)
    tested, _ = stratified_indices(test.labels, per_class.test, 0, generator=draw_test)
    validation = _select(train, kept) if per_class.validation else None
    return Task(model=model, train=_select(train, chosen), validation=validation, test=_select(test, tested), name=name)


def stratified_indices(labels: Tensor, first: int, second: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw two disjoint sets of indices with `first` and `second` of each class, each set shuffled over classes."""
    fewest = int(labels.bincount().min())
    if min(first, second) < 0 or first + second > fewest:
        raise ValueError(
            f"expected numbers per class of at least 0 that sum to at most {fewest}, the size of the smallest class; "
            f"got {first} and {second}"
        )
    front, back = [], []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        front.append(members[:first])
        back.append(members[len(members) - second :])
    shuffled_back = _shuffled(torch.cat(back), generator)
    return _shuffled(torch.cat(front), generator), shuffled_back


def released_network(build: Callable[[], nn.Module], weights: str) -> nn.Module:
    """Build a network and fill it from `weights`.safetensors in the data folder."""
    path = find_data_dir() / f"{weights}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: put the released weights there, or set EVOHBDE_DATA")
    return load_safetensors(initialised(build, 0), path)


def find_data_dir() -> Path:
    """Find the data folder: that of the variable EVOHBDE_DATA, or else `data` or `../shared/data` of the checkout."""
    if chosen := os.environ.get("EVOHBDE_DATA"):
        if not Path(chosen).is_dir():
            raise FileNotFoundError(f"EVOHBDE_DATA is {chosen!r}, which is not a folder; correct it or unset it")
        return Path(chosen)
    for folder in (REPOSITORY / "data", REPOSITORY.parent / "shared" / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        "no data folder: put cifar10-train.tar.xz, cifar10-test.tar.xz and the .safetensors weights into `data` "
        "at the root of the repository, or set EVOHBDE_DATA to the folder that has them"
    )


def load_image_archive(path: str | Path, *, limit_per_class: int | None = None) -> Images:
    """Load the images of a tar archive or folder of `CLASS/NNNN.jpg`, sorted by class; a limit keeps the first of each.

    One more folder around the classes is allowed. Nothing is extracted to disk; other members are ignored.
    """
    source = _encoded(read_encoded(path))
    wanted = torch.arange(len(source.labels))
    if limit_per_class is not None:
        if limit_per_class < 1:
            raise ValueError(f"`limit_per_class` must be at least 1, or None for all; got {limit_per_class}")
        starts = torch.searchsorted(source.labels, source.labels)  # where the class of each image begins
        wanted = wanted[wanted - starts < limit_per_class]
    return Images(source.take(wanted), source.labels[wanted], source.classes)


def read_encoded(path: str | Path) -> list[EncodedImage]:
    """Read the compressed images of a tar archive or folder, sorted by class and file name."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no images at {path}: put a .tar.xz or a folder with CLASS/NNNN.jpg there")
    try:
        found = sorted(_folder_images(path) if path.is_dir() else _archive_images(path))
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, struct.error, TypeError) as error:
        # The last two are what tarfile raises where the header of a compressed file is cut short.
        raise ValueError(f"{path} is damaged or no archive of images: {error}") from error
    if not found:
        raise ValueError(f"{path} holds no images; expected CLASS/NNNN.jpg")
    if len(parents := {image.parent for image in found}) > 1:
        raise ValueError(f"{path} holds several sets of images, {sorted(parents)}; pass one of them")
    return found


def cifar10(root: str | Path, *, train: bool = True, download: bool = False) -> Images:
    """Load the uncompressed CIFAR-10 with torchvision."""
    return _torchvision_images("CIFAR10", root, train, download)


def cifar100(root: str | Path, *, train: bool = True, download: bool = False) -> Images:
    """Load the uncompressed CIFAR-100 with torchvision."""
    return _torchvision_images("CIFAR100", root, train, download)


def normalise(images: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """Scale uint8 images to [0, 1], then each channel by its mean and deviation: float32 `(n, C, h, w)`."""
    if len(mean) != images.shape[1] or len(std) != images.shape[1]:
        raise ValueError(
            f"expected one mean and deviation for each of {images.shape[1]} channels, got {mean} and {std}"
        )
    centre, scale = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (mean, std))
    return (images / 255 - centre) / scale


def _jpeg_task(model: nn.Module, name: str, seed: int, per_class: PerClass) -> Task:
    folder = find_data_dir()
    train, test = (_encoded(read_encoded(_find_images(folder, f"cifar10-{part}"))) for part in ("train", "test"))
    return image_task(model, name, train, test, seed=seed, per_class=per_class)


def _find_images(folder: Path, stem: str) -> Path:
    for path in (folder / f"{stem}.tar.xz", folder / stem):
        if path.exists():
            return path
    raise FileNotFoundError(
        f"no {stem}.tar.xz in {folder}: put that archive of CLASS/NNNN.jpg, or a folder {stem} with the same, there, "
        "or set EVOHBDE_DATA to the folder that has it"
    )


def _encoded(found: list[EncodedImage]) -> Source:
    classes = sorted({image.class_name for image in found})
    labels = torch.tensor([classes.index(image.class_name) for image in found])
    return Source(labels, classes, lambda indices: _stack([_decode(found[i]) for i in indices.tolist()]))


def _decoded(data: Images) -> Source:
    return Source(data.labels, data.classes, lambda indices: data.images[indices])


def _select(source: Source, indices: Tensor) -> TensorData:
    return TensorData(normalise(source.take(indices)), source.labels[indices])


def _shuffled(indices: Tensor, generator: torch.Generator) -> Tensor:
    return indices[torch.randperm(len(indices), generator=generator)]


def _archive_images(path: Path) -> Iterator[EncodedImage]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.isfile() and (names := _names(member.name)) and (content := archive.extractfile(member)):
                yield EncodedImage(*names, content.read())


def _folder_images(path: Path) -> Iterator[EncodedImage]:
    for file in path.rglob("*"):
        if file.is_file() and not file.is_symlink() and (names := _names(file.relative_to(path).as_posix())):
            yield EncodedImage(*names, file.read_bytes())


def _names(name: str) -> tuple[str, str, str] | None:
    """Split `[parent/]CLASS/NNNN.jpg` into class, file and parent; None for any other path, such as ones with `..`."""
    parts = PurePosixPath(name).parts
    is_odd = any(part.startswith(".") or "\\" in part or "/" in part for part in parts)
    if is_odd or len(parts) not in (2, 3) or PurePosixPath(name).suffix.lower() not in SUFFIXES:
        return None
    return parts[-2], parts[-1], "/".join(parts[:-2])


def _decode(image: EncodedImage) -> Tensor:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading JPEG images needs Pillow: pip install 'evohbde[vision]'") from error
    name = f"{image.class_name}/{image.file_name}"
    try:
        with Image.open(io.BytesIO(image.content), formats=FORMATS) as picture:
            if picture.size != (SIZE, SIZE):
                raise ValueError(f"{name} is {picture.size} pixels, expected ({SIZE}, {SIZE}); resize it")
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow says of damaged files
        raise ValueError(f"{name} is damaged or no image: {error}") from error


def _stack(images: list[Tensor]) -> Tensor:
    return torch.stack(images) if images else torch.empty(0, 3, SIZE, SIZE, dtype=torch.uint8)


def _torchvision_images(name: str, root: str | Path, train: bool, download: bool) -> Images:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ImportError(f"{name} needs torchvision: pip install 'evohbde[vision]'") from error
    try:
        data = getattr(datasets, name)(root, train=train, download=download)
    except RuntimeError as error:  # torchvision's way of saying that the files are not there
        raise FileNotFoundError(
            f"no {name} in {root}: put torchvision's files there, or pass `download=True`"
        ) from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return Images(images, torch.tensor(data.targets), list(data.classes))
