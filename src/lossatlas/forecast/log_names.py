"""Names that programs give to the columns of a log."""

from collections.abc import Iterable, Mapping, Sequence

from lossatlas.checks import nearest
from lossatlas.errors import ArgumentError, UnknownNameError

# "_step" is the last: W&B counts its own rows in it, which are not updates.
STEPS = ("step", "Step", "global_step", "trainer/global_step", "train/global_step",
         "iteration", "iter", "update", "_step")  # fmt: skip
LOSSES = ("loss", "train_loss", "train/loss", "train_loss_step", "train/loss_step", "loss_step",
          "training_loss", "train_loss_epoch", "train/loss_epoch")  # fmt: skip
RATES = ("lr", "learning_rate", "train/lr", "train/learning_rate")
HELD_OUT = ("val", "eval", "test", "dev")
ROLES = {"step": "steps", "loss": "losses", "lr": "rates"}


def chosen_name(
    whose: str, header: Sequence[str], wanted: str | None, usual: Sequence[str], role: str
) -> str:
    """The column of a role: the one that was asked for, or one with a usual name."""
    if wanted is not None:
        check_name(wanted)
        check_column(whose, header, wanted)
        return wanted
    column = next((name for name in usual if name in header), None)
    if column is None and role == "loss":
        every = [c for c in header if "loss" in c.lower()]
        # A file of validation losses alone is about these.
        like = [c for c in every if not is_held_out(c)] or every
        column = like[0] if len(like) == 1 else None
    if column is None:
        epochs = role == "step" and any("epoch" in name.lower() for name in header)
        unit = " A step is a number of updates; epochs are none." if epochs else ""
        raise UnknownNameError(
            f"{whose} has no column '{role}'{hint(role, header)}; it has {', '.join(header)}; "
            f"name it with `{role}`.{unit}"
        )
    return column


def rate_name(header: Sequence[str]) -> str | None:
    """The column of rates, if one has a usual name, also after a slash as in "opt/lr"."""
    usual = next((name for name in RATES if name in header), None)
    last = {name.rpartition("/")[2]: name for name in reversed(header)}
    return (
        usual
        or next((last[name] for name in RATES if name in last), None)
        or next((name for key, name in last.items() if key.startswith("lr-")), None)
    )


def taken(
    header: Iterable[str], names: Mapping[str, str | None], asked: Iterable[str | None],
    what: str = "column",
) -> list[str]:  # fmt: skip
    """What was taken unasked for each role; nothing where names are plain and single."""
    roles = {role: names[role] for role in ROLES if names.get(role) is not None}
    wanted = set(asked)
    unasked = {role: name for role, name in roles.items() if name not in wanted}
    several = len(set(STEPS) & set(header)) > 1 and "step" in unasked
    if not several and all(str(name).lower() == role for role, name in unasked.items()):
        return []
    first, *more = (f"'{name}' {{}}for the {ROLES[r]}" for r, name in unasked.items())
    said = ", ".join([first.format("was taken "), *(text.format("") for text in more)])
    role = next(iter(unasked))
    return [f"the {what} {said}; `--column {role}=NAME` (in Python `{role}=`) chooses another"]


def check_name(name: object) -> None:
    """Require the name of a column."""
    if not isinstance(name, str):
        raise ArgumentError(f"the name of a column must be text; got {name!r}.")


def check_column(whose: str, header: Sequence[str], name: str) -> None:
    """Require a column."""
    if name not in header:
        raise UnknownNameError(
            f"{whose} has no column '{name}'{hint(name, header)}; it has {', '.join(header)}."
        )


def hint(name: str, columns: Iterable[str]) -> str:
    """The nearest name, or one that holds it: "loss" is far from "train/loss" in letters."""
    names = list(columns)
    close = nearest(name, names)
    holding = next((k for k in names if name.lower() in k.lower()), None)
    return close or (f" (did you mean '{holding}'?)" if holding else "")


def is_held_out(name: str) -> bool:
    """Whether a name is one of held-out data."""
    return any(word in name.lower() for word in HELD_OUT)
