"""Do the studies run from their first image to their tables, and go on where they stopped?"""

import json

import pytest
import torch

from benchmarks import tables
from benchmarks.studies import ablations, digits, published
from evohbde import Task, TensorData
from evohbde.hbde_2024 import HBDE2024
from problems.networks import initialised, resnet20


@pytest.fixture(autouse=True)
def own_pages(tmp_path, monkeypatch):
    """Tables go to a folder of the test."""
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(tables, "PAGES", ())


def few_images(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0] * 17 + [1, 2, 3])  # so uneven that guessing is no sign of an untrained network
    parts = [TensorData(torch.rand(20, 3, 32, 32, generator=generator), labels) for _ in range(3)]
    return Task(initialised(resnet20, seed), parts[0], validation=parts[1], test=parts[2])


def test_the_published_table_is_made_from_few_images_and_goes_on(tmp_path, monkeypatch, capsys):
    cases = {
        "DE, all weights": published.AllWeights(popsize=4),
        "HBDE": HBDE2024(num_bins=20, popsize=4, batch_size=20),
    }
    monkeypatch.setattr(published.Study, "cases", cases)
    monkeypatch.setattr(
        published.Study, "task", lambda self, dataset, seed: few_images(seed) if dataset == "cifar10" else None
    )
    study = published.Study("resnet20", num_evaluations=4, epochs=1)
    published.measure(study, [0], tmp_path / "out")
    text = (tmp_path / "published" / "study-resnet20.md").read_text()
    for label in (
        "| Adam |",
        "| HBDE |",
        "| HBDE: blocked only |",
        "| DE, all weights |",
        "| cifar100 | not run here |",
    ):
        assert label in text
    records = sorted((tmp_path / "out").glob("*.json"))
    assert len(records) == 2 and json.loads(records[0].read_text())[0]["dataset"] == "cifar10"
    capsys.readouterr()
    published.measure(study, [0], tmp_path / "out")
    assert "macro-F1 0" not in capsys.readouterr().out


def test_cifar100_needs_its_images_and_a_wrong_network_is_named(tmp_path):
    assert published.Study().task("cifar100", 0) is None
    with pytest.raises(ValueError, match="'resnet18' or 'resnet20', got 'vgg'"):
        published.measure(published.Study("vgg"), [0], tmp_path)


def test_all_searchers_stand_in_order_with_what_is_shown_against_de(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "every_searcher", lambda: {"DE": "DE", **digits.SEARCHERS})
    monkeypatch.setattr(digits, "SEARCHERS", {name: digits.SEARCHERS[name] for name in ("Adam", "random search")})
    monkeypatch.setattr(digits, "REDUCTIONS", {name: digits.REDUCTIONS[name] for name in ("offset blocks", "head")})
    digits.measure("shifted_mlp", [0, 1], 40, all_searchers=True, out=tmp_path / "out", num_workers=1)
    lines = (tmp_path / "published" / "study-digits-shifted-mlp-all.md").read_text().splitlines()
    rows = {line.split(" | ")[0][2:]: line.split(" | ")[1:] for line in lines if line.startswith("| ")}
    assert list(rows)[-1] == "untouched"
    medians = [float(row[1].split()[0]) for row in list(rows.values())[2:5]]
    assert medians == sorted(medians, reverse=True)
    assert rows["DE"][0] == ""
    assert rows["Adam"][0] == "not shown (ahead on 2 of 2, p = 1)"
    assert any(line.startswith("- Of 3 pairs of offset blocks and another reduction") for line in lines)


def test_the_digits_study_fills_a_cell_for_every_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "SEARCHERS", {"SNES": digits.SEARCHERS["SNES"], "Adam": digits.SEARCHERS["Adam"]})
    monkeypatch.setattr(digits, "REDUCTIONS", {name: digits.REDUCTIONS[name] for name in ("offset blocks", "head")})
    digits.measure("shifted_mlp", [0], 40, out=tmp_path / "out", num_workers=1)
    text = (tmp_path / "published" / "study-digits-shifted-mlp.md").read_text()
    assert "failed" not in text and "| searcher | offset blocks | head |" in text and "| untouched |" in text
    lines = (tmp_path / "docs" / "results" / "study-digits-shifted-mlp.csv").read_text().splitlines()
    assert len(lines) == 1 + 4


def test_every_searcher_of_the_study_can_be_named():
    assert len(digits.every_searcher()) >= 25
    assert not set(digits.SLOW) & set(digits.every_searcher())


def test_ablations_put_settings_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(
        ablations,
        "BATCHES",
        {
            label: settings
            for label, settings in ablations.BATCHES.items()
            if settings["parents"] == "stale" or "all" in label
        },
    )
    options = {"seeds": [0], "num_evaluations": 50, "num_workers": 1}
    found = ablations._batches(tmp_path, options)
    assert found.methods == [f"DE, {label}" for label in ablations.BATCHES]
    assert found.num_missing == 0 and all(len(one) == 1 for one in found.scores("f1_macro").values())
    samples = {run["searcher"]: run["num_samples_seen"] for run in found.runs}
    assert samples["DE, 100 samples, parents stale"] * 3 == samples["DE, all 300 samples"]
