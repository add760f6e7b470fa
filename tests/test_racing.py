"""Is no candidate ever given up that could still have won, and is what is scored to the end scored exactly?"""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional

from evohbde.evaluator import NetworkEvaluator
from evohbde.layout import ParameterLayout
from evohbde.objectives import F1, Accuracy, BalancedAccuracy, CrossEntropy, Error, Objective, SmoothF1
from evohbde.problem import NetworkProblem
from evohbde.racing import Contest, Racer, SampleOrder
from evohbde.reductions import RandomBlocking
from tests.small_networks import digits, mlp

COUNTED: dict[str, Objective] = {
    "f1_macro, present": F1(),
    "f1_macro, all": F1(classes="all"),
    "f1_weighted": F1("weighted"),
    "f1_micro": F1("micro"),
    "accuracy": Accuracy(),
    "error": Error(),
    "balanced_accuracy": BalancedAccuracy(),
}
LOSSES = {"cross_entropy": CrossEntropy(), "smoothed": CrossEntropy(label_smoothing=0.1)}
OBJECTIVES = COUNTED | LOSSES | {"smooth_f1": SmoothF1(), "smooth_f1, dear": SmoothF1(0.5)}

OF_SCIKIT_LEARN = {
    "f1_macro, present": lambda y, p, C: f1_score(y, p, average="macro", zero_division=0),
    "f1_macro, all": lambda y, p, C: f1_score(y, p, average="macro", labels=range(C), zero_division=0),
    "f1_weighted": lambda y, p, C: f1_score(y, p, average="weighted", zero_division=0),
    "f1_micro": lambda y, p, C: f1_score(y, p, average="micro", zero_division=0),
    "accuracy": lambda y, p, C: accuracy_score(y, p),
    "error": lambda y, p, C: 1 - accuracy_score(y, p),
    "balanced_accuracy": lambda y, p, C: balanced_accuracy_score(y, p),
}


