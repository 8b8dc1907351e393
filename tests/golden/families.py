#!/usr/bin/env python3
"""Makes tests/golden/families: tiny models of the families that checkpoints come from, with what their own code makes of
them in float64. README.md beside this file says what each folder holds.

    pip install torch transformers==4.57.6 safetensors sentence-transformers chronos-forecasting
    python tests/golden/families.py [NAME ...]

Weights are random, from a fixed seed. A model's greedy answers are kept only if no choice in them hangs on rounding.
"""

import copy
import json
import sys
from pathlib import Path

import torch
import transformers
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from safetensors.torch import save_file
from transformers import (
    LongT5Config,
    LongT5ForConditionalGeneration,
    MT5Config,
    MT5ForSequenceClassification,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
    T5ForTokenClassification,
    UMT5Config,
    UMT5EncoderModel,
    UMT5ForConditionalGeneration,
    UMT5ForTokenClassification,
)
from transformers.models.longt5.modeling_longt5 import LongT5LayerNorm
from transformers.models.mt5.modeling_mt5 import MT5LayerNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.models.umt5.modeling_umt5 import UMT5LayerNorm

HERE = Path(__file__).parent / "families"
SMALL = dict(d_model=12, d_kv=4, num_heads=2, d_ff=20, num_layers=2, vocab_size=40, dropout_rate=0.0,
             decoder_start_token_id=0)
GATED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)

LONG = dict(SMALL, **GATED, local_radius=3, relative_attention_num_buckets=8, relative_attention_max_distance=12)

CHRONOS = dict(tokenizer_class="MeanScaleUniformBins", tokenizer_kwargs=dict(low_limit=-15.0, high_limit=15.0),
               n_tokens=96, n_special_tokens=2, pad_token_id=0, eos_token_id=1, use_eos_token=True, model_type="seq2seq",
               context_length=24, prediction_length=6, num_samples=4, temperature=1.0, top_k=50, top_p=1.0)

BOLT = dict(context_length=40, prediction_length=6, input_patch_size=4, input_patch_stride=4,
            quantiles=[i / 10 for i in range(1, 10)], use_reg_token=True)
# As no published model has it: patches that overlap, no place that sums a series up.
BOLT_OVERLAPPING = dict(BOLT, input_patch_stride=2, quantiles=[0.2, 0.5, 0.8], use_reg_token=False)

LABELS = {"id2label": {"0": "negative", "1": "neutral", "2": "positive"},
          "label2id": {"negative": 0, "neutral": 1, "positive": 2}}

# kind: (class, configuration class, sizes, names of the file: from how PyTorch calls a tensor to how the file does)
KINDS = {
    # UL2 and Flan-UL2: gated silu, a head of its own, heads * d_kv beyond d_model.
    "ul2": (T5ForConditionalGeneration, T5Config, dict(SMALL, d_kv=8, feed_forward_proj="gated-silu",
            tie_word_embeddings=False), {}),
    # Pile-T5: UMT5 whose end token is LLaMA's.
    "pile-t5": (UMT5ForConditionalGeneration, UMT5Config, dict(SMALL, eos_token_id=2, **GATED), {}),
    # MADLAD-400: T5 1.1 whose embedding is the decoder's.
    "madlad": (T5ForConditionalGeneration, T5Config, dict(SMALL, **GATED),
               {"shared.weight": "decoder.embed_tokens.weight"}),
    # nanoT5 saves what accelerate gathers, from a model that may be compiled.
    "nanot5": (T5ForConditionalGeneration, T5Config, dict(SMALL, **GATED), {"": "_orig_mod."}),
    # ProtT5: T5 1.0, of which the encoder alone is published.
    "prott5": (T5EncoderModel, T5Config, dict(SMALL, d_kv=5, num_heads=4), {}),
    # The text encoders of image generators: UMT5-XXL, under the encoder's name for the embedding.
    "umt5-encoder": (UMT5EncoderModel, UMT5Config, dict(SMALL, **GATED), {"shared.weight": "encoder.embed_tokens.weight"}),
    "sentence-t5": (T5EncoderModel, T5Config, dict(SMALL), {}),
    "sequence-classifier": (T5ForSequenceClassification, T5Config, dict(SMALL, **GATED, **LABELS), {}),
    "mt5-sequence-classifier": (MT5ForSequenceClassification, MT5Config, dict(SMALL, d_kv=3, num_labels=1), {}),
    "token-classifier": (T5ForTokenClassification, T5Config, dict(SMALL, **LABELS), {}),
    "umt5-token-classifier": (UMT5ForTokenClassification, UMT5Config, dict(SMALL, num_labels=5), {}),
    "chronos-t5": (T5ForConditionalGeneration, T5Config, dict(SMALL, vocab_size=96, chronos_config=CHRONOS), {}),
    # LongT5: an encoder that sees windows, and one that also sees the sums of blocks.
    "longt5-local": (LongT5ForConditionalGeneration, LongT5Config, LONG, {}),
    "longt5-tglobal": (LongT5ForConditionalGeneration, LongT5Config,
                       dict(LONG, encoder_attention_type="transient-global", global_block_size=4), {}),
    "chronos-bolt": (ChronosBoltModelForForecasting, T5Config, dict(SMALL, chronos_config=BOLT), {}),
    "chronos-bolt-overlapping": (ChronosBoltModelForForecasting, T5Config, dict(SMALL, num_decoder_layers=1,
                                 feed_forward_proj="gated-gelu", chronos_config=BOLT_OVERLAPPING), {}),
}


