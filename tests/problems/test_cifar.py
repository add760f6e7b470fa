"""Are images read safely and in the order of CIFAR, and do the released networks score as stated?"""

import io
import tarfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("PIL", reason="images are decoded with Pillow")

from PIL import Image

from problems import cifar

NAMES = ["truck/0001.jpg", "airplane/0000.jpg", "truck/0000.jpg", "airplane/0002.jpg", "airplane/0001.jpg"]


def jpeg(shade: int, size: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (shade, shade, shade)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_archive(path: Path, members: dict[str, bytes], links: tuple[str, ...] = ()) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    return path


def write_folder(path: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.fixture
def members() -> dict[str, bytes]:
    return {f"train/{name}": jpeg(20 * index) for index, name in enumerate(NAMES)}


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> Path:
    """A data folder with 6 training and 3 test images of each of two classes."""
    for part, num in (("train", 6), ("test", 3)):
        names = [f"{part}/{kind}/{index:04}.jpg" for kind in ("airplane", "truck") for index in range(num)]
        write_archive(tmp_path / f"cifar10-{part}.tar.xz", {name: jpeg(10 * i) for i, name in enumerate(names)})
    monkeypatch.setenv("EVOHBDE_DATA", str(tmp_path))
    return tmp_path


def test_images_are_sorted_by_class_and_name_whatever_the_order_in_the_archive(tmp_path, members):
    images, labels, classes = cifar.load_image_archive(write_archive(tmp_path / "a.tar.xz", members))
    assert images.shape == (5, 3, 32, 32) and images.dtype == torch.uint8
    assert classes == ["airplane", "truck"] and labels.tolist() == [0, 0, 0, 1, 1] and labels.dtype == torch.int64
    assert images[:, 0, 0, 0].tolist() == [20, 80, 60, 40, 0]


def test_a_folder_gives_what_the_archive_gives(tmp_path, members):
    archive = cifar.load_image_archive(write_archive(tmp_path / "a.tar.xz", members))
    folder = cifar.load_image_archive(write_folder(tmp_path / "images", members))
    assert torch.equal(archive.images, folder.images) and torch.equal(archive.labels, folder.labels)
    assert archive.classes == folder.classes


def test_limit_keeps_the_first_of_each_class(tmp_path, members):
    path = write_archive(tmp_path / "a.tar.xz", members)
    images, labels, _ = cifar.load_image_archive(path, limit_per_class=1)
    assert images[:, 0, 0, 0].tolist() == [20, 40] and labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"`limit_per_class` must be at least 1.*got 0"):
        cifar.load_image_archive(path, limit_per_class=0)


def test_hostile_and_odd_members_are_ignored_and_nothing_is_written(tmp_path, members):
    hostile = ["../evil.jpg", "a/../evil.jpg", "/tmp/evil.jpg", "train/..\\evil/0.jpg", "x/y/z/evil.jpg", "evil.jpg"]
    odd = ["train/airplane/._0000.jpg", "train/airplane/readme.txt"]
    plain = write_archive(tmp_path / "plain.tar.xz", members)
    polluted = members | {name: jpeg(255) for name in hostile + odd}
    mixed = write_archive(tmp_path / "mixed.tar.xz", polluted, links=("train/airplane/9999.jpg",))
    before = sorted(tmp_path.rglob("*"))
    assert torch.equal(cifar.load_image_archive(mixed).images, cifar.load_image_archive(plain).images)
    assert sorted(tmp_path.rglob("*")) == before and not (tmp_path.parent / "evil.jpg").exists()


def test_errors_name_the_path_and_the_remedy(tmp_path, members):
    with pytest.raises(FileNotFoundError, match=r"no images at .*nowhere.*put a .tar.xz"):
        cifar.load_image_archive(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no images; expected CLASS/NNNN.jpg"):
        cifar.load_image_archive(write_archive(tmp_path / "empty.tar.xz", {}))
    large = write_archive(tmp_path / "large.tar.xz", {"cat/0000.jpg": jpeg(0, size=40)})
    with pytest.raises(ValueError, match=r"cat/0000.jpg is \(40, 40\) pixels"):
        cifar.load_image_archive(large)
    both = members | {"test/airplane/0000.jpg": jpeg(0)}
    with pytest.raises(ValueError, match=r"several sets of images, .*'test', 'train'"):
        cifar.load_image_archive(write_archive(tmp_path / "both.tar.xz", both))


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b\x08", b"\x1f\x8b\x08\x00\x00\x00", b"BZh9", b"\xfd7zXZ\x00", b"no archive"], ids=repr
)
def test_an_archive_that_is_cut_short_is_refused_in_words(content, tmp_path):
    path = tmp_path / "images.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"images\.tar\.gz (is damaged or no archive of images|holds no images)"):
        cifar.load_image_archive(path)


def test_normalise_maps_the_mean_to_zero_and_one_deviation_to_one():
    images = torch.tensor([51, 102, 204], dtype=torch.uint8).view(1, 3, 1, 1)
    out = cifar.normalise(images, (0.2, 0.3, 0.5), (1.0, 0.1, 0.3))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"each of 3 channels"):
        cifar.normalise(images, (0.5,), (0.2,))


