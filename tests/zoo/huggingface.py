"""Architectures of transformers with random weights; nothing is downloaded.

The truth adds up the logits of one sequence at a time; the library is given
`la.huggingface(model)`.
"""

from functools import partial

import torch
from torch.nn import functional as F

import lossatlas as la
from zoo.member import Case, mean_over, refused, right

# Their norms and softmaxes are in float32 whatever the model is in: steps must be longer.
HF = {"needs": ("transformers",), "step": 1e-3}
VOCABULARY = 13
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def each_sequence(model, batch, *, shift: int = 0, **extra):
    """Own arithmetic on the logits of one sequence at a time, and how many labels count."""
    total, weight = 0.0, 0
    for row in range(len(batch["labels"])):
        alone = {key: value[row : row + 1] for key, value in batch.items()}
        logits, labels = model(**alone, **extra).logits, alone["labels"]
        if labels.ndim == 1:
            logits, labels = logits[:, None], labels[:, None]
        steps = labels.shape[1]
        for place in range(shift, steps):
            label = int(labels[0, place])
            if label != -100:
                scores = logits[0, place - shift].double()
                total = total + scores.logsumexp(0) - scores[label]
                weight += 1
    return total, weight


def causal(model, batch, **extra):
    return each_sequence(model, batch, shift=1, **extra)


def squared(model, batch):
    out = model(**batch).logits[:, 0].double()
    return (out - batch["labels"]).square().sum(), len(out)


def sentences(*sizes: int, length: int = 6, **entries):
    """Right-padded; labels are the tokens, -100 at padding."""
    batches = []
    for index, n in enumerate(sizes):
        tokens = torch.randint(1, VOCABULARY, (n, length))
        lengths = torch.arange(n)[:, None] % (length - 2) + 3 - index
        kept = torch.arange(length)[None] < lengths
        mask = kept.long()
        batches.append(
            {
                "input_ids": tokens * mask,
                "attention_mask": mask,
                "labels": tokens.masked_fill(~kept, -100),
            }
        )
    return batches


def language_model(model, plain=causal):
    return Case(model, la.huggingface(model), sentences(3, 2), plain)


@right("transformers", **HF)
def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=VOCABULARY, n_positions=16)
    return language_model(GPT2LMHeadModel(config))


@right("transformers", **HF)
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **SMALL, vocab_size=VOCABULARY, intermediate_size=12, num_key_value_heads=1
    )
    return language_model(LlamaForCausalLM(config))


@right("transformers", **(HF | {"double": False, "step": 1e-2}))
def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        **SMALL,
        vocab_size=VOCABULARY,
        intermediate_size=12,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    return language_model(MixtralForCausalLM(config))


@refused(
    "transformers", "construction", "(?s)huggingface.*router.*model\\(\\*\\*batch\\)", **HF
)
def mixtral_with_the_loss_of_its_router():
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        **SMALL,
        vocab_size=VOCABULARY,
        intermediate_size=12,
        num_key_value_heads=1,
        num_local_experts=3,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
    )
    return language_model(MixtralForCausalLM(config))


@right("transformers", **HF)
def mamba():
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        hidden_size=8, num_hidden_layers=1, vocab_size=VOCABULARY, state_size=4
    )
    return language_model(MambaForCausalLM(config))


@right("transformers", **(HF | {"step": 1e-5}))
def rwkv():
    from transformers import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(
        hidden_size=8,
        attention_hidden_size=8,
        num_hidden_layers=2,
        vocab_size=VOCABULARY,
        context_length=16,
    )
    model = RwkvForCausalLM(config)
    return language_model(model, partial(causal, use_cache=False))


@refused(
    "transformers", "gradient", "(?s)modified by an inplace operation.*use_cache=False", **HF
)
def rwkv_that_writes_into_its_cache():
    from transformers import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(
        hidden_size=8,
        attention_hidden_size=8,
        num_hidden_layers=2,
        vocab_size=VOCABULARY,
        context_length=16,
    )

    def loss(model, batch):
        return model(**batch).loss

    batches = [{k: b[k] for k in ("input_ids", "labels")} for b in sentences(3, 3)]

    def plain(model, batch):
        return model(**batch, use_cache=False).loss * len(batch["labels"]), len(batch["labels"])

    return Case(RwkvForCausalLM(config), loss, batches, plain)


@right("transformers", **HF)
def bert():
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(**SMALL, vocab_size=VOCABULARY, intermediate_size=12)
    return language_model(BertForMaskedLM(config), each_sequence)


