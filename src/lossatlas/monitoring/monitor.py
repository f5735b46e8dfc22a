"""Read instruments during training, within a share of its time."""

import importlib
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from lossatlas.checks import check_at_least, check_flag, check_kind, check_positive, check_seed
from lossatlas.curvature.instrument import Context, Instrument, chosen
from lossatlas.errors import ArgumentError, AtlasError, FileError
from lossatlas.io import Provenance, load
from lossatlas.io.results import kind_of
from lossatlas.monitoring.clock import LOSS, Clock, Costs, update_at
from lossatlas.monitoring.monitor_log import MonitorLog
from lossatlas.monitoring.trackers import Tracker, as_tracker
from lossatlas.objective import Objective
from lossatlas.ranks import is_first
from lossatlas.result import Estimate
from lossatlas.text import slug
from lossatlas.tracebacks import reason_of, user_level

Readings = Mapping[str, Estimate]
_FORMAT = 1
TRAIN_LOSS = "training loss"
_REPLICA = (
    "`objective` must use the inner module (`model.module`): a forward pass through "
    "DistributedDataParallel on one process would wait for the others."
)


@dataclass
class _Losses:
    # Training losses since the last reading, summed on their device.
    count: int = 0
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, loss: Tensor | float) -> None:
        """Add a loss, without device synchronization."""
        value = loss.detach().double().mean() if isinstance(loss, Tensor) else float(loss)
        self.count += 1
        self.total = self.total + value
        self.squares = self.squares + value * value

    def mean(self) -> Estimate:
        """Their mean, with its error over batches."""
        n, mean = self.count, float(self.total) / self.count
        spread = max(float(self.squares) / n - mean**2, 0.0) / max(n - 1, 1)
        why = None if n > 1 else "a single batch has no standard error"
        error = math.sqrt(spread) if n > 1 else math.nan
        return Estimate(
            mean, error, samples=n, sample_unit="batches", why_no_error=why, name=TRAIN_LOSS
        )


@dataclass(frozen=True)
class _Row:
    # What is kept of one number of one reading.
    value: float
    error: float
    is_bound: bool
    why: str
    unit: str
    instrument: str
    is_minor: bool
    meaning: str = ""


