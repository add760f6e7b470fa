"""How is one preset run on one task and written down?"""

from evohbde import Task, fine_tune
from evohbde.preset_base import Preset


def run(
    task: Task,
    label: str,
    preset: str | Preset,
    seed: int,
    *,
    num_evaluations: int | None = None,
    num_samples: float | None = None,
    compare_with_adam: bool = False,
) -> list[dict[str, object]]:
    """Fine-tune once; a row per network of the final table but the ones asked for elsewhere."""
    result = fine_tune(
        task.model,
        task.train,
        validation=task.validation,
        test=task.test,
        preset=preset,
        num_evaluations=num_evaluations,
        num_samples=num_samples,
        seed=seed,
        monitor=False,
        compare_with_adam=compare_with_adam,
    )
    rows = []
    for entry in result.entries:
        name = label if entry.name == result.preset.name else f"{label}: {entry.name}"
        rows.append(
            {
                "label": name,
                "seed": seed,
                "num_evaluations": result.num_evaluations,
                "num_samples": round(entry.num_samples),
                "f1_macro": round(entry.f1.value, 5),
                "accuracy": round(entry.scores["accuracy"], 5),
                "cross_entropy": round(entry.scores["cross_entropy"], 5),
                "accuracy_gain": round(entry.accuracy_gain.value, 5) if entry.accuracy_gain else 0.0,
                "gain_lower": round(entry.accuracy_gain.lower, 5) if entry.accuracy_gain else 0.0,
                "gain_upper": round(entry.accuracy_gain.upper, 5) if entry.accuracy_gain else 0.0,
                "notes": "; ".join(result.notes),
            }
        )
    return rows


def of(rows: list[dict[str, object]], label: str, column: str) -> list[float]:
    """One column of the rows with this label, in the order of seeds."""
    return [float(str(row[column])) for row in rows if row["label"] == label]
