#!/usr/bin/env bash
# The runs behind docs/alignment.md, one after another: every method on the same configuration, then its captions of dev, greedy and guarded. What is there already is passed over, and a run that
# was killed goes on, so that this can be called again until it has nothing to do. Some hours on two cores; `tools/alignment_runs.sh NAME...` makes some of them only.
#
#   tools/alignment_runs.sh && python3 tools/alignment_table.py runs/align
set -uo pipefail
cd "$(dirname "$0")/.."
CANDOR=${CANDOR:-target/release/candor}
DATA=${DATA:-../shared/data/flickr8k}
RUNS=${RUNS:-runs/align}
wanted=" $* "
mkdir -p "$RUNS"
# What all of them begin with: 0.2.1, the last version that was not aligned. (0.4.0 is what came of ppo-long.)
POLICY=${POLICY:-runs/candor-mini-0.2.1}
if [ ! -e "$POLICY/config.json" ]; then
    mkdir -p "$POLICY"
    git archive 3e0b1f8 models/candor-mini | tar -x --strip-components=2 -C "$POLICY"
fi

# captions NAME BUNDLE AS [flags]: captions of dev and their figures on the reporting half, at RUNS/NAME/AS.json.
captions() {
    local at="$RUNS/$1/$3" bundle=$2
    [ -e "$at.json" ] && return
    "$CANDOR" eval captions --generate --model "$bundle" --hypotheses "$at.jsonl" --references "$DATA" --half report --json "$at.json" "${@:4}" >"$at.log" 2>&1 || echo "failed: $at.log"
}

# answers NAME BUNDLE: what becomes of answers to questions.
answers() {
    local at="$RUNS/$1/vqa"
    [ -e "$at.json" ] && return
    "$CANDOR" eval vqa --model "$2" --data "$DATA" --json "$at.json" >"$at.log" 2>&1 || echo "failed: $at.log"
}

asked_for() { [ "$wanted" = "  " ] || [[ "$wanted" = *" $1 "* ]]; }

# train NAME METHOD [--set KEY=VALUE ...]
train() {
    local at="$RUNS/$1" resume=()
    [ -e "$at/bundle/config.json" ] && return
    [ -e "$at/config.json" ] && resume=(--resume)
    echo "$(date +%H:%M:%S) $1"
    "$CANDOR" train "$2" --config config/align.toml --out "$at" --version "0.3.1-$1" --set "policy=$POLICY" "${resume[@]}" "${@:3}" >"$at.log" 2>&1 || echo "stopped: $(tail -n 1 "$at.log")"
}

# run NAME METHOD [--set KEY=VALUE ...]: a method, and what its policy writes.
run() {
    asked_for "$1" || return 0
    train "$@"
    [ -e "$RUNS/$1/bundle/config.json" ] || return 0
    captions "$1" "$RUNS/$1/bundle" greedy
    answers "$1" "$RUNS/$1/bundle"
    [ -z "${GREEDY_ONLY:-}" ] && captions "$1" "$RUNS/$1/bundle" guarded --guard regenerate
    return 0
}

# question NAME METHOD [--set KEY=VALUE ...]: a shorter run, which its looks at the tuning half answer.
question() {
    asked_for "$1" || return 0
    train "$1" "$2" --set iterations=60 "${@:3}"
}

if asked_for base; then
    mkdir -p "$RUNS/base"
    captions base "$POLICY" greedy
    answers base "$POLICY"
    captions base "$POLICY" guarded --guard regenerate
    captions base "$POLICY" best-of-5 --best-of 5
fi

# The methods, and other seeds of two of them. Imitation of corrections gets as many iterations as the others have in all.
corrections() { run "corrections-$1" ppo --set "seed=$1" --set iterations=0 --set corrections.iterations=180; }
run ppo-31 ppo
run ppo-long ppo --set iterations=320
run ddpo ddpo
run dpo dpo
run sequence-ppo sequence-ppo
run spin spin
run rest rest
for seed in 32 33; do
    GREEDY_ONLY=1 run "ppo-$seed" ppo --set "seed=$seed"
done
for seed in 31 32 33; do
    corrections "$seed"
done

# What the questions of the method ask: of rewards, and of corrections (where most of what is learnt comes from them: what PPO earns comes from its scorer).
question short ppo
question no-completeness ppo --set reward.completeness=0 --set reward.consensus=0 --set reward.brevity=0
question no-kl ppo --set ppo.kl.beta=0 --set ppo.kl.target=0
question all-errors ddpo
question first-error ddpo --set corrections.scope=first_error
question wrong-10 ddpo --set corrections.wrong_labels=0.1
question wrong-20 ddpo --set corrections.wrong_labels=0.2
for limit in 100 300 1000 3000; do
    question "limit-$limit" ddpo --set "corrections.limit=$limit"
done