@right("transformers", **(HF | {"step": 1e-4}))
def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=8,
        d_kv=4,
        d_ff=12,
        num_layers=1,
        num_heads=2,
        vocab_size=VOCABULARY,
        decoder_start_token_id=0,
    )
    return language_model(T5ForConditionalGeneration(config), each_sequence)


@right("transformers", **HF)
def bart():
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=12,
        decoder_ffn_dim=12,
        vocab_size=VOCABULARY,
        max_position_embeddings=16,
    )
    return language_model(BartForConditionalGeneration(config), each_sequence)


@right("transformers", **HF)
def whisper():
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=12,
        decoder_ffn_dim=12,
        vocab_size=VOCABULARY,
        num_mel_bins=4,
        max_source_positions=6,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = WhisperForConditionalGeneration(config)
    batches = [
        {"input_features": torch.randn(len(b["labels"]), 4, 12), "labels": b["labels"]}
        for b in sentences(3, 2)
    ]
    return Case(model, la.huggingface(model), batches, each_sequence)


@right("transformers", **HF)
def vision_transformer():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        **SMALL, intermediate_size=12, image_size=4, patch_size=2, num_channels=1, num_labels=3
    )
    model = ViTForImageClassification(config)
    batches = [
        {"pixel_values": torch.randn(n, 1, 4, 4), "labels": torch.arange(n) % 3} for n in (4, 3)
    ]
    return Case(model, la.huggingface(model), batches, each_sequence)


@right("transformers", **HF)
def regression_head():
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        dim=8, n_layers=1, n_heads=2, hidden_dim=12, vocab_size=VOCABULARY, num_labels=1
    )
    model = DistilBertForSequenceClassification(config)
    batches = [{**b, "labels": torch.randn(len(b["labels"]))} for b in sentences(3, 2)]
    return Case(model, la.huggingface(model), batches, squared)


@right("transformers", **HF)
def token_classification():
    from transformers import ElectraConfig, ElectraForTokenClassification

    config = ElectraConfig(
        **SMALL,
        embedding_size=8,
        vocab_size=VOCABULARY,
        intermediate_size=12,
        num_labels=VOCABULARY,
    )
    return language_model(ElectraForTokenClassification(config), each_sequence)


@refused(
    "transformers",
    "curvature",
    "(?s)_ctc_loss.*no second derivative.*differences",
    needs=("transformers",),
)
def wav2vec2():
    """CTC has first derivatives only; its loss is the model's own, one mean a batch."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        **SMALL,
        vocab_size=6,
        intermediate_size=12,
        conv_dim=(8, 8),
        conv_kernel=(4, 3),
        conv_stride=(2, 2),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_feat_extract_layers=2,
        ctc_loss_reduction="mean",
        mask_time_prob=0.0,
        apply_spec_augment=False,
    )
    model = Wav2Vec2ForCTC(config)

    def loss(model, batch):
        return model(**batch).loss

    batches = [
        {"input_values": torch.randn(n, 60), "labels": torch.randint(1, 6, (n, 3))}
        for n in (2, 3)
    ]
    return Case(model, loss, batches, mean_over(lambda b: len(b["labels"]), loss))


@right("transformers", **HF)
def clip():
    """Contrastive of two towers: a batch is the unit."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig(
        **SMALL,
        intermediate_size=12,
        vocab_size=VOCABULARY,
        projection_dim=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    image = CLIPVisionConfig(
        **SMALL, intermediate_size=12, image_size=4, patch_size=2, projection_dim=8
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=image.to_dict(), projection_dim=8
    )

    def loss(model, batch):
        scores = model(**batch).logits_per_image
        goal = torch.arange(len(scores))
        return (F.cross_entropy(scores, goal) + F.cross_entropy(scores.T, goal)) / 2

    batches = [
        {"pixel_values": torch.randn(n, 3, 4, 4), "input_ids": torch.randint(3, 13, (n, 5))}
        for n in (4, 3)
    ]
    plain = mean_over(lambda b: len(b["input_ids"]), loss)
    return Case(CLIPModel(config), loss, batches, plain)


@right("transformers", **(HF | {"needs": ("transformers", "peft")}))
def lora_of_peft():
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=VOCABULARY, n_positions=16)
    lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    return language_model(get_peft_model(GPT2LMHeadModel(config), lora))


@refused(
    "transformers",
    "construction",
    "(?s)nothing can be measured.*unmerge_adapter",
    needs=("transformers", "peft"),
)
def lora_that_was_merged():
    """The adapter's factors are in the base weight already and do not move the loss."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=VOCABULARY, n_positions=16)
    lora = LoraConfig(
        r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    model = get_peft_model(GPT2LMHeadModel(config), lora)
    model.merge_adapter()
    return language_model(model)
