#!/usr/bin/env python3
"""Writes the test vectors beside it: what the packages that define the metrics say about made-up corpora.

    pip install sacrebleu==2.6.0 rouge_score==0.1.2 scikit-learn scipy jiwer absl-py && pip install --no-deps t5==0.9.4
    python make.py

Everything is seeded; the versions used are written into each file.
"""

import importlib.metadata
import importlib.util
import json
import pathlib
import random
import sys
import types
import warnings

import jiwer
import numpy as np
import sacrebleu
import scipy.stats
import sklearn.metrics
from rouge_score import rouge_scorer

warnings.simplefilter("ignore")
HERE = pathlib.Path(__file__).parent
WORDS = (
    "the a an cat Dog sat on mat , . ! ? \" ' ( ) - -- 3.5 1,000 10-12 it's e.g. U.S. $5 50% &amp; &quot; <skipped> "
    "über café naïve żółw ß ΣΑΣ привет 你好 。 、 世界 ① € © → « » … ’ “x” a/b a_b http://x.y/z 7. .8 9, x. ﬁ ½ १२ "
    "e\u0301 \u00a0 👍🏽 #tag @user ~ ^ * + = | \\ { } [ ] ` : ;"
).split(" ")
SIMPLE = "the a an cat dog sat on mat big red box ran far away from home in every small town".split()


def versions(*names):
    return {name: importlib.metadata.version(name) for name in names}


def write(name, packages, cases):
    lines = ",\n".join("    " + json.dumps(case, ensure_ascii=False) for case in cases)
    text = '{\n  "packages": %s,\n  "cases": [\n%s\n  ]\n}\n' % (json.dumps(packages), lines)
    (HERE / name).write_text(text, encoding="utf-8")
    print(name, len(cases))


def sentence(rng, words, low, high):
    return " ".join(rng.choice(words) for _ in range(rng.randint(low, high)))


def noisy(rng, text, words, rate):
    """A prediction: the text with words dropped, changed, doubled."""
    out = []
    for word in text.split(" "):
        draw = rng.random()
        if draw < rate / 3:
            continue
        out.append(rng.choice(words) if draw < 2 * rate / 3 else word)
        if draw > 1 - rate / 3:
            out.append(word)
    return " ".join(out)


# BLEU

def bleu_case(hypotheses, references, tokenize="13a", lowercase=False):
    """references: a list for each hypothesis."""
    most = max(len(refs) for refs in references)
    streams = [[refs[i] if i < len(refs) else None for refs in references] for i in range(most)]
    metric = sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase)
    score = metric.corpus_score(hypotheses, streams)
    return {
        "predictions": hypotheses, "references": references, "tokenize": tokenize, "lowercase": lowercase,
        "bleu": score.score, "bp": score.bp, "sys_len": score.sys_len, "ref_len": score.ref_len,
        "correct": list(score.counts), "total": list(score.totals), "signature": str(metric.get_signature()),
    }


def bleu():
    rng = random.Random(1)
    cases = []
    hand = [
        (["this is a string", "this is a string"], [["this is a string"], ["this is a string"]]),
        (["", ""], [["this is a string"], ["this is a string"]]),
        (["this is a string", ""], [["this is a string"], ["nothing said at all"]]),
        (["this is a string"] * 2, [["", "this is a string"], ["this is a string", ""]]),
        (["a b c"], [["a b c"]]),
        (["cat"], [["cat"]]),
        (["The  cat\tsat ,on 3.14 mats (10-12).", "Er sagte: „Ja“ — 100%!"],
         [["The cat sat, on 3.14 mats (10-12)."], ["Er sagte: „Ja“ – 100 %!"]]),
        (["&quot;A&amp;B&quot; &lt;x&gt; wo-\nrd <skipped>", "line one\nline two "],
         [["\"A&B\" <x> word", ], ["line one line two"]]),
        (["我喜欢苹果。你呢?", "これはペンです。"], [["我爱吃苹果。你呢?"], ["これは筆です。"]]),
        (["costs 5$ or €7 in 1999.", "2,000.5 and .5 and 5."], [["costs 5 $ or € 7 in 1999 ."], ["2,000.5 and .5 and 5."]]),
        (["İSTANBUL ΟΔΟΣ Straße"], [["i̇stanbul οδος straße now and then"]]),
        ([" \x1c leading\x1dand\x85odd\u2003spaces\u200bhere \x1f"], [["leading and odd spaces here"]]),
    ]
    for hypotheses, references in hand:
        for tokenize in ("13a", "intl", "char", "none"):
            for lowercase in (False, True):
                cases.append(bleu_case(hypotheses, references, tokenize, lowercase))
    for _ in range(60):
        words = rng.choice([WORDS, WORDS, SIMPLE])
        n = rng.randint(1, 12)
        references, hypotheses = [], []
        same = rng.random() < 0.5
        for _ in range(n):
            base = sentence(rng, words, 1, 25)
            count = 1 if same else rng.randint(1, 3)
            references.append([base] + [noisy(rng, base, words, 0.3) for _ in range(count - 1)])
            text = noisy(rng, base, words, rng.choice([0.1, 0.4, 0.9]))
            hypotheses.append("" if rng.random() < 0.05 else text.replace(" ", "", rng.randint(0, 3)))
        if any(not text.strip() for refs in references for text in refs):
            references = [[text or "x" for text in refs] for refs in references]
        cases.append(bleu_case(hypotheses, references, rng.choice(["13a", "intl", "char", "none"]), rng.random() < 0.3))
    write("bleu.json", versions("sacrebleu", "regex"), cases)