def test_stratified_indices_are_disjoint_stratified_shuffled_and_nested():
    labels = torch.arange(5).repeat_interleave(40)

    def draw(first: int, seed: int = 0):
        return cifar.stratified_indices(labels, first, 10, generator=torch.Generator().manual_seed(seed))

    (small, kept), (large, kept_again) = draw(5), draw(30)
    assert labels[large].bincount().tolist() == [30] * 5 and labels[kept].bincount().tolist() == [10] * 5
    assert not set(large.tolist()) & set(kept.tolist())
    assert set(small.tolist()) <= set(large.tolist()) and torch.equal(kept, kept_again)
    assert not torch.equal(labels[large], labels[large].sort().values)
    assert torch.equal(draw(30)[0], large) and not torch.equal(draw(30, seed=1)[0], large)


@pytest.mark.parametrize(("first", "second"), [(35, 10), (-1, 10)])
def test_more_images_than_there_are_is_refused(first, second):
    labels = torch.arange(5).repeat_interleave(40)
    with pytest.raises(ValueError, match=f"at most 40.*got {first} and {second}"):
        cifar.stratified_indices(labels, first, second, generator=torch.Generator())


def test_data_are_looked_for_where_the_variable_says(data_dir, monkeypatch):
    assert cifar.find_data_dir() == data_dir
    monkeypatch.setenv("EVOHBDE_DATA", str(data_dir / "absent"))
    with pytest.raises(FileNotFoundError, match=r"EVOHBDE_DATA is .*absent"):
        cifar.find_data_dir()


def test_missing_weights_and_images_say_what_to_put_where(data_dir):
    with pytest.raises(FileNotFoundError, match=r"no resnet20-cifar10.safetensors in .*put the released weights there"):
        cifar.shifted_resnet20()
    pytest.importorskip("torchvision", reason="ResNet-18 is torchvision's")
    (data_dir / "cifar10-test.tar.xz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no cifar10-test.tar.xz in .*put that archive"):
        cifar.resnet18_cifar10()
    with pytest.raises(FileNotFoundError, match=r"no CIFAR100 in .*`download=True`"):
        cifar.cifar100(data_dir)


def test_a_task_has_the_asked_for_sizes_and_the_weights_of_its_seed(data_dir):
    pytest.importorskip("torchvision", reason="ResNet-18 is torchvision's")
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    sizes = {"train_per_class": 4, "validation_per_class": 2, "test_per_class": 3}
    task, again = (cifar.resnet18_cifar10(seed=1, **sizes) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert [len(data) for data in (task.train, task.validation, task.test)] == [8, 4, 6]
    assert task.train.x.dtype == torch.float32 and task.train.x.shape[1:] == (3, 32, 32)
    assert torch.equal(task.train.x, again.train.x) and torch.equal(task.test.y, again.test.y)
    assert torch.equal(task.model.conv1.weight, again.model.conv1.weight)
    assert cifar.resnet18_cifar10(train_per_class=1, validation_per_class=0, test_per_class=1).validation is None


@pytest.mark.parametrize(
    ("factory", "low", "high"),
    [(cifar.shifted_resnet20, 0.75, 0.86), (cifar.resnet20_jpeg, 0.83, 0.92), (cifar.shifted_resnet56, 0.78, 0.89)],
)
def test_released_networks_score_as_stated_on_500_test_images(factory, low, high):
    try:
        task = factory(train_per_class=10, validation_per_class=10, test_per_class=50)
    except FileNotFoundError as error:
        pytest.skip(f"the released data are not here: {error}")
    with torch.no_grad():
        accuracy = (task.model(task.test.x).argmax(1) == task.test.y).double().mean().item()
    assert low <= accuracy <= high
    assert task.train.y.bincount().tolist() == [10] * 10 and task.test.y.bincount().tolist() == [50] * 10


def test_the_released_order_of_classes_is_that_of_torchvision():
    try:
        path = cifar.find_data_dir() / "cifar10-test.tar.xz"
        classes = cifar.load_image_archive(path, limit_per_class=1).classes
    except FileNotFoundError as error:
        pytest.skip(f"the released data are not here: {error}")
    assert classes == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
