"""Merging: formulas by hand, exact minimizers, paired differences."""

import math
import re
from dataclasses import replace

import pytest
import torch
from networks import objective
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, NonFiniteError, StructureError, UnknownNameError
from lossatlas.result import Estimate
from lossatlas.text import MINUS
from lossatlas.weights import METHODS, Soup, choose, compare_merges, merge, soup
from lossatlas.weights.merge import Merge
from lossatlas.weights.merge_comparison import MergeComparison
from lossatlas.weights.methods import Inputs, changed
from lossatlas.weights.verdicts import negated
from report.sample_comparisons import valleys

ONE = {"w": torch.tensor([[1.0, -2.0, 0.1], [0.0, 3.0, -0.2]])}
TWO = {"w": torch.tensor([[3.0, 1.0, 0.3], [0.5, -1.0, -0.4]])}
ONES = {"w": torch.ones(2, 3)}


def by_hand(name, importances=(), grams=(), **options):
    inputs = Inputs({"w": torch.zeros(2, 3)}, importances, grams)
    return changed(name, [ONE, TWO], inputs, options)["w"]


def test_every_method_on_two_rows_of_three():
    assert by_hand("average").tolist() == ((ONE["w"] + TWO["w"]) / 2).tolist()
    assert torch.allclose(by_hand("task_arithmetic", scale=0.5), (ONE["w"] + TWO["w"]) / 2)
    # The third of the entries with the largest sizes: 3, -2 of one and 3, 1, -1 tie of two.
    kept = by_hand("ties", density=1 / 3)
    assert kept.tolist() == [[3.0, -2.0 if kept[0, 1] < 0 else 1.0, 0.0], [0.0, 3.0, 0.0]]
    # No entry agrees in sign with the sum but those that make it up.
    every = by_hand("ties", density=1.0)
    assert torch.allclose(every, torch.tensor([[2.0, -2.0, 0.2], [0.5, 3.0, -0.3]]))
    weights = {"w": torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])}
    twice = {"w": torch.tensor([[3.0, 0.0, 1.0], [1.0, 3.0, 0.0]])}
    plain = by_hand("fisher", importances=[weights, twice], normalize=False)
    expected = torch.tensor([[2.5, -0.5, 0.2], [0.25, 0.0, -0.3]])
    assert torch.allclose(plain, expected)
    cosine = float(F.cosine_similarity(ONE["w"].flatten(), TWO["w"].flatten(), dim=0))
    cosine = max(cosine, 0.0)
    shrunk = (ONE["w"] + TWO["w"]) / 2 * (2 * cosine / (1 + cosine))
    assert torch.allclose(by_hand("stock"), shrunk)


def test_a_great_circle_keeps_the_length_and_parallel_ones_are_linear():
    first, second = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
    inputs = Inputs({"w": torch.zeros(2)})
    half = changed("slerp", [first, second], inputs, {})["w"]
    assert half.norm() == pytest.approx(2.0)
    same = changed("slerp", [first, first], inputs, {"t": 0.3})["w"]
    assert torch.allclose(same, first["w"])


def test_dropping_keeps_the_mean_and_follows_its_seed():
    wide = {"w": torch.ones(20000)}
    draws = [
        changed("dare", [wide], Inputs(wide, seed=k), {"density": 0.25})["w"] for k in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].mean() == pytest.approx(1.0, abs=0.05)
    assert set(draws[0].unique().tolist()) == {0.0, 4.0}


def test_grafting_keeps_the_largest_savings():
    moments = {"w": torch.tensor([[1.0, 1.0, 50.0], [1.0, 0.0, 1.0]])}
    found = by_hand("ota", importances=[moments, moments], density=1 / 3, power=0.0)
    # Savings v delta^2 of one: 1, 4, .5, 0, 0, .04; of two: 9, 1, 4.5, .25, 0, .16.
    assert found[0].tolist() == pytest.approx([2.0, -2.0, 0.3])
    # What no expert keeps is that of the base.
    assert found[1].tolist() == [0.0, 0.0, 0.0]
    nothing = {"w": torch.zeros(2, 3)}
    merged = by_hand("ota", importances=[nothing, nothing], density=1.0)
    assert torch.allclose(merged, by_hand("average"))


