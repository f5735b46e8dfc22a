"""Data sets by name, as for `--data`."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lossatlas.checks import check_at_least, check_one_of, nearest
from lossatlas.errors import ArgumentError, DataError, UnknownNameError
from lossatlas.objective.user_code import wrap_errors
from lossatlas.training.dataset import Dataset
from lossatlas.training.folder import load_folder
from lossatlas.training.images import normalized
from lossatlas.training.parquet import load_parquet
from lossatlas.training.specs import find_factory, is_factory, parse_call, split_options
from lossatlas.training.tables import load_npz
from lossatlas.training.text import load_text
from lossatlas.training.user_data import as_dataset

LOADERS: dict[str, Callable[..., Dataset]] = {
    "parquet": load_parquet,
    "folder": load_folder,
    "npz": load_npz,
    "text": load_text,
}
FORMS = (
    "digits",
    *(f"{name}:PATH" for name in LOADERS),
    "package.module:factory",
    "path/file.py:factory",
)
Normalize = str | Sequence[Sequence[float]]


def load_dataset(
    spec: str,
    *,
    examples: int | None = None,
    normalize: Normalize | None = None,
    **options: Any,
) -> Dataset:
    """Load a data set by name.

    Args:
        spec: `digits` (scikit-learn's, 8x8 gray, 1,797 of them), `parquet:PATH` (images and
            labels as on the Hugging Face hub), `folder:PATH` (a subfolder for each class),
            `npz:PATH`, `text:PATH` (characters), or `package.module:factory` or
            `path/file.py:factory`, a function that returns a pair (inputs, targets) of tensors,
            a `Dataset`, a torch Dataset of (input, target) examples, or a list of batches
            (inputs, targets). Options may follow a path, as in `npz:faces.npz#x=pixels,y=age`
            or `text:poems.txt#block=32`.
        examples: maximum number of examples, from the first; only these are decoded.
        normalize: for images: "unit" (0..1, the default), "centered", "imagenet",
            "standardized" or (means, deviations). Ignored for other data; an option
            `#normalize=...` in `spec` takes precedence.
        **options: options of the loader by keyword, with precedence over those in `spec`.

    Returns:
        The data.

    Raises:
        UnknownNameError: the form, option or normalization is unknown (the message gives the
            nearest match).
        ArgumentError: `examples` is below 1, or an option is invalid.
        FileError: the file is missing, damaged or of another format.
        DataError: the data are empty or of the wrong form.

    Examples:
        >>> data = load_dataset("digits", examples=100)
        >>> tuple(data.inputs.shape), data.outputs
        ((100, 1, 8, 8), 10)
    """
    if not isinstance(spec, str):
        raise ArgumentError(f"`data` must be a string such as 'digits'; got {spec!r}.")
    if examples is not None:
        check_at_least("examples", examples, 1)
    kind, colon, location = spec.strip().partition(":")
    if kind == "digits" and not colon:
        return _digits(examples, normalize or "unit")
    if kind in LOADERS and colon:
        path, written = split_options(location)
        requested = written | options
        return LOADERS[kind](path, examples=examples, **_fitting(kind, requested, normalize))
    if is_factory(spec):
        return _from_factory(spec, examples, options)
    names = ["digits", *LOADERS]
    raise UnknownNameError(
        f"`data` must be one of {', '.join(FORMS)}; got {spec!r}{nearest(kind, names)}."
    )


def _fitting(kind: str, options: dict[str, Any], normalize: Normalize | None) -> dict[str, Any]:
    names = [
        name
        for name, parameter in inspect.signature(LOADERS[kind]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "examples"
    ]
    for name in options:
        check_one_of(f"option of {kind}", name, names)
    requested = (
        {} if normalize is None or "normalize" not in names else {"normalize": normalize}
    )
    return requested | options


def _digits(examples: int | None, normalize: Normalize) -> Dataset:
    from sklearn.datasets import load_digits

    raw = load_digits()
    return Dataset(
        normalized(torch.from_numpy(raw.images)[:examples, None], normalize, white=16),
        torch.from_numpy(raw.target)[:examples].clone(),
        "digits",
        classes=tuple(map(str, range(10))),
    )


def _from_factory(spec: str, examples: int | None, options: dict[str, Any]) -> Dataset:
    call = parse_call("data", spec)
    make = find_factory("data", call.name)
    with wrap_errors(f"`data`: '{spec}'", "check its code.", DataError):
        # A torch Dataset of the user is read here: its code runs too.
        return as_dataset(make(*call.args, **(call.options | options)), spec, examples)
