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
    """Ours and others' searchers on classic functions: 20 minutes; `--long` 10,000 D, `--cause` JADE's draw of F."""
    from benchmarks.conformance import measure, measure_cause, measure_long

    (measure_long if long else measure_cause if cause else measure)(_seeds(seeds))


@app.command()
def bbob(instances: str = "1-5") -> None:
    """Expected running times on 12 functions of the BBOB suite: about 15 minutes."""
    from benchmarks.bbob import measure

    measure(_seeds(instances))


@app.command()
def overhead(repeats: int = 9) -> None:
    """What a generation costs beside a plain loop and others: 2 minutes, on a machine that does nothing else."""
    from benchmarks.overhead import measure

    measure(repeats)


@app.command()
def fronts(seeds: str = "0-10") -> None:
    """Hypervolume of our NSGA-II and MOEA/D and of pymoo's on ZDT1-4 and DTLZ2: about 5 minutes."""
    from benchmarks.fronts import measure

    measure(_seeds(seeds))


@app.command()
def searchers(seeds: str = "20-30") -> None:
    """Every searcher from the same start on the shifted digits, 2,000 evaluations each: about 15 minutes."""
    from benchmarks.searchers import measure

    measure(_seeds(seeds))


@app.command()
def pages() -> None:
    """Put the tables measured last into README.md and docs/results.md."""
    from benchmarks.tables import fill_pages

    fill_pages()


if __name__ == "__main__":
    app()