def compositions(total: int, cells: int) -> Tensor:
    """All ways to share `total` samples among cells: `(n, cells)`."""
    rows = []
    for bars in itertools.combinations(range(total + cells - 1), cells - 1):
        edges = (-1, *bars, total + cells - 1)
        rows.append([right - left - 1 for left, right in itertools.pairwise(edges)])
    return torch.tensor(rows)


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize(("num_classes", "most"), [(2, 6), (3, 5)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_bound_is_the_best_of_all_completions(name, num_classes, most):
    objective, cells = COUNTED[name], num_classes**2
    sign = 1 if objective.sense == "max" else -1
    for num in range(1, most + 1):
        both = compositions(num, 2 * cells)
        seen, rest = both[:, :cells], both[:, cells:].view(-1, num_classes, num_classes)
        counts = seen.view(-1, num_classes, num_classes)
        scores = sign * objective.of_counts(counts + rest)
        bound = sign * objective.of_counts(counts + torch.diag_embed(rest.sum(-1)))
        assert bool((scores <= bound).all())
        # One group for each state of a race: what was seen, and how many of each class are left.
        states, group = torch.cat([seen, rest.sum(-1)], 1).unique(dim=0, return_inverse=True)
        best = torch.full((len(states),), -math.inf, dtype=torch.float64).scatter_reduce(0, group, scores, "amax")
        assert torch.equal(best[group], bound)


@pytest.mark.parametrize("name", COUNTED)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), num_classes=st.integers(2, 40), num=st.integers(2, 600), skill=st.floats(0, 1))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bounds_of_a_race_fall_towards_the_score_of_scikit_learn(name, seed, num_classes, num, skill):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, generator.integers(1, num_classes + 1), num)  # so that some classes may be absent
    predicted = np.where(generator.random(num) < skill, labels, generator.integers(0, num_classes, num))
    objective = COUNTED[name]
    score = OF_SCIKIT_LEARN[name](labels, predicted, num_classes)
    sign, before = (1 if objective.sense == "max" else -1), math.inf
    for seen in range(0, num, max(1, num // 7)):
        counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        np.add.at(counts.numpy(), (labels[:seen], predicted[:seen]), 1)
        left = torch.from_numpy(np.bincount(labels[seen:], minlength=num_classes))
        racer = Racer(objective, torch.from_numpy(labels), num_classes, torch.float32)
        bound = sign * racer.bound(counts, left, 0.0)
        assert sign * score <= bound <= before + 1e-11
        before = bound


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    num=st.integers(1, 3_000),
    num_classes=st.integers(2, 30),
    scale=st.sampled_from([0.01, 1.0, 10.0, 30.0, 1e3]),
    skill=st.sampled_from([0.0, 1.0, 18.0, 100.0]),
)
def test_a_loss_in_float32_never_falls_below_its_bound(name, seed, num, num_classes, scale, skill):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=generator)
    logits = scale * torch.randn(num, num_classes, generator=generator)
    logits += skill * functional.one_hot(labels, num_classes)  # so that losses may lie below the last bit of 1
    objective = LOSSES[name]
    score = float(objective(logits[None], labels).float())
    by_hand = functional.cross_entropy(
        logits.double(), labels, reduction="sum", label_smoothing=objective.label_smoothing
    )
    total = objective.total_loss(logits, labels)
    assert total == pytest.approx(float(by_hand), rel=1e-5, abs=num * 1e-6 * (1 + scale))
    racer = Racer(objective, labels, num_classes, torch.float32)
    none = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    assert not racer.is_lost(racer.bound(none, none[0], total), score)
    for half in (num // 2, num // 3):
        parts = objective.total_loss(logits[:half], labels[:half]) if half else 0.0
        assert 0 <= parts <= total * (1 + 1e-9)


DATA = digits(224)
ABSENT = DATA.subset((DATA.y < 6).nonzero()[:, 0][:100])
EVERYTHING = slice(0, 224)


def evaluator_of(objective: Objective, data=DATA) -> NetworkEvaluator:
    network = mlp().eval()
    layout = ParameterLayout(network)
    reduction = RandomBlocking(layout.flatten(network), 25)
    return NetworkEvaluator(network, layout, reduction, [objective], data, strategy="views", batch_size=32)


def candidates(evaluator: NetworkEvaluator, generator: torch.Generator, num: int = 10) -> Tensor:
    """Near ones and far ones, two that are equal, and one that is broken."""
    noise = torch.randn(num, evaluator.reduction.dim, generator=generator)
    z = evaluator.reduction.center + noise * torch.logspace(-3, 0.3, num)[:, None]
    z[1] = z[0]
    z[torch.randint(2, num, (), generator=generator)] = math.nan
    return z


EVALUATORS = {
    (name, kind): [evaluator_of(objective, data) for _ in range(2)]
    for name, objective in OBJECTIVES.items()
    for kind, data in {"digits": DATA, "absent classes": ABSENT}.items()
}


def contest_of(final: Tensor, generator: torch.Generator) -> Contest:
    """Thresholds at, next to and far from the scores, or none; some rivals."""
    num = len(final)
    pick = torch.randint(num, (num,), generator=generator)
    direction = torch.tensor([-math.inf, math.inf])[torch.randint(2, (num,), generator=generator)]
    kinds = torch.stack(
        [
            final,
            torch.nextafter(final, direction),
            final[pick],
            final + 0.1 * torch.randn(num, generator=generator),
            torch.full((num,), math.nan),
            direction,
        ]
    )
    threshold = kinds[torch.randint(len(kinds), (num,), generator=generator), torch.arange(num)]
    rival = torch.full((num,), -1)
    rival[-3:] = torch.randint(num - 3, (3,), generator=generator)
    return Contest(threshold, rival)


def reaches(final: Tensor, threshold: Tensor, sense: str) -> Tensor:
    return final >= threshold if sense == "max" else final <= threshold


@pytest.mark.parametrize(("name", "kind"), EVALUATORS)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), pull=st.sampled_from([0.0, 0.05]))
def test_who_reaches_the_threshold_is_scored_exactly_and_who_is_given_up_would_have_lost(name, kind, seed, pull):
    plain, raced = EVALUATORS[name, kind]
    objective, generator = OBJECTIVES[name], torch.Generator().manual_seed(seed)
    span, z = slice(0, len(plain.data)), candidates(plain, generator)
    extra = pull * torch.rand(len(z), dtype=torch.float64, generator=generator)
    extra = -extra if objective.sense == "max" else extra
    full = plain(z, span)[:, 0]
    final = (full + extra).float()
    contest = contest_of(final, generator)
    found, given_up = raced(z, span, contest, extra)[:, 0], raced.is_bound
    assert torch.equal(found[~given_up].nan_to_num(-9), full[~given_up].nan_to_num(-9))
    threshold = torch.where(contest.rival >= 0, final[contest.rival.clamp(min=0)], contest.threshold)
    assert not bool((given_up & reaches(final, threshold, objective.sense)).any())
    assert not bool((given_up & threshold.isnan()).any())
    better = found >= full if objective.sense == "max" else found <= full
    assert bool((better | full.isnan())[given_up].all())
    assert not bool(reaches((found + extra).float(), threshold, objective.sense)[given_up].any())


