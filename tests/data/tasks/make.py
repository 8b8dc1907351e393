#!/usr/bin/env python3
"""Writes presets.json beside it: rows of data sets, and the sources and targets that T5's own preprocessors make of them.

    pip install tensorflow-cpu==2.21.0 babel && pip install --no-deps t5==0.9.4
    python make.py

seqio and gin are replaced by the two decorators that the preprocessors take from them. Rows are random (seeded).
"""

import importlib.metadata
import importlib.util
import json
import pathlib
import random
import sys
import types

import tensorflow as tf


def load():
    seqio = types.ModuleType("seqio")

    def map_over_dataset(fn=None, *, num_seeds=None):
        del num_seeds
        wrap = lambda fn: lambda dataset, *args, **kwargs: dataset.map(lambda x: fn(x, *args, **kwargs))
        return wrap(fn) if fn else wrap

    seqio.map_over_dataset = map_over_dataset
    seqio.preprocessors = types.SimpleNamespace(rekey=None, tokenize=None)
    seqio.utils = types.SimpleNamespace()
    seqio.DecodeFnType = seqio.Vocabulary = seqio.Feature = object
    seqio.__getattr__ = lambda name: object
    gin = types.ModuleType("gin")
    gin.configurable = lambda *args, **kwargs: args[0] if args and callable(args[0]) else lambda fn: fn
    gin.REQUIRED = None
    sys.modules["seqio"], sys.modules["gin"] = seqio, gin
    file = importlib.metadata.distribution("t5").locate_file("t5/data/preprocessors.py")
    spec = importlib.util.spec_from_file_location("preprocessors", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


t5 = load()
rng = random.Random(8)
WORDS = ("the a cat sat. on, mat! isn't \"so\" (10-12) U.S. $5 50% über café żółw 你好 。 — … ½ e\u0301 a_b <b>x</b> "
         "<br> \t  \n \u00a0 @highlight \\1 {x} #").split(" ")


def text(low=1, high=12):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high))).strip() or "x"


def glue(name, labels, features=None):
    return lambda data: t5.glue(data, name, labels, features)


ENTAILMENT = ["entailment", "not_entailment"]
TRUTH = ["False", "True"]
KEYED = [
    ("glue/cola", "cola", ["sentence"], ["unacceptable", "acceptable"], None),
    ("glue/sst2", "sst2", ["sentence"], ["negative", "positive"], None),
    ("glue/mrpc", "mrpc", ["sentence1", "sentence2"], ["not_equivalent", "equivalent"], None),
    ("glue/qqp", "qqp", ["question1", "question2"], ["not_duplicate", "duplicate"], None),
    ("glue/mnli", "mnli", ["premise", "hypothesis"], ["entailment", "neutral", "contradiction"], None),
    ("glue/qnli", "qnli", ["question", "sentence"], ENTAILMENT, None),
    ("glue/rte", "rte", ["sentence1", "sentence2"], ENTAILMENT, None),
    ("super_glue/boolq", "boolq", ["question", "passage"], TRUTH, None),
    ("super_glue/cb", "cb", ["premise", "hypothesis"], ["entailment", "contradiction", "neutral"], None),
    ("super_glue/copa", "copa", ["premise", "choice1", "choice2", "question"], ["choice1", "choice2"], None),
    ("super_glue/rte", "rte", ["premise", "hypothesis"], ENTAILMENT, None),
    ("super_glue/wic", "wic", ["word", "sentence1", "sentence2"], TRUTH, ("sentence1", "sentence2", "word")),
]
cases = []


def add(preset, row, make, split="train", languages=None):
    examples = make(tf.data.Dataset.from_tensors(row))
    pairs = [[e["inputs"].decode(), e["targets"].decode()] for e in examples.as_numpy_iterator()]
    cases.append({"preset": preset, "split": split, "row": row, "examples": pairs} | (languages or {}))


for preset, name, columns, labels, features in KEYED:
    for _ in range(4):
        row = {column: text() for column in columns} | {"label": rng.randrange(len(labels)), "idx": rng.randrange(1000)}
        add(preset, row, glue(name, labels, features))
    add(preset, row | {"label": -1}, glue(name, labels, features), "test")