class Monitor:
    """Reads instruments during training, within a share of its time.

    Call `step` after every update. At every `every`-th update each instrument is read if its
    part of the share allows: its total time plus the time of its last reading must be at most
    share x training time / number of instruments. An expensive instrument is therefore read
    less often than a cheap one, and skipped readings are counted. A first reading requires
    twice its `expected` time, so a short run may end without one, which the log states.
    `read()` reads immediately, and its time is compensated by later readings.

    The training is bitwise unchanged: weights, gradients, buffers, modes, optimizer state and
    random states. If an instrument fails, the reason is recorded and training continues.

    With several processes, rank 0 reads and the others return immediately. If the objective has
    `group=` or a sharded model, all read together, and the clock of rank 0 decides.

    Args:
        objective: the objective to read, with a few fixed batches, for example of validation
            data. Its model is the one in training (under DistributedDataParallel the inner
            module).
        instruments: names of `lossatlas.curvature.instruments()`, and "loss" for the mean loss
            of the objective. Default ("loss", "gradient").
        every: number of updates between two turns at which instruments may be read. Default 50.
        share: maximum share of the training time, at most 1; None reads at every turn. Default
            0.02.
        to: one or several destinations of readings: a path ending in ".nc" stores all readings
            as a `MonitorLog`, complete after every one, for `la.load` and `lossatlas atlas`;
            another path gets one JSON object per line; or a `SummaryWriter`, a W&B run, the
            module `mlflow`, or any object with log(values, step=).
        resume: continue the readings in existing ".nc" files of `to`; those of later steps are
            repeated. Default False: the log of an earlier run is replaced.
        optimizer: the optimizer, for instruments that evaluate its steps ("stability").
        lr: a learning rate to evaluate, instead of an optimizer.
        seed: random seed of the instruments. Default 0.

    Attributes:
        done: number of updates so far.
        expected: instrument -> expected seconds of a first reading, from its stated cost and
            the time of one pass over the data.

    Raises:
        ArgumentError: a number is out of range, there is no instrument, or the model is a
            DistributedDataParallel replica.
        UnknownNameError: an instrument is unknown; the message gives the nearest match.
        FileError: a file to continue cannot be read, or a file of `to` is not a log.

    Examples:
        >>> import torch, lossatlas as la
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.eye(2), torch.ones(2, 1))
        >>> objective = la.Objective(model, loss, [batch])
        >>> monitor = la.Monitor(objective, ("loss",), every=10, share=None)
        >>> for _ in range(40):
        ...     optimizer.zero_grad()
        ...     value = loss(model, batch)
        ...     value.backward()
        ...     optimizer.step()
        ...     readings = monitor.step(loss=value)
        >>> monitor.log.steps.tolist(), monitor.log.names
        ([10, 20, 30, 40], ('loss', 'training loss'))
    """

    def __init__(
        self,
        objective: Objective,
        instruments: str | Sequence[str] = (LOSS, "gradient"),
        *,
        every: int = 50,
        share: float | None = 0.02,
        to: Any = (),
        resume: bool = False,
        optimizer: Optimizer | None = None,
        lr: float | None = None,
        seed: int = 0,
    ) -> None:
        _check_objective(objective)
        check_at_least("every", every, 1)
        check_seed("seed", seed)
        check_flag("resume", resume)
        _check_share(share)
        if lr is not None:
            check_positive("lr", lr)
        if optimizer is not None:
            check_kind("optimizer", optimizer, Optimizer, "pass an optimizer of torch")
        self.objective, self.every, self.share = objective, every, share
        self.optimizer, self.lr, self.seed = optimizer, lr, seed
        self._instruments = _named(instruments)
        self.done, self._is_new = 0, True
        self._clock, self._losses = Clock(), _Losses()
        self._steps: list[int] = []
        self._rows: list[dict[str, _Row]] = []
        self._turns = 0
        self._skipped = dict.fromkeys(self._instruments, 0)
        self._missing: dict[str, str] = {}
        self._files, self._trackers = _places(to)
        self._costs = Costs(objective, self._instruments, len(self._files))
        self._lost: set[int] = set()
        for name in ("xarray", "h5netcdf") if self._files else ():
            # Importing the file writer takes a second: not during training.
            importlib.import_module(name)
        if resume:
            self._take_up()
        else:
            _check_replaceable(self._files)

    @property
    def is_silent(self) -> bool:
        """Whether another process does the readings."""
        return self.objective.ranks is None and not is_first()

    @property
    def expected(self) -> dict[str, float]:
        """Instrument -> expected seconds of a first reading."""
        return self._costs.first(self._clock)

    def step(self, loss: Tensor | float | None = None, *, step: int | None = None) -> Readings:
        """Record an update, and read the instruments that are due.

        Args:
            loss: loss of the current training batch; its mean between readings is recorded as
                "training loss".
            step: number of updates so far. Default: one more than at the last call.

        Returns:
            Name -> estimate for the readings of this call; usually empty.

        Raises:
            ArgumentError: `step` is not an integer above the last one.
        """
        if step is not None and (
            isinstance(step, bool) or step != int(step) or step < self.done
        ):
            raise ArgumentError(
                f"`step` must be a whole number from {self.done}; got {step!r}."
            )
        before, self.done = self.done, self.done + 1 if step is None else int(step)
        if loss is not None:
            self.observe(loss)
        if self._is_new:
            # Updates and turns before the first call were those of somebody else.
            self._is_new, before = False, self.done - 1
            self._clock.begin(self.done)
        # A step that was counted by somebody else may pass over a turn.
        if self.done // self.every == before // self.every:
            return {}
        return {} if self.is_silent else self._turn()

    def observe(self, loss: Tensor | float) -> None:
        """Record a training loss without an update.

        Args:
            loss: a number, or one per example.
        """
        self._losses.add(loss)

    def read(self) -> Readings:
        """Read all instruments now, regardless of the share.

        Returns:
            Name -> estimate.
        """
        return {} if self.is_silent else self._measure(tuple(self._instruments))

    def _turn(self) -> Readings:
        self._turns += 1
        ranks = self.objective.ranks
        due = self._due() if ranks is None else ranks.first(self._due)
        for name in self._instruments:
            self._skipped[name] += name not in due
        return self._measure(due) if due else {}

    def _due(self) -> tuple[str, ...]:
        _synchronize()
        self._clock.tick(self.done)
        names = tuple(self._instruments)
        if self.share is None:
            return names
        costs = self._costs.next(self._clock)
        affords = partial(self._clock.affords, share=self.share, parts=len(names))
        return tuple(name for name in names if affords(name, costs[name]))

    def _measure(self, names: Sequence[str]) -> Readings:
        _synchronize()
        self._clock.tick(self.done)
        found: dict[str, tuple[str, Estimate]] = {}
        costs: dict[str, float] = {}
        self._drop_later()
        for name in names:
            started = time.perf_counter()
            found |= self._read_one(name, found)
            _synchronize()
            costs[name] = time.perf_counter() - started
        if self._losses.count:
            found[TRAIN_LOSS] = (TRAIN_LOSS, self._losses.mean())
            self._losses = _Losses()
        self._steps.append(self.done)
        self._rows.append({key: _row(*entry) for key, entry in found.items()})
        readings = {key: estimate for key, (_, estimate) in found.items()}
        if is_first():
            self._send(readings)
        self._clock.charge(costs)
        return readings

    def _read_one(self, name: str, taken: Mapping[str, Any]) -> dict[str, tuple[str, Estimate]]:
        try:
            estimates, why = self._estimates(name)
        except (AtlasError, MemoryError, RuntimeError) as error:
            # A failed reading must not stop the training.
            self._note(name, str(error))
            return {}
        why += [f"{each.name} is not a number" for each in estimates if math.isnan(each.value)]
        self._note(name, "; ".join(dict.fromkeys(why)))
        readings = {}
        for each in estimates:
            key = each.name if each.name not in taken else f"{name}: {each.name}"
            readings[key] = (name, replace(each, name=key, checked=()))
        return readings

    def _estimates(self, name: str) -> tuple[list[Estimate], list[str]]:
        # What an instrument measures, and why it could not measure the rest.
        instrument = self._instruments[name]
        if instrument is None:
            return [replace(self.objective.evaluate(), name=LOSS)], []
        context = Context(self.objective, self.seed, lr=self.lr, optimizer=self.optimizer)
        result = instrument.run(context)
        return list(result.estimates()), list(result.missing.values())

    def _note(self, name: str, why: str) -> None:
        if why:
            self._missing[name] = why
        else:
            self._missing.pop(name, None)

    # Readings of steps that a resumed training makes again.
    def _drop_later(self) -> None:
        while self._steps and self._steps[-1] >= self.done:
            self._steps.pop()
            self._rows.pop()

    def _send(self, readings: Readings) -> None:
        values = tracked(readings)
        targets: list[Callable[[], Any]] = [partial(self._save, path) for path in self._files]
        targets += [partial(each.log, values, self.done) for each in self._trackers]
        for place, send in enumerate(targets):
            self._try(place, send)

    def _try(self, place: int, send: Callable[[], Any]) -> None:
        try:
            send()
        except Exception as error:
            # A disk that is full or a server that is gone must not end a training.
            if place not in self._lost:
                self._lost.add(place)
                warnings.warn(
                    f"readings could not be sent ({reason_of(error)}); training continues, and "
                    "`log` has them.",
                    stacklevel=user_level(),
                )

    def _save(self, path: Path) -> None:
        self.log.save(path)

    @property
    def log(self) -> MonitorLog:
        """All readings so far."""
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        last = {name: row[name] for row in self._rows for name in row}
        shape = (len(self._rows), len(names))
        values, errors = np.full(shape, math.nan), np.full(shape, math.nan)
        for at, row in enumerate(self._rows):
            for name, entry in row.items():
                place = names.index(name)
                values[at, place], errors[at, place] = entry.value, entry.error
        settings = {"every": self.every, "instruments": list(self._instruments)}
        return MonitorLog(
            np.array(self._steps, dtype=np.int64),
            tuple(names),
            tuple(last[name].instrument for name in names),
            tuple(last[name].unit for name in names),
            values,
            errors,
            tuple(last[name].is_bound for name in names),
            tuple(last[name].why for name in names),
            share=math.nan if self.share is None else self.share,
            training_seconds=self._clock.training,
            monitoring_seconds=self._clock.monitoring,
            updates=self._clock.at,
            costs=dict(self._clock.last),
            expected={k: v for k, v in self.expected.items() if k not in self._clock.last},
            due={} if self.share is None else self._due_at(self.share),
            turns=self._turns,
            skipped=dict(self._skipped),
            missing=dict(self._missing),
            minor=tuple(name for name in names if last[name].is_minor),
            meanings=tuple(last[name].meaning for name in names),
            provenance=Provenance(seed=self.seed, settings=settings),
        )

    # At the pace of the training so far.
    def _due_at(self, share: float) -> dict[str, int]:
        due = {}
        for name, cost in self._costs.next(self._clock).items():
            seconds = self._clock.needed(name, cost, share, len(self._instruments))
            due[name] = update_at(seconds, self._clock, self.every)
        return {name: update for name, update in due.items() if update}

    def __enter__(self) -> "Monitor":
        self._clock.tick(self.done)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(failed=error is not None)

    def close(self) -> None:
        """Write the files a last time, with current times; warn if nothing was read."""
        self._close()

    def _close(self, *, failed: bool = False) -> None:
        if self.is_silent or not is_first():
            return
        if self._clock.since is not None:
            self._clock.tick(self.done)
        for place, path in enumerate(self._files if self.done else ()):
            self._try(place, partial(self._save, path))
        # The error of a training that failed is all that counts then.
        if self._turns and not (self._steps or failed):
            warnings.warn(" ".join(self.log.sentences()), stacklevel=user_level())

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs to continue the readings.

        Returns:
            Plain values.
        """
        clock = asdict(self._clock) | {"since": None}
        sums = [self._losses.count, float(self._losses.total), float(self._losses.squares)]
        return {
            "format": _FORMAT,
            "done": self.done,
            "steps": list(self._steps),
            "rows": [{k: asdict(row) for k, row in each.items()} for each in self._rows],
            "turns": self._turns,
            "skipped": dict(self._skipped),
            "missing": dict(self._missing),
            "clock": clock,
            "losses": sums,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state.

        Args:
            state_dict: output of `state_dict`.

        Raises:
            ArgumentError: the state is not one of a Monitor.
        """
        if not isinstance(state_dict, Mapping) or state_dict.get("format") != _FORMAT:
            raise ArgumentError(
                "`state_dict` must come from state_dict() of a Monitor of this version."
            )
        self.done, self._steps = state_dict["done"], list(state_dict["steps"])
        self._rows = [
            {key: _Row(**row) for key, row in each.items()} for each in state_dict["rows"]
        ]
        self._turns, self._missing = state_dict["turns"], dict(state_dict["missing"])
        self._skipped |= {k: v for k, v in state_dict["skipped"].items() if k in self._skipped}
        self._clock, self._is_new = Clock(**state_dict["clock"]), True
        self._losses = _Losses(*state_dict["losses"])

    def _take_up(self) -> None:
        for path in self._files:
            if not path.is_file():
                continue
            stored = load(path)
            if not isinstance(stored, MonitorLog):
                raise ArgumentError(
                    f"'{path}' must contain the log of a monitor to continue; it contains "
                    f"{type(stored).__name__}: give another path."
                )
            self._steps, self._rows = stored.steps.tolist(), _rows_of(stored)
            self._clock.training = stored.training_seconds
            self._clock.monitoring = stored.monitoring_seconds
            self._clock.at = self._clock.timed = max([stored.updates, *self._steps])
            self._clock.last = dict(stored.costs)
            self._turns = stored.turns
            self._skipped |= {k: v for k, v in stored.skipped.items() if k in self._skipped}
            return