@pytest.mark.parametrize(("name", "kind"), EVALUATORS)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31))
def test_the_best_of_a_group_and_the_first_of_equals_are_scored_exactly(name, kind, seed):
    plain, raced = EVALUATORS[name, kind]
    objective, generator = OBJECTIVES[name], torch.Generator().manual_seed(seed)
    span, z = slice(0, len(plain.data)), candidates(plain, generator)
    z = z[torch.randint(len(z), (len(z),), generator=generator)]  # some are equal
    full, nothing = plain(z, span)[:, 0], torch.full((len(z),), math.nan)
    group = torch.randint(-1, 3, (len(z),), generator=generator)
    found = raced(z, span, Contest(nothing, torch.full((len(z),), -1), group))[:, 0]
    assert not bool(raced.is_bound[group < 0].any())
    assert torch.equal(found[~raced.is_bound].nan_to_num(-9), full[~raced.is_bound].nan_to_num(-9))
    sign = 1 if objective.sense == "max" else -1
    for rows in ((group == number).nonzero()[:, 0] for number in range(3)):
        true, seen = ((sign * scores[rows]).nan_to_num(-math.inf) for scores in (full, found))
        if len(rows):
            assert int(seen.argmax()) == int(true.argmax())
            assert not bool(raced.is_bound[rows[true == true.max()]].any())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_hopeless_candidates_are_given_up_early_and_safe_ones_never(name):
    evaluator, objective = evaluator_of(OBJECTIVES[name]), OBJECTIVES[name]
    z = evaluator.reduction.center.repeat(10, 1)
    worst, best = (-9.0, 9.0) if objective.sense == "max" else (9.0, -9.0)
    for reach, share in ((best, 1 / 7), (worst, 1.0)):
        before = evaluator.num_samples_seen
        evaluator(z, EVERYTHING, Contest(torch.full((10,), reach), torch.full((10,), -1)))
        assert bool(evaluator.is_bound.all()) == bool(evaluator.is_bound.any()) == (share < 1)
        assert evaluator.num_samples_seen - before == pytest.approx(share * 10 * 224)


def test_hardest_first_loses_early_what_loses_late_in_the_order_of_the_file():
    spent = []
    for knows in (True, False):
        evaluator = evaluator_of(F1())
        noise = torch.randn(6, 25, generator=torch.Generator().manual_seed(0))
        z = evaluator.reduction.center + 0.05 * noise
        scores = evaluator(z, EVERYTHING)[:, 0]
        if not knows:
            evaluator.order = SampleOrder(224, DATA.device)
            evaluator.order.learn = lambda *_: None
        before = evaluator.num_samples_seen
        evaluator(z, EVERYTHING, Contest(scores.float() + 0.02, torch.full((len(z),), -1)))
        assert bool(evaluator.is_bound.all()) or not knows
        spent.append(evaluator.num_samples_seen - before)
    assert spent[1] == 6 * 224  # in the order of the file nobody loses before the end
    assert spent[0] < 0.8 * spent[1]


@given(seed=st.integers(0, 2**31), parts=st.integers(1, 4))
def test_the_order_is_that_of_errors_then_margins(seed, parts):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (12, 30, 4), generator=generator).float()
    labels = torch.randint(4, (30,), generator=generator)
    order = SampleOrder(40, labels.device)
    order.learn(logits, labels, slice(5, 35), 1.0)
    right = logits.numpy()[:, np.arange(30), labels.numpy()]
    wrong = np.where(np.eye(4, dtype=bool)[labels.numpy()], -np.inf, logits.numpy()).max(-1)
    margin = (right - wrong).astype(np.float64)
    errors = (margin <= 0).mean(0)
    assert order.hardest_first(slice(5, 35)).tolist() == np.lexsort((margin.mean(0), -errors)).tolist()
    assert not order.errors[:5].any() and not order.errors[35:].any()


def test_a_broken_candidate_leaves_the_order_defined():
    labels, order = torch.tensor([0, 1, 0]), SampleOrder(3, torch.device("cpu"))
    for value in (math.nan, math.inf, -math.inf):
        order.learn(torch.full((2, 3, 2), value), labels, slice(0, 3), 1.0)
        order.learn(torch.tensor([[[2.0, value], [0.0, 1.0], [0.0, 1.0]]]), labels, slice(0, 3), 0.5)
    assert bool(order.margins.isfinite().all()) and bool(order.errors.isfinite().all())