def linear_tasks():
    """Two linear regressions and the one of both together, with their exact solutions."""
    draw = torch.Generator().manual_seed(0)
    data = []
    for k in range(2):
        x = torch.randn(40, 3, generator=draw) * torch.tensor([1.0, 2.0, 0.5 + k])
        data.append((x, torch.randn(40, 2, generator=draw)))
    tasks = [
        la.Objective(
            nn.Linear(3, 2, bias=False), la.supervised(F.mse_loss), [batch], check=False
        )
        for batch in data
    ]
    solved = [{"weight": torch.linalg.lstsq(*batch).solution.T.contiguous()} for batch in data]
    both = [torch.cat(parts) for parts in zip(*data, strict=True)]
    joint = torch.linalg.lstsq(*both).solution.T
    return tasks, solved, joint


def test_regression_on_inputs_is_the_exact_minimizer_of_the_summed_loss():
    tasks, solved, joint = linear_tasks()
    base = {"weight": torch.zeros(2, 3)}
    found = merge(tasks[0], base, *solved, method="regmean", objectives=tasks, shrink=1.0)
    assert torch.allclose(found.params["weight"], joint, atol=1e-4)


def test_importances_that_are_the_curvature_minimize_a_diagonal_quadratic():
    curvatures = [{"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([3.0, 1.0])}]
    minima = [{"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([-2.0, 4.0])}]
    inputs = Inputs({"w": torch.zeros(2)}, curvatures)
    found = changed("fisher", minima, inputs, {"normalize": False})["w"]
    assert found.tolist() == pytest.approx([-1.0, 4 / 6])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_experts_that_are_the_base_give_the_base_bit_for_bit(name):
    task = objective("mlp")
    base = {k: v.detach().clone() for k, v in task.params.items()}
    ones = [{k: torch.ones_like(v) for k, v in base.items()}] * 2
    found = merge(task, base, base, base, method=name, importances=ones, objectives=[task] * 2)
    assert all(torch.equal(found.params[k], v) for k, v in base.items())
    assert found.against["base"].value == 0
    assert found.against["base"].stderr == 0


def test_one_expert_points_to_soup():
    task = objective("mlp")
    base = {k: v.detach().clone() for k, v in task.params.items()}
    assert "soup(objective, a, b)" in merge(task, base, base).sentences()[-1]
    assert not merge(task, base, base, base).notes


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"dare"}))
def test_the_order_of_the_experts_does_not_matter(name):
    task = objective("mlp")
    base = {k: v.detach().clone() for k, v in task.params.items()}
    experts = [{k: v + 0.1 * torch.randn_like(v) for k, v in base.items()} for _ in range(2)]
    weights = [{k: torch.rand_like(v) for k, v in base.items()} for _ in range(2)]
    there = merge(task, base, *experts, method=name, importances=weights, objectives=[task] * 2)
    back = merge(
        task,
        base,
        *experts[::-1],
        method=name,
        importances=weights[::-1],
        objectives=[task] * 2,
    )
    for key, value in there.params.items():
        assert torch.allclose(value, back.params[key], atol=1e-6)


def test_differences_are_paired_and_said():
    task = objective("mlp")
    base = {k: v.detach().clone() for k, v in task.params.items()}
    experts = [{k: v + 0.2 * torch.randn_like(v) for k, v in base.items()} for _ in range(2)]
    found = merge(task, base, *experts)
    rows = task.example_losses(found.params) - task.example_losses(experts[0])
    paired = found.against["expert 1"]
    assert paired.value == pytest.approx(float(rows.mean()))
    assert paired.stderr == pytest.approx(float(rows.std() / math.sqrt(len(rows))))
    assert found.against["average"].value == 0
    assert {c.tensor for c in found.conflicts} == set(base)
    assert all(-1 <= c.cosine <= 1 and 0 <= c.signs <= 1 for c in found.conflicts)
    assert found.coefficients == (0.5, 0.5)
    assert found.sentences()[0] == found.headline()
    assert found.sentences()[1].startswith(f"The average ({found.loss.texts[0]} ")
    # Its difference to itself is no news.
    assert "merge minus average" not in [e.name for e in found.estimates()]
    other = merge(task, base, *experts, method="ties")
    assert "the average" in other.sentences()[1]
    assert "merge minus average" in [e.name for e in other.estimates()]


@pytest.mark.parametrize(("value", "said", "use"), [
    (-0.5, "is better than the base and a.pt.",
     "Use the average (loss 0.371 ± 0.030): better than the base by 0.500 [0.454, 0.546]."),
    (0.5, "is worse than the base (higher by 0.500 [0.454, 0.546]) and a.pt "
          "(higher by 0.500 [0.454, 0.546]).",
     "Use the base: better than the average (loss 0.371 ± 0.030) by 0.500 [0.454, 0.546]."),
    (0.0, "is indistinguishable from the base (difference 0.000 [-0.046, 0.046]) and a.pt "
          "(difference 0.000 [-0.046, 0.046]).",
     "Use the average or the base: indistinguishable (loss 0.371 ± 0.030, "
     "difference 0.000 [-0.046, 0.046])."),
])  # fmt: skip
def test_a_merge_says_whether_it_helped(value, said, use):
    far, loss = Estimate(value, 0.02, samples=99), Estimate(0.371, 0.03, samples=99)
    against = {"average": Estimate(0.0, 0.0, samples=99), "base": far, "a.pt": far}
    merged = Merge({}, "average", loss, against, ())
    use, said = (text.replace("-", MINUS) for text in (use, said))
    together = "The intervals of these differences hold together with 95 %."
    assert merged.sentences() == (use, f"The average (0.371 ± 0.030) {said}", together)
    sides = {name: replace(e, value=-e.value) for name, e in against.items()}
    compared = MergeComparison({"average": loss}, sides, {}, {}, (), ("base", "a.pt"))
    assert merged.sentences()[1] in compared.sentences()
    mixed = replace(merged, against=against | {"a.pt": replace(far, value=-0.1)})
    assert mixed.sentences()[1].endswith("a.pt.") == (value < 0)
    assert "better than" in mixed.sentences()[1]


def test_what_to_use_is_judged_beside_the_best_of_the_others():
    # Better than both inputs, and worse than the plain average.
    loss = Estimate(0.4, 0.03, samples=99)
    against = {
        name: Estimate(value, 0.02, samples=99)
        for name, value in (("average", 0.1), ("base", -0.2), ("a.pt", -0.5))
    }
    merged = Merge({}, "ties", loss, against, ())
    assert merged.headline().startswith("Use the average: better than ties (loss ")
    lost = replace(merged, loss=Estimate(math.nan, why_no_error="a loss is not finite"))
    unknown = {name: Estimate(math.nan, why_no_error="unknown") for name in against}
    assert "better" not in replace(lost, against=unknown).headline()


# A value with its interval, as in "0.005 [0.001, 0.019]" and "0.01, 95 % interval [...]".
SIGNED = rf"({MINUS}?[\d.]+)"
WITH_INTERVAL = re.compile(
    rf"{SIGNED}(?: ± [\d.]+)?,?(?: 95\s%| interval)* "
    rf"\[{SIGNED}, {SIGNED}\]"
)


def triples_of(texts):
    return [
        [float(text.replace(MINUS, "-")) for text in found]
        for sentence in texts
        for found in WITH_INTERVAL.findall(sentence)
    ]


@pytest.mark.parametrize("value", [-0.3, -0.01, 0.01, 0.3])
def test_every_difference_lies_in_its_interval_and_says_which_loss_is_higher(value):
    far, loss = Estimate(value, 0.02, samples=99), Estimate(0.4, 0.03, samples=99)
    both = {"average": far, "base": far, "a.pt": far}
    merged = Merge({}, "ties", loss, both, ())
    sides = {name: negated(far) for name in ("base", "a.pt")}
    several = MergeComparison(
        {"average": loss, "base": loss, "a.pt": loss}, sides, {}, {}, (), ("base", "a.pt"), both
    )
    averaged = Soup({}, (1, 2), loss, {"best single": far, "all": far})
    pair = replace(valleys(), difference=far)
    for found in (merged, several, averaged, pair):
        texts = [*found.sentences(), *(str(e) for e in found.estimates())]
        triples = triples_of(texts)
        assert triples or found is averaged or found is several
        assert all(low <= middle <= high for middle, low, high in triples)
        relation = "higher" if value > 0 else "lower"
        assert f"{'lower' if value > 0 else 'higher'} by" not in " ".join(texts)
        if abs(value) < 0.1 and (found is merged or found is several):
            assert f"{relation} by 0.01" in " ".join(texts)


def test_differences_that_are_measured_lie_in_their_intervals():
    task = objective("mlp")
    base = {k: v.detach().clone() for k, v in task.params.items()}
    points = [{k: v + 0.05 * torch.randn_like(v) for k, v in base.items()} for _ in range(3)]
    for found in (
        merge(task, base, *points, method="ties"),
        compare_merges(task, base, *points, methods=["average", "ties", "search"]),
        soup(task, *points, names=("a", "b", "c")),
        choose(task, *points, sharpness=False),
    ):
        triples = triples_of([*found.sentences(), *(str(e) for e in found.estimates())])
        assert all(low <= middle <= high for middle, low, high in triples)


def test_networks_are_called_by_their_names():
    task = objective("mlp")
    base = {k: v.detach().clone() for k, v in task.params.items()}
    found = merge(task, base, base, base, base, names=("a.pt", "a.pt", "average"))
    called = ["base", "a.pt", "a.pt (expert 2)", "average (expert 3)"]
    assert list(found.against) == ["average", *called]
    compared = compare_merges(task, base, base, base, methods=["average"], names=("a", "b"))
    assert compared.networks == ("base", "a", "b")
    assert not any("No merge is ahead" in text for text in compared.sentences())
    with pytest.raises(ArgumentError, match="`names` must be one an expert; got 1 for 2"):
        merge(task, base, base, base, names=("a",))


def test_equal_networks_are_called_equal_and_not_zero_with_an_error_of_zero():
    task = objective("mlp")
    base = {name: value.detach().clone() for name, value in task.params.items()}
    moved = {name: value + 0.1 for name, value in base.items()}
    found = merge(task, base, moved, moved, method="slerp")
    several = compare_merges(task, base, moved, moved, methods=["average", "slerp"])
    averaged = soup(task, moved, moved)
    told = [*found.sentences(), *several.sentences(), *averaged.sentences()]
    shown = [f"{e}" for each in (found, several, averaged) for e in each.estimates()]
    assert not any("± 0 " in f"{text} " or "0 ± 0" in text for text in (*told, *shown))
    assert (
        "equal to that of the best single one, checkpoint 1, up to rounding error." in told[-1]
    )
    assert "has, up to rounding error, the same loss as" in " ".join(found.sentences())
    why = [e.why_no_error for e in averaged.estimates()[1:]]
    assert why == ["equal up to rounding error"]


def test_comparison_searches_on_other_data_than_it_judges_on(tmp_path):
    task = objective("mlp")
    base = {k: v.detach().clone() for k, v in task.params.items()}
    experts = [{k: v + 0.2 * torch.randn_like(v) for k, v in base.items()} for _ in range(2)]
    methods = ["ties:density=0.5", "dare", "search", "fisher"]
    found = compare_merges(task, base, *experts, methods=methods)
    assert "importances" in found.failed["fisher"]
    assert set(found.losses) == {
        "average",
        "ties:density=0.5",
        "dare",
        "search",
        "base",
        "expert 1",
        "expert 2",
    }
    assert found.losses["average"].samples == 6
    assert "every second batch" in found.notes[0]
    tuned = task.part([task.batches[0]])
    assert len(found.coefficients["search"]) == 2
    shares = found.coefficients["search"]
    merged = {
        k: v + sum(c * (e[k] - v) for c, e in zip(shares, experts, strict=True))
        for k, v in base.items()
    }
    average = {k: v + sum(0.5 * (e[k] - v) for e in experts) for k, v in base.items()}
    assert tuned.value(merged) <= tuned.value(average) + 1e-6
    again = la.load(found.save(tmp_path / "merges.nc"))
    assert again == found
    assert len(repr(found)) <= 400
    assert found.best in found.sentences()[0]


def test_soups_keep_what_helps():
    task = objective("mlp")
    base = {k: v.detach().clone() for k, v in task.params.items()}
    points = [
        {k: v + s * torch.randn_like(v) for k, v in base.items()} for s in (0.01, 0.02, 3.0)
    ]
    found = soup(task, *points, greedy=True)
    assert 3 not in found.kept
    assert found.against["best single"].value <= 0
    assert [e.name for e in found.estimates()[1:]] == [
        "average minus best single",
        "average minus all",
    ]
    everything = soup(task, *points)
    # The mean of all is not compared with itself.
    assert [e.name for e in everything.estimates()[1:]] == ["average minus best single"]
    assert everything.kept == (1, 2, 3)
    said = soup(task, *points, names=("a.pt", "b.pt", "c.pt")).sentences()[0]
    assert said.startswith("The loss of the mean of 3 checkpoints (a.pt, b.pt and c.pt) is ")
    assert "the best single one, " in said
    many = replace(everything, kept=tuple(range(1, 21)), names=tuple(map(str, range(20))))
    assert "20 checkpoints (0, 1, 2, 3, 4, 5 and 14 others)" in many.sentences()[0]
    assert everything.against["all"].value == 0


def test_bad_input_is_named():
    task = objective("mlp")
    base = {k: v.detach().clone() for k, v in task.params.items()}
    with pytest.raises(ArgumentError, match="`experts`"):
        merge(task, base)
    with pytest.raises(UnknownNameError, match=r"got 'tie'.*ties"):
        merge(task, base, base, method="tie")
    with pytest.raises(UnknownNameError, match=r"`densty` is no option of 'ties'"):
        merge(task, base, base, method="ties", densty=0.2)
    with pytest.raises(ArgumentError, match="`density`"):
        merge(task, base, base, method="ties", density=0.0)
    with pytest.raises(ArgumentError, match=r"needs `importances`"):
        merge(task, base, base, method="fisher")
    with pytest.raises(ArgumentError, match="two experts; got 1"):
        merge(task, base, base, method="slerp")
    with pytest.raises(StructureError, match=r"1\.bias"):
        merge(task, base, {k: v for k, v in base.items() if k != "1.bias"})
    with pytest.raises(NonFiniteError, match="`expert 1`"):
        merge(task, base, base | {"1.bias": base["1.bias"] * math.nan})
    with pytest.raises(ArgumentError, match=r"ties:density=0\.3"):
        compare_merges(task, base, base, methods=["ties:density"])
    with pytest.raises(ArgumentError, match="two or more"):
        soup(task, base)
    with pytest.raises(ArgumentError, match="one a checkpoint; got 1 for 2"):
        soup(task, base, base, names=("a",))


def test_differences_are_drawn_by_both_backends():
    task = objective("mlp")
    base = {k: v.detach().clone() for k, v in task.params.items()}
    experts = [{k: v + 0.2 * torch.randn_like(v) for k, v in base.items()} for _ in range(2)]
    merged = merge(task, base, *experts)
    compared = compare_merges(task, base, *experts, methods=["ties:density=0.5"])
    # An average has no difference to itself.
    for found, left_out in ((merged, {"average"}), (compared, set())):
        names = [label.get_text() for label in found.plot().get_yticklabels()]
        assert set(names) == set(found.against) - left_out
        drawn = found.plot(backend="plotly").data
        (points,) = (trace for trace in drawn if trace.mode == "markers")
        assert list(points.x) == [found.against[name].value for name in names]
    values = [compared.against[name].value for name in names]
    assert values == sorted(values)
    assert [figure.name for figure in compared.figures()] == ["differences", "best"]


def noisy_line(seed, examples=60):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, 1, generator=draw)
    targets = inputs + torch.randn(examples, 1, generator=draw)
    return la.Objective(
        nn.Linear(1, 1, bias=False), la.supervised(F.mse_loss), [(inputs, targets)]
    )


