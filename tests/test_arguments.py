"""Arguments that do not fit are named; errors of our own are not hidden."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

import lossatlas as la
from lossatlas.arguments import described, fits, public
from lossatlas.errors import ArgumentError, FileError
from lossatlas.rng import generator


@public
def sum_of(values: Sequence[float], scale: float = 1.0, seed: int = 0) -> float:
    if scale == 7:
        raise KeyError("a fault of ours")
    return scale * sum(values) + seed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": 3}, "`values` must be a sequence, each item a number; got 3"),
        ({"values": ["a"]}, "`values` must be a sequence"),
        ({"values": [1], "scale": object()}, "`scale` must be a number; got an object"),
        ({"values": [1], "scale": True}, "`scale` must be a number; got True"),
        ({"values": [1], "seed": float("inf")}, "`seed` must be a whole number; got inf"),
        ({"values": [1], "seed": "0"}, "`seed` must be a whole number; got '0'"),
    ],
)
def test_the_argument_is_named(arguments, message):
    with pytest.raises(ArgumentError) as caught:
        sum_of(**arguments)
    assert str(caught.value).startswith(message)


def test_a_fault_of_ours_stays_as_it_is():
    with pytest.raises(KeyError, match="a fault of ours"):
        sum_of([1.0], 7)
    with pytest.raises(TypeError, match="unexpected keyword"):
        sum_of([1.0], scales=2)
    with pytest.raises(TypeError, match="missing 1 required"):
        sum_of()


def test_errors_of_a_users_function_stay_as_they_are():
    @public
    def each(progress: Callable[[int], None]) -> None:
        progress(1)

    def stop(_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        each(stop)


@public
def applied(
    function: Callable[[float], float], value: float, names: Sequence[str] = ()
) -> float:
    return function(value)


def code_of_a_user(body):
    """A function that lies in a file of its own, as a user's callback does."""
    names = {}
    exec(compile(f"def callback(value):\n    {body}", "/home/user/train.py", "exec"), names)
    return names["callback"]


@pytest.mark.parametrize("value", [float("nan"), "no number", 0.0])
def test_what_a_users_code_raises_is_never_blamed_on_an_argument(value):
    callback = code_of_a_user("raise ValueError('mine')")
    with pytest.raises(ValueError, match=r"^mine$") as caught:
        applied(callback, value)
    assert not isinstance(caught.value, ArgumentError)


@pytest.mark.parametrize("value", [0.0, -1.0, -3, 0, 2.0])
def test_zero_negative_numbers_and_empty_defaults_hide_no_fault_of_ours(value):
    def fails(_):
        raise IndexError("a fault of ours")

    with pytest.raises(IndexError, match="a fault of ours"):
        applied(fails, value, ())


@pytest.mark.parametrize("kind", [NameError, AssertionError, ImportError, UserWarning])
def test_faults_of_code_are_never_blamed_on_an_argument(kind):
    def fails(_):
        raise kind("a fault of ours")

    with pytest.raises(kind, match="a fault of ours"):
        applied(fails, float("nan"))


@pytest.mark.parametrize(
    ("function", "words"),
    [(dict, "it is the class dict"), (torch.nn.Linear(2, 2), "it is the module Linear")],
)
def test_a_class_or_module_that_cannot_be_called_as_a_function_is_named(function, words):
    with pytest.raises(ArgumentError, match=f"`function` cannot be used: {words}"):
        applied(function, 1.0)


def test_a_module_that_is_not_what_failed_is_not_named():
    @public
    def fails(function: Callable[[float], float]) -> float:
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError, match="a fault of ours"):
        fails(torch.nn.Linear(2, 2))


def test_what_is_no_usable_number_is_named():
    def fails(_):
        raise IndexError("deep inside")

    with pytest.raises(ArgumentError, match=r"`value` cannot be used: nan .*deep inside"):
        applied(fails, float("nan"))


def test_context_managers_are_looked_at_before_they_are_entered():
    @public
    @contextmanager
    def opened(path: str | Path) -> Iterator[str]:
        yield str(path).upper()

    with pytest.raises(ArgumentError, match=r"`path` must be a string or a Path; got 3"):
        opened(3)
    with opened("a") as name:
        assert name == "A"


