"""The words of the pages."""

# ruff: noqa: E501 - rows of a table are one line each

import goals
import page_penalties as p
import page_rates as r
import verdicts
from page_penalties import BOTH, KINDS, RIVALS, SASP
from penalties import SEEDS, STEPS


def rates(studies):
    """The page about steering the rate, as Markdown."""
    parts = "\n".join(
        f"## {r.TITLES[name]}\n\n{r.tables(study)}" for name, study in studies.items()
    )
    return f"""# Averages and controllers on MNIST and CIFAR-10

Written by `python docs/studies/steering/run.py`; every accuracy is in `results.json`.
The short answer is [a page of its own](README.md); so are [penalties](penalties.md).

{goals.short(studies)}

![Differences to cosine at every horizon](horizons.png)

![Accuracy over the base rate](rates.png)

## Setup

A schedule such as cosine has to be told when the training ends, and every rate has to be
guessed. Does one training, read through a `PolynomialAverage` (gamma 16), do as well at every
horizon as cosine that was told each of them? And does `GrowthPolicy`, which leaves the base rate
behind, spare the guess?

- **growth + average**: AdamW, `GrowthPolicy` with its defaults, base rate 1e-4; one training.
- **constant + average**: AdamW at a constant rate, the same average; one training a rate.
- **cosine, WSD**: told the horizon, one training for each; WSD cools for the last fifth.
- **plateau**: `PlateauCooldown`; **TopoAdamW**: the table of topoadamw 0.1.0
  (`RegimePolicy(compat="0.1.0")`), probing every 25 steps after 50 instead of every 50 after
  150, because the trainings are short; both decide on their own, in one training.
- **schedule-free** and **Prodigy**: those of pytorch_optimizer; Prodigy at its own rate of 1.

All have AdamW's weight decay of 5e-4, batches of 64, and (but for growth and Prodigy) 20 steps of warm-up.
{_sizes(studies)} The seed draws weights
and order; all recipes share them, so differences are paired. 1,000 further examples choose the rate, for each horizon anew;
test examples only report. The training rows are those from 20,000 on and the test rows the
last ones, because earlier trials had taken the first. WSD,
plateau and TopoAdamW had the {_few(studies)} best of the rates to choose from, the others all of them.

{parts}
## What the goals say

{goals.goals(studies)}

## What to keep in mind

- Short trainings of small networks on a few thousand examples: 2, 4 and 8 walks over the data.
  What holds after hundreds of epochs was not looked at.
- Intervals are over seeds, on one set of test examples, one by one and not corrected for their number.
- The first five seeds were looked at before the others were run; nothing was changed between.
- All accuracies are of the weights named; for the average BatchNorm's statistics are estimated anew on
  1,000 training examples.
- TopoAdamW's numbers are those of the constant rate wherever its table never left the scale of 1, which is also its
  upper bound: most of these trainings are too short for it to find sharp ground.
- The probes of the table read 32 examples of a batch.
- The controller's defaults were left alone after these results, also where it loses.
"""


def _sizes(studies):
    seeds = " and ".join(f"{s['seeds']} ({r.TITLES[n]})" for n, s in studies.items())
    return f"""MNIST: 4,000 training and 5,000 test examples at 14 x 14
pixels, an MLP 196-64-64-10. CIFAR-10: 4,000 and 2,000 at 16 x 16, flips and shifts, a CNN with BatchNorm. Seeds: {seeds}."""


def _few(studies):
    counts = [len(s["accuracies"]["WSD, told"]) for s in studies.values()]
    return " or ".join(map(str, counts))


def penalties(study):
    """The page about penalties, as Markdown."""
    return f"""# Five claims for loss-side penalties, tried again

Written by `python docs/studies/steering/run.py`; every number of every seed is in
`results.json`. Steering the rate has [a page of its own](rates.md).

{verdicts.short(study)}

![Losses, decay, noise and tasks](penalties.png)

## Setup

toploss 0.1.0 claims that its penalties flatten minima and lower the test loss (SASP), make weight
decay robust (CVP), find clean signals beside noisy tasks (NGER), make networks robust to noise
(SBMP), and work together (the composite), from 3 seeds and without rivals. Its protocols are not
published, so here is ours, and numbers are not comparable with its own.

{SEEDS} seeds. An MLP 64-64-64-10 on 400 of scikit-learn's digits, batches of 32, {STEPS} steps of SGD with
momentum 0.9, rate 0.05 with a cosine. Every method but plain training has four settings to choose
from; 400 other examples choose (mean loss over the seeds, or mean accuracy over the levels of noise), 997 test examples report. Settings lie
around the best of a first round of 10 seeds on the same validation examples. Intervals are 95 %, Student's t, paired by seed,
not corrected for their number. "Original" and "Fisher" are the formulas of toploss; "GGN" is the exact curvature of the head.

## The claims in a table

"Confirmed" and "refuted" say that the interval lies on that side of zero, against that rival; traces are compared by
their natural logarithms. The last rival of each pair is the one with the lowest loss on the validation examples.

{verdicts.table(study)}

## 1. SASP: a flatter minimum and a lower test loss?

{_sasp(study)}
## 2. CVP: robust over the strength of the decay?

Each decay at five strengths over three decades. CVP in its original form decays where the step *grows* a
weight, Cautious Weight Decay where it shrinks it; the latter acts on the weights, the others on the gradient.

{p.decays(study)}

## 3. NGER: the clean signal beside a noisy task?

Two signals of one input through one trunk of width 64; the second is trained under noise of deviation 1. Squared error
against the clean signals on fresh inputs. What chooses (gamma, or the noisy task's share) is the error against *noisy* targets.

{p.tasks(study)}

## 4. SBMP: accuracy under noise of the inputs?

{p.noise(study)}

## 5. The composite

SASP and CVP together, against rivals and against SASP alone:

{_composite(study)}
## What to keep in mind

- One small problem, one network, one optimizer. A claim that fails here may hold elsewhere, and the other way round.
- Hessian traces are of all weights on the training examples, by Hutchinson's estimator to about a tenth, and of the
  networks at the chosen setting. A network that has not fitted its examples has a large trace for that reason:
  a trace says little about test loss across methods.
- Strengths are not the same amount of decay: CVP is off for about half of the weights, and Cautious Weight Decay acts
  after the momentum, about a tenth as strongly as the others at the same number; even so it does better at 1 than L2 at 0.1.
- The fixed weight of the noisy task is at the end of its grid; a smaller one may do better still.
"""


def _sasp(study):
    parts = [
        f"**{label[0].upper()}{label[1:]}**\n\n{p.ends(study, kind)}\n\n"
        f"{p.against(study, kind, SASP, 'test loss', RIVALS)}\n"
        for kind, label in KINDS.items()
    ]
    return "\n".join(parts) + "\n" + p.traces(study) + "\n"


def _composite(study):
    others = (*RIVALS, *SASP)
    parts = [
        f"**{label[0].upper()}{label[1:]}**\n\n"
        f"{p.against(study, kind, BOTH, 'test accuracy', others)}\n\n"
        f"{p.against(study, kind, BOTH, 'test loss', others)}\n"
        for kind, label in KINDS.items()
    ]
    return "\n".join(parts)