def random_model(model_class, config_class, sizes, seed):
    torch.manual_seed(seed)
    model = model_class(config_class(**sizes, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "layer_norm" in name:
                p.copy_(1 + 0.1 * torch.randn_like(p))
            elif "relative_attention_bias" in name or name.endswith(".bias"):
                p.copy_(0.5 * torch.randn_like(p))
            elif "shared" in name or "embed_tokens" in name:
                p.copy_(torch.randn_like(p))
            elif "lm_head" in name:
                p.copy_(torch.randn_like(p) * p.shape[-1] ** -0.5 * 2)
            else:
                p.copy_(torch.randn_like(p) * p.shape[-1] ** -0.5 * 1.5)
    return model


class Exact:
    """transformers takes norms and softmax in float32 whatever the model's type is; within this it stays in float64."""

    def __enter__(self):
        def norm(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

        classes = [T5LayerNorm, MT5LayerNorm, UMT5LayerNorm, LongT5LayerNorm]
        self.before = [(c, "forward", c.forward) for c in classes] + [(torch.Tensor, "float", torch.Tensor.float)]
        for c in classes:
            c.forward = norm
        real = torch.Tensor.float
        torch.Tensor.float = lambda x: x if x.dtype == torch.float64 else real(x)

    def __exit__(self, *_):
        for owner, name, value in self.before:
            setattr(owner, name, value)


def batch(model, rows=3, src_len=11, tgt_len=7, lens=None):
    """Sources of different lengths that end with the end token, and made-up targets."""
    lens = lens or [src_len - 3 * r for r in range(rows)]
    rows, src_len = len(lens), max(lens)
    config = model.config
    generator = torch.Generator().manual_seed(5)
    ids = torch.full((rows, src_len), config.pad_token_id)
    mask = torch.zeros(rows, src_len, dtype=torch.int64)
    labels = torch.full((rows, tgt_len), -100)
    for r in range(rows):
        n, m = lens[r], max(tgt_len - r, 2)
        ids[r, : n - 1] = torch.randint(3, config.vocab_size, (n - 1,), generator=generator)
        ids[r, n - 1] = config.eos_token_id
        mask[r, :n] = 1
        labels[r, : m - 1] = torch.randint(3, config.vocab_size, (m - 1,), generator=generator)
        labels[r, m - 1] = config.eos_token_id
    return ids, mask, labels


def noise(model, exact, run):
    """What `run` makes of a model in float64, and how far float32 lies from it, by name."""
    with torch.no_grad():
        rough = run(model)
        with Exact():
            found = run(exact)
    far = {f"{n}_max_abs": (rough[n].double() - t).abs().max().item() for n, t in found.items()}
    return found, far


def seq2seq(model, exact, ids, mask, labels):
    def run(m):
        out = m(input_ids=ids, attention_mask=mask, labels=labels)
        states = out.encoder_last_hidden_state
        if isinstance(m, LongT5ForConditionalGeneration):
            # Padding sees nothing there: its softmax is over -1e10 and what float32 leaves of the scores beside that.
            states = states * mask[..., None]
        return {"encoder_last_hidden_state": states, "logits": out.logits, "loss": out.loss}

    found, far = noise(model, exact, run)
    loss = found.pop("loss").item()
    far["loss"] = far.pop("loss_max_abs")
    with torch.no_grad(), Exact():
        greedy = exact.generate(input_ids=ids, attention_mask=mask, max_new_tokens=12, num_beams=1, do_sample=False,
                                use_cache=False, output_logits=True, return_dict_in_generate=True)
    assert all((t[:, 0] - t[:, 1]).min() > 1e-3 for t in (step.topk(2).values for step in greedy.logits))
    # Behind the end token, the other golden folders have 0.
    sequences = greedy.sequences
    ended = (sequences == exact.config.eos_token_id).cumsum(1).roll(1, 1)
    ended[:, 0] = 0
    sequences = sequences.masked_fill(ended > 0, exact.config.pad_token_id)
    # Answers that differ, and say more than one thing; a tied head likes to repeat.
    least = 2 if model.config.tie_word_embeddings else 4
    assert all(len(row.unique()) > least for row in sequences) and len(sequences.unique(dim=0)) == len(sequences)
    found |= {"labels": labels, "generate.input_ids": ids, "generate.attention_mask": mask,
              "generate.greedy": sequences}
    return found, {"loss": loss, "float32_noise": far, "greedy": {"max_new_tokens": 12}}


def encoder(model, exact, ids, mask):
    found, far = noise(model, exact, lambda m: {
        "encoder_last_hidden_state": m(input_ids=ids, attention_mask=mask).last_hidden_state})
    return found, {"float32_noise": far}


def classifier(model, exact, ids, mask):
    found, far = noise(model, exact, lambda m: {"scores": m(input_ids=ids, attention_mask=mask).logits})
    return found, {"float32_noise": far}


def sentence(folder, model, exact, ids, mask):
    """modules.json as sentence-transformers writes it, and vectors by its modules."""
    from sentence_transformers import SentenceTransformer, models

    found, scalars = encoder(model, exact, ids, mask)
    torch.manual_seed(3)
    width = model.config.d_model
    modules = [models.Pooling(width, pooling_mode="mean"),
               models.Dense(width, 7, bias=False, activation_function=torch.nn.Identity()), models.Normalize()]

    def run(m, modules):
        features = {"token_embeddings": m(input_ids=ids, attention_mask=mask).last_hidden_state, "attention_mask": mask}
        for module in modules:
            features = module(features)
        return {"sentence_embedding": features["sentence_embedding"]}

    doubles = [copy.deepcopy(module).double() for module in modules]
    with torch.no_grad():
        rough = run(model, modules)["sentence_embedding"]
        with Exact():
            vectors = run(exact, doubles)["sentence_embedding"]
    scalars["float32_noise"]["sentence_embedding_max_abs"] = (rough.double() - vectors).abs().max().item()
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, module in enumerate(modules):
        name = type(module).__name__
        path = folder / f"{i + 1}_{name}"
        path.mkdir(exist_ok=True)
        if name != "Normalize":
            module.save(str(path))
        else:
            path.rmdir()
        listed.append({"idx": i + 1, "name": str(i + 1), "path": path.name, "type": f"sentence_transformers.models.{name}"})
    (folder / "modules.json").write_text(json.dumps(listed, indent=2) + "\n")
    return found | {"sentence_embedding": vectors}, scalars


def chronos(model, exact):
    """Series, and what ChronosPipeline makes of them: the ids it feeds the model, and the only sample path that there is
    where it draws among one token."""
    from chronos import ChronosConfig, ChronosModel, ChronosPipeline

    config = ChronosConfig(**CHRONOS)
    series = [[1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0], [0.0, 0.0, 0.0],
              [((7 * i) % 11) * 10.0 - 30.0 for i in range(40)], [float("nan"), -0.5, 0.25, -0.125, 1e4]]
    rows, tokenizer = [], config.create_tokenizer()
    with torch.no_grad(), Exact():
        pipeline = ChronosPipeline(tokenizer, ChronosModel(config, exact))
        for values in series:
            context = torch.tensor([values])
            ids, mask, scale = tokenizer.context_input_transform(context)
            paths = pipeline.predict(context, prediction_length=10, num_samples=3, top_k=1)
            assert (paths[0] == paths[0, :1]).all()
            # The first 6 values by a step at a time, so that no choice hangs on rounding.
            out = exact.generate(input_ids=ids[:, ids[0].ne(0)], max_new_tokens=6, min_new_tokens=6, do_sample=False,
                                 use_cache=False, output_scores=True, return_dict_in_generate=True)
            assert all((t[:, 0] - t[:, 1]).min() > 1e-3 for t in (step.topk(2).values for step in out.scores))
            rows.append({"values": [None if v != v else v for v in values], "ids": ids[mask].tolist(),
                         "scale": scale.item(), "path": paths[0, 0].tolist()})
    samples = torch.tensor([[float((5 * i + 3 * j) % 7) for i in range(4)] for j in range(5)])
    quantiles = torch.quantile(samples, torch.tensor([0.1, 0.5, 0.75, 0.9]), dim=0)
    return {"prediction_length": 10, "series": rows, "samples": samples.tolist(),
            "quantiles": {"levels": [0.1, 0.5, 0.75, 0.9], "values": quantiles.tolist()}}


def chronos_bolt(model, exact):
    """Series with gaps, and the quantiles that ChronosBoltPipeline gives, beyond what it forecasts at once, too."""
    from chronos.chronos_bolt import ChronosBoltPipeline

    nan = float("nan")
    wave = [((7 * i) % 11) * 10.0 - 30.0 for i in range(70)]
    series = [[1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0], [4.0, 4.0, 4.0], wave, [nan] * 9 + [-0.5, nan, 0.25, -0.125, 1e4],
              wave[:9] + [nan] * 13 + wave[:7], [nan, 7.0, nan]]
    levels, others = model.chronos_config.quantiles, [0.05, 0.25, 0.65, 0.95]

    def run(m, values, length, levels):
        return ChronosBoltPipeline(m).predict_quantiles([torch.tensor(values)], prediction_length=length,
                                                        quantile_levels=levels)[0][0].T.double()

    rows = []
    for values in series:
        # Longer than what it forecasts at once, but where all values are alike: what is read back lies within some units of the
        # last place of each other then, and rounding decides.
        length = 6 if len({v for v in values if v == v}) == 1 else 15
        rough = run(model, values, length, levels)
        with Exact():
            found, between = run(exact, values, length, levels), run(exact, values, 6, others)
        rows.append({"values": [None if v != v else v for v in values], "quantiles": found.tolist(),
                     "between": between.tolist(), "float32_noise": (rough - found).abs().max().item()})
    return {"between": others, "series": rows}


def main(kind):
    model_class, config_class, sizes, names = KINDS[kind]
    folder = HERE / kind
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(100 * list(KINDS).index(kind), 100 * list(KINDS).index(kind) + 100):
        model = random_model(model_class, config_class, sizes, seed)
        exact = copy.deepcopy(model).double()
        if "longt5" in kind:
            # Windows and blocks of four: several, in part filled, and a text that has none whole. Longer targets, since few
            # logits say little about float32's noise.
            ids, mask, labels = batch(model, tgt_len=24, lens=[30, 21, 3, 16])
        elif model.config.vocab_size > 3:
            ids, mask, labels = batch(model)
        if model.config.vocab_size > 3:
            tensors = {"input_ids": ids, "attention_mask": mask}
        try:
            if kind == "chronos-t5":
                found, scalars = seq2seq(model, exact, ids, mask, labels)
                (folder / "forecasts.json").write_text(json.dumps(chronos(model, exact), indent=1) + "\n")
            elif kind.startswith("chronos-bolt"):
                scalars = None
                (folder / "forecasts.json").write_text(json.dumps(chronos_bolt(model, exact), indent=1) + "\n")
            elif kind == "sentence-t5":
                found, scalars = sentence(folder, model, exact, ids, mask)
            elif "classifier" in kind:
                # More rows, since a row gives few numbers to know float32's noise by.
                ids, mask, _ = batch(model, rows=8, src_len=27)
                tensors = {"input_ids": ids, "attention_mask": mask}
                found, scalars = classifier(model, exact, ids, mask)
            elif "Encoder" in model_class.__name__:
                found, scalars = encoder(model, exact, ids, mask)
            else:
                found, scalars = seq2seq(model, exact, ids, mask, labels)
            break
        except AssertionError:
            continue
    saved = {}
    for name, p in model.named_parameters():
        if "embed_tokens" not in name:
            prefix = names.get("", "")
            saved[prefix + names.get(name, name)] = p.detach().clone().contiguous()
    save_file(saved, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_diff_dict()
    config.update(architectures=[model_class.__name__])
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if scalars is None:
        print(kind, seed, sum(p.numel() for p in saved.values()))
        return
    tensors |= found
    stored = {n: (t if t.dtype == torch.int64 else t.float()).clone().contiguous() for n, t in tensors.items()}
    save_file(stored, folder / "golden.safetensors")
    about = {"model": kind, "seed": seed, "tool": {"torch": torch.__version__, "transformers": transformers.__version__}}
    (folder / "golden.json").write_text(json.dumps(about | scalars, indent=1) + "\n")
    print(kind, seed, sum(p.numel() for p in saved.values()), found.get("generate.greedy", torch.empty(0)).tolist())


if __name__ == "__main__":
    for kind in sys.argv[1:] or KINDS:
        main(kind)
