"""Does blocking alone cost quality?"""

from functools import partial

from benchmarks.tables import markdown, publish, write_csv
from evohbde import HistogramBlocking, KMeansBlocking, ParameterLayout, QuantileBlocking, score
from problems.cifar import shifted_resnet20, shifted_resnet56

SCHEMES = {
    "histogram, 10,000 bins": partial(HistogramBlocking, num_bins=10_000),
    "histogram, 10,000 bins, rule authors": partial(HistogramBlocking, num_bins=10_000, rule="authors"),
    "histogram, 1,000 bins": partial(HistogramBlocking, num_bins=1_000),
    "histogram, 100 bins": partial(HistogramBlocking, num_bins=100),
    "k-means, 100 blocks": partial(KMeansBlocking, num_blocks=100),
    "quantiles, 1,000 blocks": partial(QuantileBlocking, num_blocks=1_000),
}


def measure() -> None:
    """Macro-F1 of the round trip on all held-out images."""
    rows: list[dict[str, object]] = []
    for name, factory in (("ResNet-20", shifted_resnet20), ("ResNet-56", shifted_resnet56)):
        task = factory(seed=0, train_per_class=1)
        layout = ParameterLayout(task.model)
        theta0 = layout.flatten(task.model)
        base = score(task.model, task.test)["f1_macro"]
        for scheme, make in SCHEMES.items():
            blocks = make(theta0)
            layout.load_(task.model, blocks.expand(blocks.center))
            found = score(task.model, task.test)["f1_macro"]
            rows.append(
                {"network": name, "scheme": scheme, "blocks": blocks.dim, "f1_macro": found, "change": found - base}
            )
            print(rows[-1], flush=True)
        layout.load_(task.model, theta0)
    write_csv("fidelity", rows)
    table = markdown(
        ["network", "scheme", "blocks", "held-out macro-F1", "change"],
        [
            [str(r["network"]), str(r["scheme"]), f"{r['blocks']:,}", f"{r['f1_macro']:.4f}", f"{r['change']:+.4f}"]
            for r in rows
        ],
    )
    publish("fidelity", table, "python -m benchmarks fidelity")
