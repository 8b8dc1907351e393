#!/bin/sh
# The T5 recipe in small, with real data: span-corruption pre-training on English words and their book prose, fine-tuning
# on the CMU Pronouncing Dictionary, and pronunciations of words that were held out.
#
#   make demo                       about four minutes on two processor cores; a GPU learns more in the same time
#   T5_DEMO=runs/other make demo    another folder
set -eu
cd "$(dirname "$0")/.."
t5=target/release/t5
out=${T5_DEMO:-runs/demo}
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1/4  The adapter"
$t5 devices

say "2/4  Pre-training: restore masked spans of English text (about a minute)"
$t5 train --text data/books_sample.txt.gz --eval data/books_heldout_sample.txt.gz --tokenizer bytes \
    --d-model 64 --d-kv 16 --heads 4 --d-ff 128 --layers 2 --activation gated-gelu --tie false --dropout 0 \
    --seq-len 64 --batch-size 32 --lr 3e-3 --minutes 1 --out "$out/pretrained" --overwrite

say "3/4  Fine-tuning: pronounce English words, CMU Pronouncing Dictionary (about two minutes)"
$t5 data cmudict --out "$out/cmudict"
$t5 train --model "$out/pretrained/last" --pairs "$out/cmudict/train.tsv" --eval "$out/cmudict/dev.tsv" \
    --batch-size 64 --lr 3e-3 --dropout 0 --minutes 2 --eval-examples 500 --out "$out/pronounce" --overwrite

say "4/4  Words it has never seen, beside the dictionary's answer"
cut -f1 "$out/cmudict/dev.tsv" | uniq | awk 'NR % 600 == 7' | head -8 > "$out/words.txt"
$t5 generate --model "$out/pronounce/best" --file "$out/words.txt" --quiet > "$out/answers.txt"
printf '%-16s %-32s %s\n' word t5 dictionary
paste "$out/words.txt" "$out/answers.txt" | while IFS="$(printf '\t')" read -r word answer; do
    reference=$(awk -F '\t' -v w="$word" '$1 == w { print $2; exit }' "$out/cmudict/dev.tsv")
    printf '%-16s %-32s %s\n' "$word" "$answer" "$reference"
done

say "Next"
cat <<TEXT
  $t5 generate --model $out/pronounce/best "your own word"
  $t5 train --resume --out $out/pronounce --steps 20000      # go on where it stopped: errors keep falling
  $t5 verify                                                 # prove every kernel on this adapter
  $t5 train --help
TEXT