def test_constructors_are_looked_at():
    @public
    class Thing:
        def __init__(self, size: int, names: Iterable[str] = ()) -> None:
            self.size, self.names = size, [name.upper() for name in names]

    assert Thing(3, {"a": 1}).names == ["A"]
    with pytest.raises(ArgumentError, match=r"`size` must be a whole number; got 1\.5"):
        Thing(1.5)
    with pytest.raises(ArgumentError, match="`names` must be a sequence, each item a string"):
        Thing(3, [1])


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (1, int, True),
        (np.int64(1), int, True),
        (True, int, False),
        (1, float, True),
        (torch.tensor(1.0), float, False),
        ((None, None), tuple[float, float], False),
        ("1", float, False),
        (None, float | None, True),
        ("a", Literal["a", "b"], True),
        ([1, 2], Sequence[int], True),
        (np.arange(3), Sequence[int], True),
        ("ab", Sequence[str], False),
        ((1, 2.0), tuple[int, float], True),
        ((1,), tuple[int, float], False),
        ({"a": torch.ones(1)}, Mapping[str, Tensor], True),
        ({"a": 1}, Mapping[str, Tensor], False),
        ([[1], [2, 3]], ArrayLike, False),
        ([[1, 2], [3, 4]], ArrayLike, True),
        (object(), ArrayLike, False),
        (np.ones(2), NDArray[np.float64], True),
        (np.ones(()), NDArray[np.float64], False),
        (print, Callable[[int], None], True),
        (3, Callable[[int], None], False),
        (int, Iterable[int], False),
        (object(), Any, True),
    ],
)
def test_what_fits(value, hint, result):
    assert fits(value, hint) is result
    assert described(hint)


def test_names_that_only_type_checkers_import_hide_no_other_argument():
    from lossatlas import io

    for wrong in (3, "text", [1], {1: 2}):
        with pytest.raises(ArgumentError, match="`parts` must be a mapping"):
            io.nested(wrong)
        with pytest.raises(ArgumentError, match="`tree` must be a mapping"):
            io.below(wrong, "part")


def test_code_of_compiled_packages_is_not_the_users():
    @public
    def drawn(seed: int) -> int:
        return int(np.random.default_rng(seed).integers(9))

    with pytest.raises(ArgumentError, match="`seed` must be a whole number; got an object"):
        drawn(torch.tensor(1.0))


def test_a_size_that_no_memory_holds_is_named():
    @public
    def zeros(count: int) -> Any:
        return np.zeros((count, count))

    with pytest.raises(ArgumentError, match=r"`count` cannot be used: .* too large"):
        zeros(10**15)


def test_exports_are_looked_at_wherever_they_are_taken_from():
    from lossatlas.curvature import trace
    from lossatlas.curvature.trace import trace as same

    for function in (trace, same, la.trace, la.random_plane, la.load):
        with pytest.raises(ArgumentError, match="must be"):
            function(object())


@pytest.mark.parametrize("seed", [float("inf"), 0.5, None, True, [1]])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ArgumentError, match="`seed` must be a whole number"):
        generator(seed, "x")
    objective = la.Objective(
        torch.nn.Linear(2, 1), la.supervised(torch.nn.functional.mse_loss), [_batch()]
    )
    with pytest.raises(ArgumentError, match="`seed` must be a whole number"):
        la.random_plane(objective, seed=seed)
    with pytest.raises(ArgumentError, match=r"`model` must be a torch\.nn\.Module; got dict"):
        la.Objective({}, la.supervised(torch.nn.functional.mse_loss), [_batch()])
    from lossatlas import curvature

    with pytest.raises(ArgumentError, match="`radius` must be a number; got True"):
        curvature.average_sharpness(objective, radius=True)


def _batch():
    return torch.eye(2), torch.zeros(2, 1)


def test_paths_are_paths(tmp_path):
    with pytest.raises(ArgumentError, match="`path` must be the path"):
        la.load(3)
    with pytest.raises(FileError, match="is a folder"):
        la.load(tmp_path)