def slopes(*values):
    return [{"weight": torch.tensor([[float(w)]])} for w in values]


def test_the_best_merge_is_compared_with_the_base_and_the_best_expert():
    task, points = noisy_line(0, 400), slopes(-1.0, 0.9, 1.1, 3.0)
    base, *experts = points
    scales = [f"task_arithmetic:scale={s}" for s in (0.1, 0.245, 0.3)]
    found = compare_merges(task, base, *experts, methods=["average", *scales])
    assert found.losses[found.best].value == min(
        e.value for n, e in found.losses.items() if n not in found.networks
    )
    closest = min(found.networks[1:], key=lambda name: found.losses[name].value)
    assert list(found.best_against) == ["base", closest]
    merged = {name: v.clone() for name, v in base.items()}
    scale = float(found.best.partition("=")[2])
    merged["weight"] += scale * sum(e["weight"] - base["weight"] for e in experts)
    gap = task.example_losses(merged) - task.example_losses(base)
    far = found.best_against["base"]
    assert far.value == pytest.approx(float(gap.mean()), rel=1e-5)
    # Wider than 95 % for one pair, as both were chosen on these examples.
    assert far.interval()[0] < replace(far, ends=None).interval()[0]
    use, verdict, choice = found.sentences()[:3]
    assert use == found.headline()
    assert use.startswith(f"Use {found.best} or {closest}: indistinguishable (loss ")
    assert "is better than the base; " in verdict
    assert f"is indistinguishable from {closest} (" in verdict
    assert "chosen on these examples" in choice
    names = [e.name for e in found.estimates()[:2]]
    assert names == ["best merge minus the base", "best merge minus the best expert"]


