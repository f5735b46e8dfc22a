"""`la.from_trainer`: the model, the data and the loss of a Hugging Face Trainer."""

import pytest
import torch
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, DataError, StochasticError
from zoo import huggingface  # noqa: F401 - its members join MEMBERS
from zoo.member import MEMBERS

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")


class Rows(torch.utils.data.Dataset):
    def __init__(self, *, noisy=False):
        case = MEMBERS["gpt2"].build()
        self.rows = [
            {key: value[i] for key, value in batch.items()}
            for batch in case.batches
            for i in range(len(batch["labels"]))
        ]
        self.noisy = noisy

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = dict(self.rows[index])
        if self.noisy:
            row["input_ids"] = torch.randint(1, 13, row["input_ids"].shape)
        return row


def trainer(folder, kind=None, *, data="eval", noisy=False, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_eval_batch_size=2,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        **options,
    )
    given = {f"{data}_dataset": Rows(noisy=noisy)}
    kind = kind or transformers.Trainer
    return kind(model=MEMBERS["gpt2"].build().model, args=arguments, **given)


def sequences(model, smoothing=0.0):
    """Own loop over single sequences: (sums, weights)."""
    model.eval()
    found = []
    with torch.no_grad():
        for row in Rows().rows:
            one = {key: value[None] for key, value in row.items()}
            labels = one.pop("labels")[0, 1:]
            logs = model(**one).logits[0, :-1].log_softmax(1)[labels != -100]
            picked = logs.gather(1, labels[labels != -100][:, None])[:, 0]
            losses = -(1 - smoothing) * picked - smoothing * logs.mean(1)
            found.append((float(losses.sum()), len(losses)))
    return found


@pytest.mark.parametrize("data", ["eval", "train"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_value_is_the_mean_over_tokens(tmp_path, data, smoothing):
    made = trainer(tmp_path, data=data, label_smoothing_factor=smoothing)
    objective = la.from_trainer(made, data=data)
    sums, weights = zip(*sequences(made.model, smoothing), strict=True)
    assert objective.value() == pytest.approx(sum(sums) / sum(weights), rel=1e-5)
    assert objective.evaluate().samples == len(Rows())
    assert objective.unit == "examples"


def test_one_batch_gives_what_the_trainer_computes(tmp_path):
    made = trainer(tmp_path, label_smoothing_factor=0.2)
    batch = next(iter(made.get_eval_dataloader()))
    made.model.eval()
    with torch.no_grad():
        own = float(made.compute_loss(made.model, dict(batch)))
    assert la.from_trainer(made, limit=1).value() == pytest.approx(own, rel=1e-5)


def test_a_compute_loss_of_ones_own_is_called(tmp_path):
    class Doubled(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            labels = inputs.pop("labels")
            logits = model(**inputs).logits
            return 2 * F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    made = trainer(tmp_path, Doubled)
    objective = la.from_trainer(made)
    model = made.model.eval()
    total, count = 0.0, 0
    for start in (0, 2, 4):
        rows = Rows().rows[start : start + 2]
        batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        with torch.no_grad():
            total += len(rows) * float(made.compute_loss(model, batch))
        count += len(rows)
    assert objective.value() == pytest.approx(total / count, rel=1e-5)
    assert objective.unit == "batches"
    assert objective.gradient()


def test_what_a_trainer_lacks_is_named(tmp_path):
    made = trainer(tmp_path)
    with pytest.raises(DataError, match="no train data set"):
        la.from_trainer(made, data="train")
    with pytest.raises(ArgumentError, match="'eval', 'train', a data set"):
        la.from_trainer(made, data="validation")
    with pytest.raises(ArgumentError, match=r"transformers\.Trainer; got Linear"):
        la.from_trainer(torch.nn.Linear(1, 1))
    assert la.from_trainer(made, data=Rows()).value() == la.from_trainer(made).value()


def test_data_that_are_drawn_anew_are_named(tmp_path):
    with pytest.raises(StochasticError, match="data=list"):
        la.from_trainer(trainer(tmp_path, noisy=True))