@pytest.mark.parametrize("sense", ["max", "min"])
@given(bound=st.floats(-2, 2), threshold=st.floats(-2, 2, width=32))
def test_a_bound_is_compared_as_scores_are(sense, bound, threshold):
    objective = F1() if sense == "max" else Error()
    racer = Racer(objective, torch.tensor([0, 1]), 2, torch.float32)
    rounded = np.float32(bound)
    lost = rounded < np.float32(threshold) if sense == "max" else rounded > np.float32(threshold)
    assert racer.is_lost(bound, threshold) == bool(lost)
    assert not racer.is_lost(float(np.float32(bound)), float(np.float32(bound)))
    assert not racer.is_lost(bound, math.nan)


def problem_of(racing: bool, **options) -> NetworkProblem:
    return NetworkProblem(
        mlp(),
        DATA,
        options.pop("objectives", "f1_macro"),
        reduction=lambda theta: RandomBlocking(theta, 25),
        racing=racing,
        batch_size=32,
        strategy="views",
        **options,
    )


def evaluated(problem: NetworkProblem, z: Tensor, contest=None) -> Tensor:
    batch = problem.generate_batch(len(z))
    batch.set_values(z)
    problem.evaluate(batch, contest=contest)
    return batch.evals.as_subclass(Tensor).clone()


@pytest.mark.parametrize("pull", [0.0, 0.01])
@pytest.mark.parametrize("objective", [F1(), CrossEntropy(), SmoothF1()])
def test_a_problem_decides_alike_with_and_without_racing(objective, pull):
    problems = [problem_of(racing, objectives=objective, pull=pull) for racing in (True, False)]
    generator = torch.Generator().manual_seed(1)
    given_up = 0
    for _ in range(6):
        z = candidates(problems[0]._evaluator, generator)
        full = evaluated(problems[1], z)[:, 0]
        contest = contest_of(full, generator)
        raced = evaluated(problems[0], z, contest)[:, 0]
        assert problems[1].is_bound is None
        is_bound = problems[0].is_bound
        given_up += int(is_bound.sum())
        threshold = contest.resolve(full)
        decisions = [reaches(scores, threshold, objective.sense) for scores in (raced, full)]
        assert torch.equal(*decisions)
        assert torch.equal(raced[~is_bound], full[~is_bound])
    assert given_up > 0
    assert problems[0].status["best_eval"] == problems[1].status["best_eval"]
    assert problems[0].num_samples_seen < problems[1].num_samples_seen


@pytest.mark.parametrize("objectives", [("f1_macro", "accuracy"), "density"])
def test_what_has_no_exact_bound_is_scored_in_full(objectives):
    problem = problem_of(True, objectives=objectives)
    z = problem.center.repeat(4, 1)
    contest = (torch.full((4,), 2.0), torch.full((4,), -1))
    assert torch.equal(evaluated(problem, z, contest), evaluated(problem, z))
    assert not bool(problem.is_bound is not None and problem.is_bound.any())


@pytest.mark.parametrize(
    ("contest", "message"),
    [
        (
            (torch.zeros(3), torch.full((4,), -1)),
            r"expected `threshold` of shape \(4,\), one per candidate, got \(3,\)",
        ),
        ((torch.zeros(4), torch.full((4, 1), -1)), r"expected `rival` of shape \(4,\), .*, got \(4, 1\)"),
        ((torch.zeros(4), torch.tensor([0, 1, 2, 4])), r"`rival` names row 4 of a batch of 4: -1 means none"),
    ],
)
def test_a_contest_that_does_not_fit_is_named(contest, message):
    problem = problem_of(True)
    with pytest.raises(ValueError, match=message):
        evaluated(problem, problem.center.repeat(4, 1), contest)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_price_that_pays_for_losses_is_refused(weight):
    with pytest.raises(ValueError, match="`weight` must be a finite number >= 0"):
        SmoothF1(weight)


def test_a_float32_network_of_double_precision_is_raced_in_its_own():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    data = type(DATA)(DATA.x.double(), DATA.y)
    problem = NetworkProblem(network, data, strategy="views", batch_size=32)
    z = problem.center.repeat(3, 1)
    full = evaluated(problem, z)[:, 0]
    threshold = torch.stack([full[0], torch.nextafter(full[1], full[1] + 1), full[2] + 0.9])
    evaluated(problem, z, (threshold, torch.full((3,), -1)))
    assert problem.is_bound.tolist() == [False, False, True]
