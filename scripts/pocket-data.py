#!/usr/bin/env python3
"""Makes the data of recipes/pocket.toml that no data set has: numbers and dates in words by rules, and misspellings from codespell's list.

    python3 scripts/pocket-data.py data/external/pocket [--codespell DICTIONARY]

DICTIONARY is `codespell_lib/data/dictionary.txt` of the PyPI package `codespell` (`pip download --no-deps codespell`, a zip file; CC BY-SA 3.0).
Only what has one correction, of one word, is taken. Writes TASK_train.tsv and TASK_dev.tsv with the columns source and target; a line is held out by a
hash of its source, so that the same lines are held out wherever this runs.
"""

import argparse
import hashlib
import random
from datetime import date, timedelta
from pathlib import Path

ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen""".split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
GROUPS = ["", " thousand", " million", " billion"]
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth",
}
MONTHS = """January February March April May June July August September October November December""".split()


def in_words(number):
    """A number below 10^12: 42117 is "forty-two thousand one hundred seventeen"."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + ("-" + ONES[number % 10] if number % 10 else "")
    if number < 1000:
        return ONES[number // 100] + " hundred" + (" " + in_words(number % 100) if number % 100 else "")
    parts = []
    for name in GROUPS:
        number, group = divmod(number, 1000)
        if group:
            parts.append(in_words(group) + name)
    return " ".join(reversed(parts))


def ordinal(number):
    """21 is "twenty-first"."""
    head, dash, last = in_words(number).rpartition("-")
    if last in ORDINALS:
        last = ORDINALS[last]
    else:
        last = (last[:-1] + "ie" if last.endswith("y") else last) + "th"
    return head + dash + last


def year_in_words(year):
    """As years from 1100 to 2099 are read: 1905 is "nineteen oh five", 2000 "two thousand"."""
    century, rest = divmod(year, 100)
    if rest == 0:
        return in_words(year) if century % 10 == 0 else in_words(century) + " hundred"
    if 2000 < year < 2010:
        return "two thousand " + in_words(rest)
    return in_words(century) + " " + (("oh " if rest < 10 else "") + in_words(rest))


def date_in_words(day):
    return f"{MONTHS[day.month - 1]} {ordinal(day.day)}, {year_in_words(day.year)}"


def numbers(rng, count):
    """As many numbers of each length, up to nine digits."""
    found = set(range(0, 1000, 7))
    while len(found) < count:
        found.add(rng.randrange(10 ** rng.randrange(9) * 10))
    return sorted(found)


def dates(rng, count):
    first = date(1100, 1, 1)
    days = (date(2099, 12, 31) - first).days
    return sorted({first + timedelta(rng.randrange(days)) for _ in range(count)})


def spellings(dictionary):
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        wrong, _, right = line.partition("->")
        if right and "," not in right and " " not in right:
            yield wrong, right


def write(out, task, pairs):
    """Of a hundred pairs, two are held out."""
    held_out = lambda source: int(hashlib.sha256(source.encode()).hexdigest(), 16) % 50 == 0
    pairs = sorted(set(pairs))
    for split, wanted in [("train", False), ("dev", True)]:
        lines = [f"{source}\t{target}\n" for source, target in pairs if held_out(source) == wanted]
        (out / f"{task}_{split}.tsv").write_text("".join(lines), encoding="utf-8")
        print(f"{out / f'{task}_{split}.tsv'}: {len(lines)} pairs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the files, created if missing")
    parser.add_argument("--codespell", type=Path, metavar="DICTIONARY", help="codespell's dictionary.txt")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    chosen = [(str(number), in_words(number)) for number in numbers(rng, 20_000)]
    chosen += [(day.isoformat(), date_in_words(day)) for day in dates(rng, 10_000)]
    write(args.out, "say", chosen)
    write(args.out, "write", [(words, figures) for figures, words in chosen])
    if args.codespell:
        write(args.out, "spell", list(spellings(args.codespell)))


if __name__ == "__main__":
    main()
