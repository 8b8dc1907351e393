#!/usr/bin/env python3
"""Makes `codet5`, `codet5-json`, `llama`, `rules.spiece.model` and the files of 200 odd lines with the ids that transformers gives them.

    pip install transformers==4.57.6 tokenizers sentencepiece protobuf
    python tests/data/tokenizers/make.py [codet5] [llama] [unlegacy] [rules]

`codet5` is a byte-level BPE as Salesforce/codet5-base has it (vocab.json and merges.txt with added_tokens.json and
special_tokens_map.json), `codet5-json` the same as a tokenizer.json. `llama` is a SentencePiece BPE with byte fallback as
EleutherAI/pile-t5-base has it. Both are trained here, on this repository's books and sources; `unlegacy` is T5's vocabulary; `rules` is a
small vocabulary with normalisation rules of its own, so that its character map is small. Lines hold no control token (`</s>`, `<pad>`): those are text to this crate, see README.md.
"""

import gzip
import io
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import sentencepiece
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaTokenizer, RobertaTokenizer, RobertaTokenizerFast, T5Tokenizer

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

SEEDS = [
    "", " ", "  ", "\t", "a", " a", "a ", "  a  b  ", "Hello, world!", "don't they're we'll I'd", "DON'T", "naïve café",
    "def f(x):", "    return x[1:-1] ** 2", "if (a && b || !c) { x += 1; }", "\tfor (int i = 0; i < n; ++i)", "// comment",
    "fn main() { println!(\"{:?}\", v); }", "SELECT * FROM t WHERE a <> 'b';", "x = {'k': [1, 2.5e-3, 0xff]}", "a\tb\t\tc",
    "<h1>title</h1>", "&lt;&amp;&gt;", "https://example.org/a?b=c&d=%20", "user@example.org", "C:\\path\\file.txt", "a_b_c",
    "camelCaseName", "SCREAMING_SNAKE", "1234567890", "3.14159", "1,000,000", "10:45:00", "2024-02-30", "-1", "+1-1", "½ ¼ ²",
    "ﬁne ﬂow", "Å Å", "é é", "İi ıI ẞß", "日本語のテキスト", "中文，标点。", "한국어 문장", "Привет мир", "γειά σου",
    "שלום עולם", "مرحبا بالعالم", "हिन्दी", "ไทย", "😀", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "👍🏽", "a\u200bb", "\u00a0a\u00a0b\u00a0", "\u3000a", "a\u2028b",
    "\ufeffbom", "\u0000nul", "\u0007bell", "\u001b[31mred", "\u007f", "\ue000private", "\U0010fffdlast", "…—–‘’“”", "!!!!!!", "??!!..",
    "((((", "))))", "[]{}<>", "```", "***bold***", "~~~", "$$$", "#hash", "@at", "%%", "^^", "||", "\\\\", "\"'\"'", "''", "``",
    "the the the", "aaaaaaaaaaaa", "abababababab", "Mr. Holmes said so.", "It was the best of times", "and the", "▁", "a▁b", "▁▁a", "Ġ", "aĠb",
    "<", ">", "<>", "<a", "<ext", "<extra_id_", "<extra_id_0", "extra_id_0>", "<0x41>", "<0x0A>", "##", "</", "/>",
]
ADDED = ["<extra_id_0>", "<extra_id_7>", "<hl>", "[SEP2]", "foo_bar"]


def odd_lines(added, nul=True):
    """200 lines: the seeds, and then seeds joined at random, with added tokens between."""
    generator = random.Random(11)
    lines = [seed for seed in SEEDS if nul or "\0" not in seed]
    while len(lines) < 200:
        parts = [generator.choice(SEEDS + added * 6) for _ in range(generator.randint(2, 5))]
        line = generator.choice(["", " ", "  "]).join(parts)
        if line not in lines and (nul or "\0" not in line):
            lines.append(line)
    return lines


def write_lines(name, lines, encode, decode):
    with open(HERE / f"{name}.golden_encodings.jsonl", "w") as out:
        for line in lines:
            ids = encode(line)
            out.write(json.dumps({"text": line, "ids": ids, "decoded": decode(ids)}, ensure_ascii=True) + "\n")


def text():
    books = gzip.open(ROOT / "data/books_heldout_sample.txt.gz", "rt").read().splitlines()[:1500]
    code = [line for path in sorted((ROOT / "src/graph").glob("*.rs")) for line in path.read_text().splitlines()]
    return books, code


