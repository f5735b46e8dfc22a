"""What guessing costs: the number of classes that a model of transformers chooses between."""

from typing import Any

from torch import nn

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
    bare: Any = model
    for _ in range(4):
        inner = getattr(bare, "_orig_mod", None)
        if inner is None and hasattr(bare, "get_base_model"):
            inner = bare.get_base_model()
        if inner is None and not hasattr(bare, "config"):
            inner = getattr(bare, "module", None)
        if inner is None or inner is bare:
            break
        bare = inner
    config, name = getattr(bare, "config", None), type(bare).__name__
    if name.endswith(_TOKENS):
        found = getattr(config, "vocab_size", None)
    elif name.endswith(_LABELS):
        problem = getattr(config, "problem_type", None)
        is_single = problem in (None, "single_label_classification")
        found = getattr(config, "num_labels", None) if is_single else None
    else:
        return None
    return found if isinstance(found, int) and found > 1 else None