def test_a_best_merge_that_is_best_by_luck_is_not_told_apart_from_the_base():
    # Merges are so near the base that which one is best is luck.
    draw = torch.Generator().manual_seed(0)
    base = {"weight": torch.ones(1, 8)}
    expert = {"weight": 1 + 0.02 * torch.randn(1, 8, generator=draw)}
    parts = [f"dare:density={d},scale={s}" for d in (0.1, 0.3, 0.6, 0.9) for s in (-1, 1)]
    judged, plain = 0, 0
    for _ in range(100):
        inputs = torch.randn(50, 8, generator=draw)
        targets = inputs.sum(1, keepdim=True) + torch.randn(50, 1, generator=draw)
        task = la.Objective(
            nn.Linear(8, 1, bias=False), la.supervised(F.mse_loss), [(inputs, targets)]
        )
        far = compare_merges(task, base, expert, methods=parts).best_against["base"]
        judged += far.interval()[1] < 0
        plain += replace(far, ends=None).interval()[1] < 0
    assert judged <= 3 < 7 <= plain


def test_merges_of_one_loss_have_one_verdict():
    # The average and a merge that hardly differs from it: one interval decides on both.
    task, scale = noisy_line(5), "task_arithmetic:scale=0.4999"
    differ = 0
    for start in torch.linspace(0, 0.8, 15).tolist():
        found = compare_merges(task, *slopes(start, 1.0, 1.1), methods=["average", scale])
        plain = found.against["base"].interval()[0] > 0
        told = [text for text in found.sentences() if "better than the base" in text]
        apart = [
            text for text in found.sentences() if "indistinguishable from the base" in text
        ]
        assert not (told and apart), found.sentences()
        differ += plain and bool(apart)
    # In between, a difference is sure by itself, and not among all pairs.
    assert differ


def test_one_merge_is_not_called_the_best():
    base, *experts = slopes(0.0, 1.0, 1.1)
    found = compare_merges(noisy_line(0), base, *experts, methods=["average"])
    assert found.headline().startswith("Use the average or expert 2: ")
    assert found.sentences()[1].startswith("The intervals")
    assert found.sentences()[2].startswith("The average (")
    assert "The best" not in " ".join(found.sentences())
