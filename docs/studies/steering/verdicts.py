"""The five claims in a table: against plain training, and against the best rival."""

# ruff: noqa: E501 - rows of a table are one line each

from itertools import product

import numpy as np
from page_penalties import KINDS, RIVALS, interval, ratio
from penalties import NOISES

from lossatlas.recipes import paired, verdict


def table(study):
    """A row a claim and rival, with the word that its interval allows."""
    head = "| claim | against | labels or noise | difference | verdict |\n|---|---|---|---|---|"
    return head + "\n" + "\n".join(_rows(study))


def _rows(study):
    parts = (_sasp, _decays, _tasks, _noises, _composites)
    return [row for part in parts for row in part(study)]


def _sasp(study):
    for method, kind in product(("SASP, GGN", "SASP, Fisher"), KINDS):
        trace = [np.log(study.end(kind, m, "Hessian trace")) for m in (method, "plain")]
        yield _row(
            f"{method}: a smaller Hessian trace, logarithm", "plain", kind, *trace, sign=-1
        )
        for rival in ("plain", best_rival(study, kind)):
            losses = [study.end(kind, m, "test loss") for m in (method, rival)]
            yield _row(f"{method}: a lower test loss", rival, kind, *losses, sign=-1)


def _decays(study):
    for method in ("CVP, original", "CVP, gate without units", "Cautious Weight Decay"):
        shares = [study.over_strengths(m) for m in (method, "L2")]
        yield _row(
            f"{method}: higher accuracy over all strengths, points", "L2", "clean", *shares
        )


def _tasks(study):
    for method, rival in product(("NGER, original", "NGER"), ("equal", "fixed")):
        errors = [study.at_best("tasks", m, 2) for m in (method, rival)]
        yield _row(f"{method}: a lower error on the noisy task", rival, "", *errors, sign=-1)


def _noises(study):
    for rival, at in product(("plain", "noisy inputs"), range(1, len(NOISES))):
        right = [study.under_noise(m, at) for m in ("SBMP", rival)]
        yield _row(
            "SBMP: higher accuracy under noise, points", rival, f"{NOISES[at]:g}", *right
        )


def _composites(study):
    pairs = (("SASP + CVP, original", "SASP, Fisher"), ("SASP + CVP", "SASP, GGN"))
    for (method, alone), kind in product(pairs, KINDS):
        for rival in ("plain", alone, best_rival(study, kind)):
            right = [100 * study.end(kind, m, "test accuracy") for m in (method, rival)]
            yield _row(f"{method}: higher accuracy, points", rival, kind, *right)


def best_rival(study, kind):
    """The tuned rival with the lowest loss on the validation examples."""
    return min(RIVALS[1:], key=lambda m: study.end(kind, m, "valid loss").mean())


def _row(claim, rival, where, ours, theirs, sign=1):
    found = paired(ours, theirs)
    digits = 2 if "points" in claim else 3
    words = {
        "higher": "confirmed",
        "lower": "refuted",
        "indistinguishable": "indistinguishable",
    }
    word = words[verdict(paired(sign * np.asarray(ours), sign * np.asarray(theirs)))]
    low, high = found.interval()
    return f"| {claim} | {rival} | {where} | {found.value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] | {word} |"


def short(study):
    """The conclusion, with its numbers."""
    trace = {
        k: ratio(*(study.end(k, m, "Hessian trace") for m in ("SASP, GGN", "plain")))
        for k in KINDS
    }
    loss = {
        (k, m, o): interval(study.end(k, m, "test loss"), study.end(k, o, "test loss"), 3)
        for k, m, o in product(KINDS, ("SASP, GGN", "SASP, Fisher"), RIVALS)
    }
    wide = {
        m: interval(study.over_strengths(m), study.over_strengths("L2"), 1)
        for m in ("CVP, original", "CVP, gate without units")
    }
    task = {
        m: study.at_best("tasks", m, 2).mean()
        for m in ("equal", "fixed", "NGER", "NGER, original")
    }
    loud = interval(study.under_noise("SBMP", 2), study.under_noise("noisy inputs", 2), 1)
    right = {
        (k, o): interval(
            *(100 * study.end(k, m, "test accuracy") for m in ("SASP + CVP, original", o)), 1
        )
        for k, o in product(KINDS, RIVALS)
    }
    return f"""**In short.** Against plain training all five claims hold on this problem; against rivals that are tuned alike, one does.

- **SASP** flattens: the exact form takes the trace to {trace["clean"]} of plain training's, {trace["mislabeled"]} where labels are wrong. On clean
  labels it lowers the test loss ({loss["clean", "SASP, GGN", "plain"]}), but L2, label smoothing and SAM lower it further. Under wrong labels the exact form is below L2
  ({loss["mislabeled", "SASP, GGN", "L2"]}) and not distinguishable from SAM ({loss["mislabeled", "SASP, GGN", "SAM"]}); the original (Fisher) is above both.
- **CVP** forgives a decay that is too strong: {wide["CVP, original"]} points over L2 on average over the strengths. Its gate is all but
  constant, about a half, at such gradients; a gate that really opens and shuts keeps {wide["CVP, gate without units"]} of it.
- **NGER** takes the error on the noisy task from {task["equal"]:.2f} to {task["NGER, original"]:.2f}, but a small fixed weight takes it to {task["fixed"]:.2f}. Our
  `NGERWeighter`, which starves no task, reaches only {task["NGER"]:.2f}: here the noisy task was the one to starve.
- **SBMP** keeps its promise: {loud} points over tuned noise on the inputs, at noise 1, for a little accuracy without noise.
- **The composite** in its original form is ahead of plain training ({right["clean", "plain"]} points; {right["mislabeled", "plain"]} under wrong labels), and of
  SASP alone; under wrong labels it stays behind SAM ({right["mislabeled", "SAM"]}) and behind L2."""
