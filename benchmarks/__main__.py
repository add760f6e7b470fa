"""Which measurement is to be run?"""

import logging
import warnings
from pathlib import Path

import torch
import typer

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


@app.callback()
def prepare() -> None:
    """Every measurement runs on one thread and writes to docs/."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)


@app.command()
def digits(network: str = "mlp", seeds: str = "0-4", suffix: str = "") -> None:
    """Presets and Adam on the shifted digits: 1 to 3 minutes."""
    from benchmarks.digits import measure

    measure(network, _seeds(seeds), suffix)


@app.command()
def ablation(seeds: str = "0-4") -> None:
    """Variants of both presets on the shifted digits: about 6 minutes."""
    from benchmarks.ablation import measure

    measure(_seeds(seeds))


@app.command()
def resnet20(seeds: str = "0-2") -> None:
    """Presets and Adam on ResNet-20 with the JPEG images: about 15 minutes."""
    from benchmarks.resnet20 import measure

    measure(_seeds(seeds))


@app.command()
def resnet56(seeds: str = "0-2") -> None:
    """The default on ResNet-56, a network that none of its constants was chosen on: about 15 minutes."""
    from benchmarks.resnet20 import confirm

    confirm(_seeds(seeds))


@app.command()
def fidelity() -> None:
    """Round trips of ResNet-20 and ResNet-56 through blocks: about 6 minutes."""
    from benchmarks.fidelity import measure

    measure()


@app.command()
def resnet18() -> None:
    """Blocking 11.2 million weights: seconds."""
    from benchmarks.resnet18 import measure

    measure()


@app.command()
def conformance(seeds: str = "0-10", long: bool = False, cause: bool = False) -> None:
    """Ours and others on classic functions: 20 minutes; `--long` at 10,000 D, `--cause` what peers do otherwise."""
    from benchmarks.conformance import measure, measure_cause, measure_long

    (measure_long if long else measure_cause if cause else measure)(_seeds(seeds))


@app.command()
def bbob(instances: str = "1-5", long: bool = False) -> None:
    """Expected running times on 12 functions of the BBOB suite: about 10 minutes; `--long` at 10,000 D."""
    from benchmarks.bbob import measure, measure_long

    (measure_long if long else measure)(_seeds(instances))


@app.command()
def overhead(repeats: int = 9) -> None:
    """What a generation costs beside a plain loop and others: 2 minutes, on a machine that does nothing else."""
    from benchmarks.overhead import measure

    measure(repeats)


@app.command()
def fronts(seeds: str = "50-60") -> None:
    """Hypervolume of our NSGA-II and MOEA/D and of pymoo's on ZDT1-4 and DTLZ2: about 5 minutes."""
    from benchmarks.fronts import measure

    measure(_seeds(seeds))


@app.command()
def searchers(seeds: str = "20-30") -> None:
    """Every searcher from the same start on the shifted digits, 2,000 evaluations each: about 15 minutes."""
    from benchmarks.searchers import measure

    measure(_seeds(seeds))


@app.command()
def speed(quick: bool = False) -> None:
    """Blocking, candidates and metrics beside limits and others: 5 minutes, on a machine that does nothing else."""
    from benchmarks.speed import measure

    measure(quick)


@app.command()
def racing(images: int = 1_000, popsize: int = 30, generations: int = 20, quick: bool = False) -> None:
    """What racing saves on ResNet-20, with the JPEG images: about 20 minutes, twice that with `--images 2000`."""
    from benchmarks.racing import measure

    measure(images, popsize, generations, quick)


@app.command()
def growth(quick: bool = False) -> None:
    """How cost grows with every size: about 3 minutes."""
    from benchmarks.growth import measure

    measure(is_quick=quick)


@app.command()
def gpu(device: str = "cuda", quick: bool = False) -> None:
    """Candidates on one accelerator beside its own limits: minutes."""
    from benchmarks.gpu import measure

    measure(device, quick)


@app.command()
def pruning(
    network: str = "resnet20",
    seeds: str = "0-2",
    num_evaluations: int = 400,
    images: int = 250,
    fresh: int = 1_000,
    test: int = 5_000,
    repair: int = 6_000,
) -> None:
    """What search adds to pruning by magnitude, on `resnet20`, `shifted-resnet20` or `-56`: 12 minutes a seed."""
    from benchmarks.pruning import Sizes, measure

    measure(network, _seeds(seeds), Sizes(num_evaluations, images, fresh, test, repair))


