#!/usr/bin/env python3
"""Records what transformers' `generate` makes of two of the models in tests/golden under the settings that change the
scores of tokens: vectors.json beside this file.

    pip install torch transformers==4.57.6 safetensors
    python tests/decoding/make.py

Everything is computed in float64 up to the logits. A vector whose ids hang on rounding (two beams whose scores differ
by less than 1e-6 of their size) would be no test: the script refuses to write one.

With every row of a vector come the log-probability of each of its tokens, the end token's included, as
`compute_transition_scores` gives it (of greedy decoding among the scores that are left, of beams as they are); with some
vectors also the likeliest tokens at each place.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import GenerationConfig, T5ForConditionalGeneration

HERE = Path(__file__).parent
EOS = 1


def load(name):
    folder = HERE.parent / "golden" / name
    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).eval()
    model.generation_config = GenerationConfig(decoder_start_token_id=0, pad_token_id=0, eos_token_id=EOS)
    tensors = load_file(folder / "golden.safetensors")
    return model, tensors["generate.input_ids"], tensors["generate.attention_mask"], tensors["generate.greedy"]


def allowed_by(answers, prompt):
    """prefix_allowed_tokens_fn: what continues one of the answers, then the end token."""

    def allowed(batch, ids):
        made = ids.tolist()[prompt:]
        found = {(answer + [EOS])[len(made)] for answer in answers
                 if len(made) <= len(answer) and answer[: len(made)] == made}
        return sorted(found) or [EOS]

    return allowed


def allowed_by_rule(modulus, prompt, vocab):
    """prefix_allowed_tokens_fn of a rule that looks at the source, the number of tokens and the last of them."""

    def allowed(batch, ids):
        made = ids.tolist()[prompt:]
        last = made[-1] if made else batch
        found = [id for id in range(2, vocab) if (id + last + len(made)) % modulus == 0]
        return found + ([EOS] if len(made) >= 3 else [])

    return allowed


def settings_of(greedy, vocab):
    """Settings, by transformers' names, that bite on what the model would say by itself."""
    first = [int(row[1]) for row in greedy]
    often = torch.bincount(greedy.flatten(), minlength=vocab)
    often[:2] = 0
    likely = [int(i) for i in torch.topk(often, 4).indices]
    pairs = [[int(a), int(b)] for row in greedy for a, b in zip(row[1:4], row[2:5]) if EOS not in (a, b)]
    answers = [[7, 8, 9], [7, 8], [7, 10, 11, 12], likely[:3], [first[0], likely[1]], [20]]
    return {
        "nothing": {},
        "repetition_penalty": dict(repetition_penalty=1.6),
        "repetition_bonus": dict(repetition_penalty=0.8),
        "no_repeat_1": dict(no_repeat_ngram_size=1),
        "no_repeat_2": dict(no_repeat_ngram_size=2),
        "no_repeat_3": dict(no_repeat_ngram_size=3),
        "min_new_tokens": dict(min_new_tokens=9),
        "min_length": dict(min_length=7),
        "suppress": dict(suppress_tokens=likely[:3]),
        "begin_suppress": dict(begin_suppress_tokens=sorted(set(first))),
        "forced_first": dict(forced_bos_token_id=likely[1]),
        "forced_last": dict(forced_eos_token_id=EOS, max_new_tokens=5),
        "bad_words": dict(bad_words_ids=[[likely[0]], *pairs[:3], [0, first[0]], [likely[2], likely[3], likely[0]]]),
        "answers": dict(answers=answers),
        "two_answers": dict(answers=answers[:2]),
        "answers_early": dict(answers=answers, early_stopping=True),
        "prompt": dict(prompt=likely[:2], no_repeat_ngram_size=2, min_new_tokens=3),
        "prompt_answers": dict(prompt=likely[:2], answers=answers),
        "allowed": dict(allowed=3),
        "allowed_few": dict(allowed=40),
        "allowed_early": dict(allowed=40, early_stopping=True),
        "allowed_prompt": dict(allowed=5, prompt=likely[:2], no_repeat_ngram_size=2, min_new_tokens=4),
        "allowed_forced": dict(allowed=7, forced_bos_token_id=likely[1]),
        "all": dict(repetition_penalty=1.3, no_repeat_ngram_size=2, min_new_tokens=5, suppress_tokens=likely[:1],
                    begin_suppress_tokens=first[:2], bad_words_ids=pairs[:2], forced_eos_token_id=EOS, max_new_tokens=12,
                    length_penalty=2.0, early_stopping=True),
    }


