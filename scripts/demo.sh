#!/bin/sh
# The T5 recipe in small, with real data: recipes/quickstart.toml, and what the model answers.
#
#   make demo                       about three minutes on two processor cores; a GPU learns more in the same time
#   T5_DEMO=runs/other make demo    another folder
set -eu
cd "$(dirname "$0")/.."
t5=target/release/t5
out=${T5_DEMO:-runs/demo}
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1/3  The adapter"
$t5 devices

say "2/3  The recipe: pre-training (a minute), fine-tuning (a minute), test"
$t5 run recipes/quickstart.toml --out "$out" --overwrite

say "3/3  Words it has never seen, beside the dictionary's answer"
predictions=$out/test/predictions/pronounce.jsonl
printf '%-16s %-32s %s\n' word t5 dictionary
awk 'NR % 60 == 7' "$predictions" | head -8 |
    sed 's/^{"source":"\(.*\)","prediction":"\(.*\)","references":\["\([^"]*\)".*/\1\t\2\t\3/' |
    while IFS="$(printf '\t')" read -r word answer reference; do
        printf '%-16s %-32s %s\n' "$word" "$answer" "$reference"
    done
$t5 report "$out" --out "$out/report.html"

say "Next"
cat <<TEXT
  $t5 generate --model $out/finetune/best "your own word"
  $t5 show-objective "A sentence of your own"                 # what pre-training makes of a text
  $t5 run recipes/pronounce.toml --dry-run                    # what a real model would take here
  $t5 verify                                                  # prove every kernel on this adapter
TEXT