# ROUGE

def rouge():
    rng = random.Random(2)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeLsum"])
    hand = [
        (["this is a string"] * 2, [["this is a string"]] * 2),
        (["", "a"], [["this is a string"], ["b"]]),
        (["The cat. The dog .  It ran"], [["The dog . The cat . It sat\nand ran"]]),
        (["Café żółw İx ΣΑΣ 12,5 3-4"], [["cafe zolw ix 12 5 3 4"]]),
        ([" . \n\n . "], [["...", "x"]]),
        (["a b a b a\nb a b"], [["b a b a b", "a a a\nb b b"]]),
    ]
    corpora = list(hand)
    for _ in range(50):
        predictions, references = [], []
        for _ in range(rng.randint(1, 4)):
            lines = [sentence(rng, rng.choice([SIMPLE[:8], SIMPLE, WORDS]), 1, 14) for _ in range(rng.randint(1, 4))]
            base = rng.choice([" . ", "\n", ".\n", ". "]).join(lines)
            references.append([base] + [noisy(rng, base, SIMPLE, 0.5) for _ in range(rng.choice([0, 0, 1, 2]))])
            rng.shuffle(lines)
            predictions.append(noisy(rng, rng.choice([" . ", "\n"]).join(lines), SIMPLE[:8], rng.choice([0.1, 0.5, 0.9])))
        corpora.append((predictions, references))
    prepare = lambda text: text.replace(" . ", " .\n")
    cases = []
    for predictions, references in corpora:
        scores = [scorer.score_multi([prepare(r) for r in refs], prepare(p)) for p, refs in zip(predictions, references)]
        case = {"predictions": predictions, "references": references}
        for key in ("rouge1", "rouge2", "rougeLsum"):
            case[key] = 100 * float(np.mean([score[key].fmeasure for score in scores]))
        cases.append(case)
    write("rouge.json", versions("rouge_score"), cases)


# Labels and numbers

def classes():
    rng = random.Random(3)
    cases = []
    for index in range(60):
        n_labels = 2 if index % 2 == 0 else rng.randint(2, 5)
        labels = [f"label_{i}" for i in range(n_labels)]
        n = rng.randint(1, 40)
        present = n_labels if rng.random() < 0.7 else rng.randint(1, n_labels)
        targets = [rng.randrange(present) for _ in range(n)]
        skill = rng.random()
        predictions = [t if rng.random() < skill else rng.randrange(-1, n_labels) for t in targets]
        if index % 10 == 9:
            predictions = [predictions[0]] * n
        texts = [labels[p] if p >= 0 else rng.choice(["", "junk", "Label_0", "label_0 x"]) for p in predictions]
        case = {
            "labels": labels, "predictions": texts, "targets": [labels[t] for t in targets],
            "accuracy": 100 * sklearn.metrics.accuracy_score(targets, predictions),
            "matthews": 100 * sklearn.metrics.matthews_corrcoef(targets, predictions),
            "f1_macro": 100 * sklearn.metrics.fbeta_score(
                targets, predictions, beta=1, labels=range(n_labels), average="macro", zero_division=0),
        }
        if n_labels == 2:
            flipped = [p if p in (0, 1) else 1 - t for t, p in zip(targets, predictions)]
            case["f1"] = 100 * sklearn.metrics.f1_score(targets, flipped, zero_division=0)
        cases.append({key: float(v) if isinstance(v, np.floating) else v for key, v in case.items()})
    write("classes.json", versions("scikit-learn"), cases)


