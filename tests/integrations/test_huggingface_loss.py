"""`la.huggingface` beside the model's own loss: the same number, one pair a sequence."""

import pytest
import torch
from torch import nn

import lossatlas as la
from lossatlas.errors import ArgumentError, DataError, LossError
from zoo import huggingface as zoo
from zoo.member import MEMBERS

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
SERVED = (
    "gpt2", "llama", "mixtral", "mamba", "rwkv", "bert", "t5", "bart", "whisper",
    "vision_transformer", "regression_head", "token_classification",
)  # fmt: skip


@pytest.mark.parametrize("name", SERVED)
def test_one_batch_gives_the_loss_of_the_model_itself(name):
    case = MEMBERS[name].build()
    case.model.eval()
    problem = getattr(case.model.config, "problem_type", None)
    for batch in case.batches:
        objective = la.Objective(case.model, la.huggingface(case.model), [batch])
        with torch.no_grad():
            own = float(case.model(**batch).loss)
        assert objective.value() == pytest.approx(own, rel=2e-6)
        assert objective.unit == "examples"
        assert len(objective.example_losses()) == len(batch["labels"])
    # Running a model with labels writes this; only the line above, which is not ours, may.
    fresh = MEMBERS[name].build()
    la.Objective(fresh.model, la.huggingface(fresh.model), fresh.batches)
    assert getattr(fresh.model.config, "problem_type", None) == problem


def test_the_value_does_not_depend_on_how_the_data_are_dealt_to_batches():
    case = MEMBERS["gpt2"].build()
    split = [
        {key: value[i : i + 1] for key, value in batch.items()}
        for batch in case.batches
        for i in range(len(batch["labels"]))
    ]
    dealt = la.Objective(case.model, la.huggingface(case.model), split).evaluate()
    whole = la.Objective(case.model, la.huggingface(case.model), case.batches).evaluate()
    assert dealt.value == pytest.approx(whole.value, rel=1e-6)
    assert dealt.stderr == pytest.approx(whole.stderr, rel=1e-5)


def test_several_labels_a_sequence_are_averaged():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        **zoo.SMALL, intermediate_size=12, image_size=4, patch_size=2, num_channels=1,
        num_labels=3,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    batch = {"pixel_values": torch.randn(4, 1, 4, 4), "labels": torch.eye(4, 3)}
    found = la.Objective(model, la.huggingface(model), [batch]).value()
    assert found == pytest.approx(float(model(**batch).loss), rel=1e-6)


def test_wrappers_lead_to_the_model():
    case = MEMBERS["gpt2"].build()
    compiled = torch.compile(case.model, backend="eager")
    assert la.huggingface(compiled).head == "causal"


def test_other_models_and_heads_are_refused_by_name():
    from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2ForCTC

    with pytest.raises(ArgumentError, match="with a config; got Linear: write loss"):
        la.huggingface(nn.Linear(2, 2))
    config = BertConfig(**zoo.SMALL, vocab_size=9, intermediate_size=12)
    with pytest.raises(ArgumentError, match=r"got BertModel: write loss"):
        la.huggingface(BertModel(config))
    audio = Wav2Vec2Config(
        **zoo.SMALL, intermediate_size=12, conv_dim=(8,), conv_kernel=(4,), conv_stride=(2,),
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, num_feat_extract_layers=1,
    )  # fmt: skip
    with pytest.raises(ArgumentError, match="got Wav2Vec2ForCTC"):
        la.huggingface(Wav2Vec2ForCTC(audio))


def test_batches_of_another_form_are_refused_by_name():
    model = MEMBERS["gpt2"].build().model
    loss = la.huggingface(model)
    tokens = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(DataError, match=r"mappings.*got tuple"):
        la.Objective(model, loss, [(tokens, tokens)])
    with pytest.raises(DataError, match=r"must have 'labels'; got input_ids: .*mlm=False"):
        la.Objective(model, loss, [{"input_ids": tokens}])
    with pytest.raises((DataError, LossError), match="one entry per token"):
        loss(model, {"input_ids": tokens, "labels": tokens[:, :3]})


def test_the_model_is_compared_once_and_not_at_every_point():
    case = MEMBERS["gpt2"].build()
    objective = la.Objective(case.model, la.huggingface(case.model), case.batches)
    calls = []
    handle = case.model.register_forward_hook(lambda *_: calls.append(1))
    objective.value()
    handle.remove()
    assert len(calls) == len(case.batches)


def test_a_loss_that_was_refused_is_refused_again():
    case = MEMBERS["gpt2"].build()

    class MoreLMHeadModel(type(case.model)):
        def forward(self, *args, **kwargs):
            found = super().forward(*args, **kwargs)
            if found.loss is not None:
                found.loss = found.loss + 1
            return found

    case.model.__class__ = MoreLMHeadModel
    loss = la.huggingface(case.model)
    for _ in range(2):
        with pytest.raises(LossError, match="it has more terms"):
            la.Objective(case.model, loss, case.batches)