def dump(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def codet5():
    books, code = text()
    bpe = ByteLevelBPETokenizer()
    specials = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(books + code, vocab_size=700, special_tokens=specials)
    folder = HERE / "codet5"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    bpe.save_model(str(folder))
    n = bpe.get_vocab_size()
    sentinels = [f"<extra_id_{k}>" for k in range(9, -1, -1)]
    tokens = sentinels + ["<hl>", "[SEP2]", "foo_bar"]
    dump(folder / "added_tokens.json", {token: n + i for i, token in enumerate(tokens)})
    special = lambda content, lstrip=False: dict(content=content, single_word=False, lstrip=lstrip, rstrip=False, normalized=True)
    dump(folder / "special_tokens_map.json", dict(
        bos_token=special("<s>"), eos_token=special("</s>"), unk_token=special("<unk>"), sep_token=special("</s>"),
        pad_token=special("<pad>"), cls_token=special("<s>"), mask_token=special("<mask>", True),
        additional_special_tokens=[special(token, True) for token in sentinels]))
    dump(folder / "tokenizer_config.json", dict(tokenizer_class="RobertaTokenizer", add_prefix_space=False, errors="replace",
                                                model_max_length=512))
    slow = RobertaTokenizer.from_pretrained(folder)
    fast = RobertaTokenizerFast.from_pretrained(folder)
    lines = odd_lines(ADDED + ["<mask>"])
    kept = [line for line in lines if slow(line).input_ids == fast(line).input_ids]
    print("codet5:", len(slow), "ids,", len(kept), "of", len(lines), "lines alike in slow and fast")
    for line in lines:
        if line not in kept:
            print("  differs:", repr(line), slow(line).input_ids, fast(line).input_ids)
    decode = lambda ids: fast.decode([i for i in ids if i > 2], clean_up_tokenization_spaces=False)
    write_lines("codet5", lines, lambda line: fast(line).input_ids, decode)
    whole = HERE / "codet5-json"
    shutil.rmtree(whole, ignore_errors=True)
    fast.save_pretrained(whole)
    for name in ["vocab.json", "merges.txt", "added_tokens.json"]:
        (whole / name).unlink(missing_ok=True)


def llama():
    books, code = text()
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(books + code), model_writer=file, vocab_size=700, num_threads=1, minloglevel=2, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, pad_id=-1,
        unk_id=0, bos_id=1, eos_id=2, user_defined_symbols=["    ", "fn "], character_coverage=0.999)
    folder, model = HERE / "llama", file.getvalue()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model)
    n = 700
    added = {str(i): dict(content=token, lstrip=False, rstrip=False, normalized=False, single_word=False, special=True)
             for i, token in enumerate(["<unk>", "<s>", "</s>"])}
    tokens = [f"<extra_id_{k}>" for k in range(10)] + ["<hl>", "[SEP2]", "foo_bar"]
    for i, token in enumerate(tokens):
        added[str(n + i)] = dict(content=token, lstrip=token == "<hl>", rstrip=token == "[SEP2]", normalized=False,
                                 single_word=False, special=token.startswith("<extra"))
    dump(folder / "tokenizer_config.json", dict(
        tokenizer_class="LlamaTokenizer", add_bos_token=False, add_eos_token=True, legacy=True, bos_token="<s>",
        eos_token="</s>", unk_token="<unk>", pad_token="<extra_id_9>", added_tokens_decoder=added,
        clean_up_tokenization_spaces=False))
    slow = LlamaTokenizer.from_pretrained(folder)
    raw = sentencepiece.SentencePieceProcessor(model_proto=model)
    lines = odd_lines(ADDED, nul=False)
    write_lines("llama", lines, lambda line: slow(line).input_ids, lambda ids: raw.decode([i for i in ids if i < n and i != 2]))
    print("llama:", len(slow), "ids", len(lines), "lines")


def unlegacy():
    """T5's own vocabulary, as it lies here, with `"legacy": false`."""
    slow = T5Tokenizer(str(HERE / "t5-small.rebuilt.spiece.model"), extra_ids=100, legacy=False)
    lines = odd_lines(["<extra_id_0>", "<extra_id_7>"], nul=False)
    write_lines("unlegacy", lines, lambda line: slow(line).input_ids, lambda ids: "")
    print("unlegacy:", len(slow), "ids", len(lines), "lines")


def rules():
    """A character map that turns one character into several, several into one, and some into none."""
    changes = {"\ufb01": "fi", "\ufb02": "fl", "\u00bd": "1/2", "e\u0301": "\u00e9", "\u200b": "", "\u00a0": " ", "\u3000": " ", "\uff0c": ",",
               "\u212b": "\u00c5", "...": "\u2026", "\u201c": '"', "\u201d": '"', "\u1e9e": "SS", "\U0001f44d\U0001f3fd": "\U0001f44d"}
    hexes = lambda text: " ".join(f"{ord(c):X}" for c in text)
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as table:
        table.write("".join(f"{hexes(old)}\t{hexes(new)}\n" for old, new in changes.items()))
        table.flush()
        file = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text()[0][:500]), model_writer=file, vocab_size=160, required_chars="é…/12\"👍ÅSf,.!?", num_threads=1, minloglevel=2,
            normalization_rule_tsv=table.name, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=0.99)
    (HERE / "rules.spiece.model").write_bytes(file.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    lines = [line + end for line, end in zip(odd_lines([], nul=False), ["", "e\u0301", "...", "\ufb01\u00bd", "\U0001f44d\U0001f3fd"] * 40)]
    write_lines("rules", lines, model.encode, model.decode)
    print("rules:", len(file.getvalue()), "bytes", len(lines), "lines")


if __name__ == "__main__":
    for make in [codet5, llama, unlegacy, rules]:
        if make.__name__ in (sys.argv[1:] or [make.__name__]):
            make()