def numbers():
    rng = random.Random(4)
    cases = []
    for index in range(60):
        n = rng.randint(3, 60)
        targets = [round(rng.uniform(0, 5) * 5) / 5 for _ in range(n)]
        if len(set(targets)) == 1:
            continue
        noise = rng.choice([0.1, 1.0, 5.0])
        values = [t + rng.gauss(0, noise) for t in targets]
        texts = [f"{v:.1f}" if index % 3 else repr(v) for v in values]
        if index % 4 == 0:
            texts = [rng.choice(["", "x", "3,4", "five"]) if rng.random() < 0.2 else text for text in texts]

        def read(text):
            try:
                return float(text)
            except ValueError:
                return -1.0

        predictions = [read(text) for text in texts]
        if len(set(predictions)) == 1:
            continue
        cases.append({
            "predictions": texts, "targets": [f"{t:.1f}" for t in targets],
            "pearson": 100 * float(scipy.stats.pearsonr(targets, predictions)[0]),
            "spearman": 100 * float(scipy.stats.spearmanr(targets, predictions)[0]),
        })
    write("numbers.json", versions("scipy"), cases)


# Answers

def t5_module(path):
    """A module of the T5 package by its file: the package itself wants TensorFlow, of which these two use `as_text` only."""
    for name in ("tensorflow", "tensorflow.compat", "tensorflow.compat.v2"):
        sys.modules.setdefault(name, types.ModuleType(name)).__path__ = []
    sys.modules["tensorflow.compat.v2"].compat = types.SimpleNamespace(as_text=str)
    file = pathlib.Path(importlib.metadata.distribution("t5").locate_file(path))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers():
    rng = random.Random(5)
    qa = t5_module("t5/evaluation/qa_utils.py")
    words = SIMPLE + "The An A. the, it's naïve 'quoted' 1,000 $5 a_b the-cat Ａ e\u0301a a\u0301 ‘x’ … ½ THE\tcat".split(" ")
    corpora = [
        (["a big  Moose!", "wrong", "correct2.2", "c"],
         [["big moose", "hippo"], ["correct1"], ["correct2.1", "correct2.2"], ["a", "b"]]),
        (["abd", ""], [["abc abd", "$$$$"], ["the", "x"]]),
    ]
    for _ in range(50):
        references = [[sentence(rng, words, 1, 6) for _ in range(rng.randint(1, 4))] for _ in range(rng.randint(1, 12))]
        predictions = [noisy(rng, rng.choice(refs), words, rng.choice([0, 0.3, 0.9])) for refs in references]
        corpora.append((predictions, references))
    cases = []
    for predictions, references in corpora:
        scores = qa.qa_metrics([[qa.normalize_squad(r) for r in refs] for refs in references],
                               [qa.normalize_squad(p) for p in predictions])
        cases.append({"predictions": predictions, "references": references,
                      "em": float(scores["em"]), "f1": float(scores["f1"])})
    write("squad.json", versions("t5"), cases)


def wsc():
    rng = random.Random(6)
    judge = t5_module("t5/data/postprocessors.py").wsc_simple
    words = "the his bunny fuzzy Bob Bob's hat Tom that dog".split()
    cases = []
    for _ in range(200):
        referent = sentence(rng, words, 1, 4)
        prediction = rng.choice([sentence(rng, words, 0, 3), noisy(rng, referent, words, 0.3)])
        judged = judge(prediction, example={"targets_pretokenized": referent})
        cases.append({"prediction": prediction, "referent": referent, "judged": judged})
    write("wsc.json", versions("t5"), cases)


# Edits

def edits():
    rng = random.Random(7)
    cases = []
    for _ in range(50):
        words = rng.choice([SIMPLE[:5], SIMPLE, ["K", "AE1", "T", "AH0", "D", "IY2", "żółw"]])
        references = [sentence(rng, words, 1, 15) for _ in range(rng.randint(1, 10))]
        predictions = [noisy(rng, r, words, rng.choice([0, 0.2, 0.9])) for r in references]
        cases.append({"predictions": predictions, "targets": references,
                      "wer": 100 * jiwer.wer(references, predictions), "cer": 100 * jiwer.cer(references, predictions)})
    write("edits.json", versions("jiwer"), cases)


if __name__ == "__main__":
    for make in (bleu, rouge, classes, numbers, answers, wsc, edits):
        make()
