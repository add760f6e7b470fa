"""ResNet-20 on JPEG-shifted CIFAR-10: how much accuracy per sample forward?"""

from benchmarks.runs import of, run
from benchmarks.studies.published import AllWeights
from benchmarks.tables import markdown, publish, spread, write_csv
from evohbde.hbde_2024 import HBDE2024
from evohbde.preset_base import Preset
from evohbde.staged import Staged
from problems.cifar import shifted_resnet20, shifted_resnet56

BUDGETS = (5_000, 30_000)


def measure(seeds: list[int]) -> None:
    """Both presets and Adam at both budgets, then our stages one by one."""
    rows: list[dict[str, object]] = []
    for seed in seeds:
        task = shifted_resnet20(seed=seed, train_per_class=1_500)
        for label, preset, budget in _cases():
            rows += run(task, label, preset, seed, num_samples=budget, compare_with_adam=label.startswith("default,"))
            print(f"seed {seed}, {label}: gain {100 * of(rows, label, 'accuracy_gain')[-1]:+.2f} points", flush=True)
    write_csv("resnet20", rows)
    labels = [label for label, _, _ in _cases()]
    for place, budget in ((1, 5_000), (4, 30_000)):
        labels.insert(place, f"default, {budget:,}: Adam, same forwards")
    publish("resnet20", _table(rows, labels, seeds), "python -m benchmarks resnet20")


def confirm(seeds: list[int]) -> None:
    """The default on ResNet-56, with the constants that were chosen on ResNet-20."""
    rows: list[dict[str, object]] = []
    cases: list[tuple[str, str | Preset, int]] = [(f"default, {budget:,}", "default", budget) for budget in BUDGETS]
    for seed in seeds:
        task = shifted_resnet56(seed=seed, train_per_class=1_500)
        for label, preset, budget in cases:
            rows += run(task, label, preset, seed, num_samples=budget, compare_with_adam=True)
            print(f"seed {seed}, {label}: gain {100 * of(rows, label, 'accuracy_gain')[-1]:+.2f} points", flush=True)
    write_csv("resnet56", rows)
    labels = [name for label, _, _ in cases for name in (label, f"{label}: Adam, same forwards")]
    publish("resnet56", _table(rows, labels, seeds), "python -m benchmarks resnet56")


def _cases() -> list[tuple[str, str | Preset, int]]:
    published = HBDE2024(batch_size=128)
    cases: list[tuple[str, str | Preset, int]] = []
    for budget in BUDGETS:
        cases += [(f"default, {budget:,}", "default", budget), (f"hbde-2024, {budget:,}", published, budget)]
    return [
        *cases,
        ("DE on all weights, 30,000", AllWeights(batch_size=128), 30_000),
        ("only statistics, 30,000", Staged(parts=("statistics",)), 30_000),
        ("only front norms, 30,000", Staged(parts=("front norms",)), 30_000),
        ("only head, 30,000", Staged(parts=("head",)), 30_000),
    ]


def _table(rows: list[dict[str, object]], labels: list[str], seeds: list[int]) -> str:
    body = []
    for label in labels:
        gains = [100 * gain for gain in of(rows, label, "accuracy_gain")]
        lower, upper = of(rows, label, "gain_lower"), of(rows, label, "gain_upper")
        body.append(
            [
                label.replace("default, 5,000: Adam, same forwards", "Adam, 5,000").replace(
                    "default, 30,000: Adam, same forwards", "Adam, 30,000"
                ),
                spread(gains, 2),
                *(
                    f"{gain:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
                    for gain, low, high in zip(gains, lower, upper, strict=True)
                ),
                f"{max(of(rows, label, 'num_samples')):,.0f}",
            ]
        )
    head = ["network, limit of sample forwards", "gain in accuracy, points"]
    return markdown([*head, *(f"seed {seed} [95 %]" for seed in seeds), "spent"], body)
