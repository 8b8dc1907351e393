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
# batches STAGE: how many it was trained on.
batches() { sed -n 's/^{"event":"step","step":\([0-9]*\).*/\1/p' "$out/$1/log.jsonl" | tail -n 1; }
# count NAME: of the test's figures.
count() { sed -n "s/^ *\"$1\": \([0-9]*\).*/\1/p" "$out/test/metrics.json" | tail -n 1; }
wrong=$(count inexact)
words=$(count predictions)
echo
echo "$((words - wrong)) of $words words right, after $(batches pretrain) batches of books and $(batches finetune) of words."
echo "Two processor cores without a graphics card: 179 of 500, after 492 and 1142."
$t5 report "$out" --out "$out/report.html"

say "Next"
# What `make` has chosen holds for its own commands only.
case ${VK_DRIVER_FILES-} in
    "$PWD"/.driver/*) echo "  . scripts/driver.sh   # once in a shell: the software driver that this demo ran on" ;;
esac
cat <<TEXT
  $t5 generate --model $out "your own word"
  $t5 show-objective "A sentence of your own"                 # what pre-training makes of a text
  $t5 run recipes/pronounce.toml --dry-run                    # what a real model would take here
  $t5 verify                                                  # prove every kernel on this adapter
TEXT