@app.command()
def compression(network: str = "digits", seeds: str = "0-2") -> None:
    """Bytes and scores of each form of `digits` (a minute a seed), `resnet20` or `shifted-resnet20` (20 minutes)."""
    from benchmarks.compression import measure

    measure(network, _seeds(seeds))


@app.command()
def structured(
    seeds: str = "0-2", num_evaluations: int = 300, images: int = 300, fresh: int = 2_000, test: int = 5_000
) -> None:
    """Channels of ResNet-20 cut and what is left fitted: size, time and accuracy; five minutes a seed."""
    from benchmarks.structured import run

    run(_seeds(seeds), num_evaluations, images, fresh, test)


@app.command("sparse-blocks")
def sparse_blocks(test: int = 5_000) -> None:
    """Zeroing blocks of signed weights against blocks of their sizes, on the networks of `pruning`: three minutes."""
    from benchmarks.sparse_blocks import measure

    measure(test // 10)


@app.command()
def actors(repeats: int = 5, times: bool = True) -> None:
    """Bytes that travel to Ray actors, and generations without and with them: 3 minutes, on a quiet machine."""
    from benchmarks.actors import measure

    measure(repeats, times)


@app.command()
def memory(repeats: int = 3) -> None:
    """Peak memory of 1,000 candidates of ResNet-18, and growth over 10,000 generations: 3 minutes each time."""
    from benchmarks.memory import measure

    measure(repeats)


@app.command()
def soak(minutes: float = 60.0, seed: int = 0) -> None:
    """Runs of the commands that are stopped, continued and short of memory, beside ones that are not: an hour."""
    from benchmarks.soak import measure

    measure(minutes, seed)


@app.command()
def distillation(lesson: str = "digits", seeds: str = "0-4") -> None:
    """What a teacher adds for a small network, on `digits` or `cifar`, with and without gradients: 10 minutes each."""
    from benchmarks.distillation import measure

    measure(lesson, _seeds(seeds))


@app.command("study-digits")
def study_digits(
    network: str = "shifted_mlp",
    seeds: str = "31-41",
    num_evaluations: int = 500,
    all_searchers: bool = False,
    out: Path | None = None,
    num_workers: int | None = None,
) -> None:
    """Seven searchers with eight reductions on the digits, `mlp`, `shifted_mlp`, `cnn` or `shifted_cnn`: 10 minutes."""
    from benchmarks.studies.digits import measure

    measure(network, _seeds(seeds), num_evaluations, all_searchers, out, num_workers)


@app.command()
def kill(times: int = 50) -> None:
    """Runs that are killed so many times and resumed, beside undisturbed ones: about 10 minutes."""
    from benchmarks.kill import measure

    measure(times)


@app.command("study-ablations")
def study_ablations(
    seeds: str = "31-41", num_evaluations: int = 500, out: Path | None = None, num_workers: int | None = None
) -> None:
    """Number of bins, mode, grouping, step size, super-batches and objective, one by one: 15 minutes."""
    from benchmarks.studies.ablations import measure

    measure(_seeds(seeds), num_evaluations, out, num_workers)


@app.command("study-resnet18")
def study_resnet18(
    network: str = "resnet18",
    datasets: str = "cifar10,cifar100",
    seeds: str = "0-4",
    device: str = "cpu",
    num_evaluations: int = 5_000,
    epochs: int = 10,
    images: int | None = None,
    root: Path | None = None,
    out: Path | None = None,
) -> None:
    """The published table: Adam, round trip, DE, HBDE and ours, on `resnet18` or `resnet20`; hours on a GPU."""
    from benchmarks.studies.published import Study, measure

    study = Study(network, tuple(datasets.split(",")), num_evaluations, epochs, images, device, root)
    measure(study, _seeds(seeds), out)


@app.command()
def pages() -> None:
    """Put the tables measured last into README.md and the documentation, and write the page of examples anew."""
    from benchmarks.gallery import write_gallery
    from benchmarks.tables import fill_pages

    fill_pages()
    write_gallery()


if __name__ == "__main__":
    app()