for k in range(60):
    label = rng.choice([round(rng.uniform(0, 5), 3), rng.randrange(51) / 10, round(rng.uniform(0, 5), 1)])
    row = {"sentence1": text(1, 3), "sentence2": text(1, 3), "label": label, "idx": k}
    add("glue/stsb", row, t5.stsb)
for k in range(6):
    row = {"paragraph": text(), "question": text(), "answer": text(), "label": rng.randrange(2),
           "idx": {"paragraph": k, "question": 2 * k, "answer": 3 * k}}
    add("super_glue/multirc", row, glue("multirc", TRUTH, ("question", "answer", "paragraph")))
for k in range(10):
    marks = "".join(text(1, 4) + rng.choice([".", "?", "!", "\"", "'", "", "。"]) + "\n@highlight\n" for _ in range(3))
    row = {"passage": marks + text(), "query": text() + " @placeholder", "entities": [text(1, 2) for _ in range(3)],
           "answers": [text(1, 2) for _ in range(rng.randint(1, 3))], "idx": {"passage": k, "query": k}}
    add("super_glue/record", row, t5.record)
for k in range(20):
    row = {"id": str(k), "context": text(5, 30), "question": text(), "answers": {"text": [text(1, 4) for _ in range(2)]}}
    add("squad", row, t5.squad)
for k in range(10):
    words = [rng.choice(["Bob", "saw", "him", "he", "it", "Ann", ".", ","]) for _ in range(rng.randint(3, 15))]
    index = rng.randrange(1, len(words) - 1)
    row = {"text": " ".join(words), "span1_text": rng.choice(["Bob", "Ann's hat"]), "span1_index": 0,
           "span2_text": words[index], "span2_index": index, "label": 1, "idx": k}
    add("super_glue/wsc", row, t5.wsc_simple)
    add("super_glue/wsc", row | {"label": 0}, t5.wsc_simple, "validation")
    add("super_glue/wsc", row | {"label": 0}, lambda data: t5.wsc_simple(data, correct_referent_only=True))
# The two texts that T5 corrects by hand.
pony = ("The boy continued to whip the pony , and eventually the pony threw him over. John laughed out quite loud. \"Good "
        "for him,\" he said. ")
pebble = ("When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic pebble in an iron "
          "safe . Some day they might want to use it , but really for now, what more could they wish for?")
for string, word, index in [(pony, "him", 22), (pebble, "it", 30)]:
    row = {"text": string, "span1_text": "x", "span1_index": 0, "span2_text": word, "span2_index": index, "label": 1,
           "idx": 0}
    add("super_glue/wsc", row, t5.wsc_simple)
for k in range(20):
    pronoun = rng.choice(["he", "it", "his"])
    words = [rng.choice(["Bob", "then", "this", pronoun, pronoun + ",", pronoun + ".", pronoun + "!"]) for _ in range(9)]
    row = {"sentence": " ".join(words), "pronoun": pronoun, "candidates": ["Bob", "Tom"], "label": rng.randrange(2)}
    add("dpr", row, t5.definite_pronoun_resolution_simple)
for _ in range(4):
    add("cnn_dailymail", {"article": text(), "highlights": text()}, lambda data: t5.summarize(data, "article", "highlights"))
for source, target in [("en", "de"), ("de", "en"), ("en", "fr"), ("en", "ro"), ("ro", "en"), ("zh", "cs"), ("gu", "kk")]:
    add("wmt", {source: text(), target: text()}, lambda data: t5.translate(data, source, target),
        languages={"source_language": source, "target_language": target})

packages = {name: importlib.metadata.version(name) for name in ("t5", "tensorflow-cpu", "babel")}
lines = ",\n".join("    " + json.dumps(case, ensure_ascii=False) for case in cases)
out = '{\n  "packages": %s,\n  "cases": [\n%s\n  ]\n}\n' % (json.dumps(packages), lines)
pathlib.Path(__file__).with_name("presets.json").write_text(out, encoding="utf-8")
print(len(cases))
