"""Digits: do our defaults beat the published method on held-out data, and how far is Adam?"""

from benchmarks.runs import of, run
from benchmarks.tables import markdown, publish, spread, write_csv
from evohbde.hbde_2024 import HBDE2024
from problems.digits import shifted_cnn, shifted_mlp

CASES = (
    ("default, 500 evaluations", "default", 500),
    ("default, 5,000 evaluations", "default", 5_000),
    ("hbde-2024 (10,000 bins), 5,000 evaluations", "hbde-2024", 5_000),
    ("hbde-2024 with 100 bins, 5,000 evaluations", HBDE2024(num_bins=100), 5_000),
)
ADAM = "default, 5,000 evaluations: Adam, same forwards"
EARLY_ADAM = "default, 500 evaluations: Adam, same forwards"
UNTOUCHED = "default, 500 evaluations: untouched"


def measure(name: str, seeds: list[int], suffix: str = "") -> None:
    """All cases on one network of the shifted digits; a suffix keeps tables of other seeds apart."""
    factory = {"mlp": shifted_mlp, "cnn": shifted_cnn}[name]
    rows: list[dict[str, object]] = []
    for seed in seeds:
        task = factory(seed=seed)
        for label, preset, num_evaluations in CASES:
            is_ours = preset == "default"
            rows += run(task, label, preset, seed, num_evaluations=num_evaluations, compare_with_adam=is_ours)
            print(f"seed {seed}, {label}: macro-F1 {of(rows, label, 'f1_macro')[-1]:.3f}", flush=True)
    write_csv(f"digits-{name}{suffix}", rows)
    names = {
        UNTOUCHED: "untouched",
        ADAM: "Adam, same sample forwards as 5,000",
        EARLY_ADAM: "Adam, same sample forwards as 500",
    }
    labels = [UNTOUCHED, *(label for label, _, _ in CASES), EARLY_ADAM, ADAM]
    table = markdown(
        ["network", "held-out macro-F1", *(f"seed {seed}" for seed in seeds), "sample forwards"],
        [
            [
                names.get(label, label),
                spread(of(rows, label, "f1_macro")),
                *(f"{value:.3f}" for value in of(rows, label, "f1_macro")),
                f"{of(rows, label, 'num_samples')[0]:,.0f}",
            ]
            for label in labels
        ],
    )
    options = f" --seeds {seeds[0]}-{seeds[-1]} --suffix={suffix}" if suffix else ""
    publish(f"digits-{name}{suffix}", table, f"python -m benchmarks digits --network {name}{options}")