ALTERNATIVES = 3
WITH_ALTERNATIVES = ["nothing", "repetition_penalty", "two_answers", "forced_first", "all"]


def log_probs_of(model, made, prompt, beams):
    """For each row the log-probabilities of its tokens up to the end, and the likeliest at each place: [[id, log_prob], ..]."""
    indices = made.beam_indices if beams > 1 else None
    transitions = model.compute_transition_scores(made.sequences, made.scores, indices, normalize_logits=beams == 1)
    log_probs, alternatives = [], []
    for row, tokens in enumerate(made.sequences[:, 1 + prompt:].tolist()):
        length = tokens.index(EOS) + 1 if EOS in tokens else len(tokens)
        log_probs.append([round(x, 6) for x in transitions[row, :length].tolist()])
        places = []
        for step in range(length):
            of = int(made.beam_indices[row, step]) if beams > 1 else row
            if of < 0:
                break
            scores = made.scores[step][of]
            scores = scores if beams > 1 else scores.log_softmax(-1)
            top = torch.topk(scores, ALTERNATIVES)
            places.append([[int(id), round(float(x), 6)] for x, id in zip(*top) if x > -1e30])
        alternatives.append(places)
    return log_probs, alternatives


def run(model, ids, mask, settings, beams):
    settings = {"max_new_tokens": 20, **settings}
    prompt, answers = settings.pop("prompt", []), settings.pop("answers", None)
    allowed = settings.pop("allowed", None)
    if answers:
        settings["prefix_allowed_tokens_fn"] = allowed_by(answers, 1 + len(prompt))
    if allowed:
        settings["prefix_allowed_tokens_fn"] = allowed_by_rule(allowed, 1 + len(prompt), model.config.vocab_size)
    if beams == 1:
        settings.pop("length_penalty", None)
        settings.pop("early_stopping", None)
    else:
        settings |= dict(num_beams=beams, num_return_sequences=beams)
    if prompt:
        settings["decoder_input_ids"] = torch.tensor([[0, *prompt]] * len(ids))
    with torch.no_grad():
        made = model.generate(ids, attention_mask=mask, do_sample=False, return_dict_in_generate=True, output_scores=True,
                              **settings)
    scores = made.sequences_scores.tolist() if beams > 1 else None
    if scores:
        for first in range(0, len(scores), beams):
            real = [score for score in scores[first:first + beams] if score > -1e6]
            for a, b in zip(real, real[1:]):
                assert a - b > 1e-6 * abs(a), f"scores {a} and {b} are too close"
    rows = [row[1 + len(prompt):] for row in made.sequences.tolist()]
    return rows, scores, *log_probs_of(model, made, len(prompt), beams)


def main():
    vectors = []
    for name in ["flan", "t5v10"]:
        model, ids, mask, greedy = load(name)
        for what, settings in settings_of(greedy, model.config.vocab_size).items():
            for beams in [1, 4]:
                rows, scores, log_probs, alternatives = run(model, ids, mask, dict(settings), beams)
                vector = dict(model=name, name=what, settings=settings, beams=beams, rows=rows, scores=scores, log_probs=log_probs)
                if what in WITH_ALTERNATIVES:
                    vector["alternatives"] = alternatives
                vectors.append(vector)
    tool = f"torch {torch.__version__}, transformers {transformers.__version__}"
    lines = ",\n".join(json.dumps(vector) for vector in vectors)
    (HERE / "vectors.json").write_text(f'{{"tool": "{tool}", "vectors": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
