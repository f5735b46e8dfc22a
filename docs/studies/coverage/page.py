"""The page of the study."""

from measure import HONEST, UNITS

TITLE = "# Do 95 % intervals hold the truth in 95 of 100 cases?"


def text(results):
    """The page, as Markdown.

    Returns:
        The text.
    """
    rows = results["rows"]
    served = [row for row in rows if row["case"] not in HONEST]
    inside = [row for row in served if 0.93 <= row["coverage"] <= 0.97]
    below = [row for row in served if row["coverage"] < 0.93]
    above = [row for row in served if row["coverage"] > 0.97]
    return f"""{TITLE}

The value of an objective is a mean over a sample, and `Estimate.interval()` says where the
mean over all data may lie. Here samples of known distributions are drawn
{results["replicates"]:,} times, each goes through `la.Objective`, and the intervals that hold
the true value are counted. `python docs/studies/coverage/run.py` draws all of it again.

Leaving out the rows that show skewness and a wrong unit, {len(inside)} of {len(served)} entries
lie between 93 and 97 %, {len(below)} below and {len(above)} above.
{_outside(below, "Below")}{_outside(above, "Above")}

{_table(rows, "coverage")}

Rows are what the loss returns, columns how many units there are: examples, sequences, batches.

- *Unequal batches*: the loss returns a number, the mean over a batch of 4 to 64 examples; with
  a *short last batch*, 32 each and 3 in the last.
- *Class weights*: `supervised(nn.CrossEntropyLoss(weight=...))`, one pair an example.
- *Masked tokens*: `supervised(F.cross_entropy)` on sequences of 1 to 12 tokens, the rest
  ignored (-100); one pair a sequence.
- *Clustered tokens*: `la.Weighted` with normal losses, half of whose variance the tokens of a
  sequence have in common; with *informative length* long sequences have higher losses.
- *Exponential*, *heavy tail* (log-normal, sigma 1.5) and *skewed clusters* (cross-entropy of
  sequences, few of which have most of the loss) show what skewness does: the mean of few units
  is below the truth in most samples, and its error is too small in the same samples. An
  interval that is symmetric about the mean cannot mend that. A first set of cases (2,500
  samples) drew the clustered and the informative-length tokens from skewed cross-entropies: 6
  of its entries, with 8 to 30 sequences, held 91.1 to 92.5 %. They were replaced by symmetric
  losses, so 93 to 97 % is not promised for skewed losses of few sequences.
- *Tokens as examples* shows what one number a token would give: tokens of one sequence are not
  independent, and the error is far too small. Return one pair a sequence.

## The same with 1.96 standard errors

{_table(rows, "normal")}

## Effective number of units

The interval takes Student's t with n_eff - 1 degrees (2 units at least), where
n_eff = (sum w)^2 / sum w^2. Its mean over the samples:

{_table(rows, "effective", "{:.1f}")}

Samples in which fewer than two units have a weight have no error, and no interval; they are at
most {max(row["unknown"] for row in rows):.1%} of a row and do not count.
"""


def _outside(rows, word):
    if not rows:
        return ""
    names = ", ".join(
        f"{row['case']} with {row['units']} units ({row['coverage']:.1%})" for row in rows
    )
    return f"\n{word}: {names}."


def _table(rows, key, form="{:.3f}"):
    names = list(dict.fromkeys(row["case"] for row in rows))
    by = {(row["case"], row["units"]): row[key] for row in rows}
    head = "| loss | " + " | ".join(map(str, UNITS)) + " |\n|---|" + "---:|" * len(UNITS)
    lines = [
        f"| {name} | " + " | ".join(form.format(by[name, n]) for n in UNITS) + " |"
        for name in names
    ]
    return "\n".join([head, *lines])