def _check_objective(objective: Objective) -> None:
    remedy = "pass an Objective of the model in training"
    check_kind("objective", objective, Objective, remedy)
    if isinstance(objective.model, DistributedDataParallel):
        raise ArgumentError(_REPLICA)


# A log may take the place of a log, and of no other file.
def _check_replaceable(files: Sequence[Path]) -> None:
    for path in files:
        if path.exists() and kind_of(path) != MonitorLog.__kind__:
            raise FileError(
                f"`to`: '{path}' would be overwritten, but it is not the log of a monitor; "
                "give another path, or move the file."
            )


def _check_share(share: float | None) -> None:
    if share is None:
        return
    check_positive("share", share)
    if share > 1:
        raise ArgumentError(f"`share` must be at most 1, the whole training time; got {share}.")


def tracked(readings: Readings) -> dict[str, float]:
    """Readings for trackers: finite values of "monitor/NAME" and "monitor/NAME_error"."""
    tracked: dict[str, float] = {}
    for name, estimate in readings.items():
        key = f"monitor/{slug(name)}"
        tracked |= {key: estimate.value, f"{key}_error": estimate.error}
    return {key: value for key, value in tracked.items() if math.isfinite(value)}


def _named(instruments: str | Sequence[str]) -> dict[str, Instrument | None]:
    # Name -> instrument; None for the loss of the objective.
    given = instruments.split(",") if isinstance(instruments, str) else instruments
    if not isinstance(given, Iterable) or not all(isinstance(name, str) for name in given):
        raise ArgumentError(f"`instruments` must be names; got {instruments!r}.")
    names = [name.strip() for name in given]
    found: dict[str, Instrument | None] = {LOSS: None} if LOSS in names else {}
    found |= {each.name: each for each in chosen([name for name in names if name != LOSS])}
    if not found:
        raise ArgumentError(
            '`instruments` must contain at least one name, as in ("loss", "gradient").'
        )
    return found


def _places(to: Any) -> tuple[list[Path], list[Tracker]]:
    files, trackers = [], []
    for each in to if isinstance(to, list | tuple) else [to]:
        if isinstance(each, str | Path) and str(each).endswith(".nc"):
            files.append(Path(each))
        else:
            trackers.append(as_tracker(each))
    return files, trackers


def _row(instrument: str, estimate: Estimate) -> _Row:
    return _Row(
        estimate.value, estimate.error, math.isfinite(estimate.bound),
        estimate.why_no_error or "",
        estimate.unit, instrument, estimate.is_minor, estimate.meaning,
    )  # fmt: skip


def _rows_of(log: MonitorLog) -> list[dict[str, _Row]]:
    rows = []
    for values, errors in zip(log.values.tolist(), log.errors.tolist(), strict=True):
        row = {}
        for at, name in enumerate(log.names):
            if not math.isnan(values[at]):
                row[name] = _Row(
                    values[at], errors[at], log.bounded[at], log.reasons[at], log.units[at],
                    log.instruments[at], name in log.minor, log.meaning(name),
                )  # fmt: skip
        rows.append(row)
    return rows


def _synchronize() -> None:
    # Pending work of the device belongs to the code that submitted it.
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
