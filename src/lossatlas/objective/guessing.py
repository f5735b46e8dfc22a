"""What guessing costs: the number of classes that a model of transformers chooses between."""

from typing import Any

from torch import nn

from lossatlas.objective.names import unwrapped

_TOKENS = ("LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForConditionalGeneration")
_LABELS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForImageClassification",
    "ForAudioClassification",
    "ForVideoClassification",
)


def guessed_classes(model: nn.Module) -> int | None:
    """How many classes its cross entropy is over; None where that is not known."""
    bare = unwrapped(model)
    config: Any = getattr(bare, "config", None)
    name = type(bare).__name__
    if name.endswith(_TOKENS):
        classes = getattr(config, "vocab_size", None)
    elif name.endswith(_LABELS):
        problem = getattr(config, "problem_type", None)
        is_single = problem in (None, "single_label_classification")
        classes = getattr(config, "num_labels", None) if is_single else None
    else:
        return None
    return classes if isinstance(classes, int) and classes > 1 else None
