"""The loss of a Hugging Face model, with one pair (sum, weight) per sequence."""

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.arguments import public
from lossatlas.errors import ArgumentError, DataError, LossError
from lossatlas.objective.names import unwrapped
from lossatlas.objective.weighted import Weighted

IGNORED = -100
# Class names say what head a model has; an encoder with a decoder is asked for first.
_HEADS = {
    "causal": ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"),
    "tokens": ("ForMaskedLM", "ForTokenClassification"),
    "classes": (
        "ForSequenceClassification",
        "ForImageClassification",
        "ForAudioClassification",
        "ForVideoClassification",
        "ForMultipleChoice",
    ),
}
_OWN = "write loss(model, batch), as in `lambda model, batch: model(**batch).loss`"


# Losses that were compared with their model's own. Not an attribute: whatever a pass changes in
# those comes back, and the comparison would be repeated at every point.
_COMPARED: "WeakSet[HuggingFaceLoss]" = WeakSet()


class HuggingFaceLoss:
    """The loss returned by `huggingface`.

    Args:
        model: a transformers model, or a wrapper of one (peft, DDP, torch.compile).
        label_smoothing: as in torch's cross entropy.
    """

    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0) -> None:
        bare = _bare(model)
        self.head = _head(bare)
        self.smoothing = label_smoothing
        self._config: Any = bare.config
        self._several = bool(getattr(bare.config, "is_encoder_decoder", False))
        cached = "use_cache" in inspect.signature(bare.forward).parameters
        self._extra = {"use_cache": False} if cached else {}
        if label_smoothing > 0:
            _COMPARED.add(self)

    def __call__(self, model: nn.Module, batch: Any) -> Weighted:
        """Losses of the sequences of a batch.

        Args:
            model: called with the entries of the batch as keywords.
            batch: a mapping with "labels".

        Returns:
            One sum and one weight per sequence.

        Raises:
            DataError: the batch is not a mapping, or its labels are missing or of another
                shape.
            LossError: the loss of the model itself is a different number.
        """
        labels = _labels(batch)
        inputs = {**self._extra, **batch}
        if not self._several:
            # A decoder is fed with the labels; all others compute a loss of them, for nothing.
            del inputs["labels"]
        pairs = self._pairs(_logits(model(**inputs)), labels)
        if self not in _COMPARED:
            self._compare(model, batch, pairs)
        return pairs

    def _pairs(self, logits: Tensor, labels: Tensor) -> Weighted:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.head == "classes":
            losses = self._of_classes(logits, labels)
            return Weighted(losses, torch.ones_like(losses, dtype=torch.float64))
        if logits.shape[:-1] != labels.shape:
            raise DataError(
                f"`labels` must have one entry per token, shape {tuple(logits.shape[:-1])}; "
                f"got {tuple(labels.shape)}: for a prompt before the tokens {_OWN}."
            )
        if self.head == "causal":
            logits, labels = logits[:, :-1], labels[:, 1:]
        losses = F.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.smoothing,
        ).view(labels.shape)
        return Weighted(losses.sum(1), (labels != IGNORED).sum(1).double())

    def _of_classes(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.reshape(len(labels), -1)
        problem = self._problem(logits, labels)
        if problem == "single_label_classification":
            return F.cross_entropy(
                logits, labels.view(-1), reduction="none", label_smoothing=self.smoothing
            )
        goal = labels.reshape(logits.shape).to(logits)
        if problem == "regression":
            return (logits - goal).square().mean(1)
        return F.binary_cross_entropy_with_logits(logits, goal, reduction="none").mean(1)

    def _problem(self, logits: Tensor, labels: Tensor) -> str:
        # As the model decides it, which writes the answer into its configuration.
        given = getattr(self._config, "problem_type", None)
        if given is not None:
            return str(given)
        if logits.shape[1] == 1:
            return "regression"
        whole = not labels.is_floating_point()
        return "single_label_classification" if whole else "multi_label_classification"

    def _compare(self, model: nn.Module, batch: Any, pairs: Weighted) -> None:
        # Once: a router's loss, label smoothing or a loss of its own would be missed silently.
        with torch.no_grad(), _kept_problem(self._config):
            own = model(**{**self._extra, **batch})
        ours = float(pairs.sums.detach().double().sum() / pairs.weights.sum())
        theirs = float(own["loss"] if isinstance(own, Mapping) else own[0])
        eps = max(torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point())
        close = math.isclose(ours, theirs, rel_tol=max(1e-4, 4 * eps), abs_tol=1e-6)
        if not close and not (math.isnan(ours) and math.isnan(theirs)):
            raise LossError(
                f"`huggingface` expects the mean over labels that {type(model).__name__} gives "
                f"as its loss; got {ours:.6g} where the model says {theirs:.6g}: it has more "
                f"terms (a router's, say: config.output_router_logits=False); else {_OWN}."
            )
        _COMPARED.add(self)


@public
def huggingface(model: nn.Module) -> HuggingFaceLoss:
    """Loss of a Hugging Face model for `Objective`, with one (sum, weight) pair per sequence.

    The value of the objective is the sum of the losses of all labels divided by their number,
    independent of the split into batches; labels of -100 are ignored. On one batch it equals
    `model(**batch).loss`, which is checked on the first batch. The unit of the standard error
    is the sequence, because tokens of one sequence are not independent.

    | head | loss of a label |
    |---|---|
    | causal (`...ForCausalLM`, `...LMHeadModel`) | cross entropy of the next token |
    | masked, token classification | cross entropy at the token |
    | sequence to sequence (T5, BART, Whisper) | cross entropy of the decoder's token |
    | sequence, image or audio classification | as `config.problem_type` says |

    Args:
        model: a transformers model, possibly wrapped by peft, DDP or `torch.compile`. Batches
            are mappings with "labels" and the arguments of `model.forward`.

    Returns:
        A loss(model, batch) that returns `Weighted`.

    Raises:
        ArgumentError: `model` is not a transformers model, or its head is none of these.

    Examples:
        >>> import pytest, torch, lossatlas as la
        >>> transformers = pytest.importorskip("transformers")
        >>> config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11)
        >>> model = transformers.GPT2LMHeadModel(config)
        >>> tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
        >>> labels = tokens.masked_fill(tokens == 0, -100)
        >>> batch = {"input_ids": tokens, "labels": labels}
        >>> objective = la.Objective(model, la.huggingface(model), [batch])
        >>> objective.unit
        'examples'
    """
    return HuggingFaceLoss(model)


def _bare(model: nn.Module) -> Any:
    bare = unwrapped(model)
    if not isinstance(bare, nn.Module) or not hasattr(bare, "config"):
        raise ArgumentError(
            "`model` must be a model of transformers, with a config; got "
            f"{type(bare).__name__}: {_OWN}."
        )
    return bare


def _head(model: nn.Module) -> str:
    name = type(model).__name__
    config: Any = model.config
    generates = name.endswith(("ForConditionalGeneration", "LMHeadModel", "ForCausalLM"))
    if getattr(config, "is_encoder_decoder", False) and generates:
        return "tokens"
    for head, endings in _HEADS.items():
        if name.endswith(endings):
            return head
    endings = tuple(ending for each in _HEADS.values() for ending in each)
    raise ArgumentError(
        "`huggingface` supports causal, masked and sequence-to-sequence language models and "
        f"classifiers ({', '.join(endings[:3])}, ...); got {name}: {_OWN}."
    )


def _labels(batch: Any) -> Tensor:
    if not isinstance(batch, Mapping):
        raise DataError(
            "`huggingface` needs batches that are mappings, as from tokenizers and collators; "
            f"got {type(batch).__name__}: name the entries as model.forward does."
        )
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        entries = ", ".join(str(key) for key in batch)
        raise DataError(
            f"a batch must have 'labels'; got {entries}: for a causal model they are input_ids "
            "with -100 at padding (DataCollatorForLanguageModeling(tokenizer, mlm=False))."
        )
    return labels


def _logits(output: Any) -> Tensor:
    logits = output.get("logits") if isinstance(output, Mapping) else output[0]
    if not isinstance(logits, Tensor):
        raise LossError(f"the model's output must have 'logits'; got none: {_OWN}.")
    return logits


@contextmanager
def _kept_problem(config: Any) -> Iterator[None]:
    before = getattr(config, "problem_type", None)
    try:
        yield
    finally:
        if getattr(config, "problem_type", None) != before:
            config.problem_type = before
