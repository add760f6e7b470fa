"""Which measurement is to be run?"""

import logging
import warnings

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
def pages() -> None:
    """Put the tables measured last into README.md and the documentation."""
    from benchmarks.tables import fill_pages

    fill_pages()


if __name__ == "__main__":
    app()
