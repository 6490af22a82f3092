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
# What all of them begin with: 0.2.1, the last version that was not aligned. (0.3.0 is what came of one of these runs.)
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

# run NAME METHOD [--set KEY=VALUE ...]
run() {
    local at="$RUNS/$1"
    [ "$wanted" = "  " ] || [[ "$wanted" = *" $1 "* ]] || return 0
    if [ ! -e "$at/bundle/config.json" ]; then
        local resume=()
        [ -e "$at/config.json" ] && resume=(--resume)
        echo "$(date +%H:%M:%S) $1"
        "$CANDOR" train "$2" --config config/align.toml --out "$at" --version "0.3.0-$1" --set "policy=$POLICY" "${resume[@]}" "${@:3}" >"$at.log" 2>&1 || echo "stopped: $(tail -n 1 "$at.log")"
    fi
    [ -e "$at/bundle/config.json" ] || return 0
    captions "$1" "$at/bundle" greedy
    [ -z "${GREEDY_ONLY:-}" ] && captions "$1" "$at/bundle" guarded --guard regenerate
    return 0
}

if [ "$wanted" = "  " ] || [[ "$wanted" = *" base "* ]]; then
    mkdir -p "$RUNS/base"
    captions base "$POLICY" greedy
    captions base "$POLICY" guarded --guard regenerate
    captions base "$POLICY" best-of-5 --best-of 5
fi

# The methods, and other seeds of two of them. Imitation of corrections gets as many iterations as the others have in all.
corrections() { run "corrections-$1" ppo --set "seed=$1" --set iterations=0 --set corrections.iterations=140; }
run ppo-31 ppo --set seed=31
run ppo-long ppo --set iterations=300
run ddpo ddpo
run dpo dpo
run sequence-ppo sequence-ppo
corrections 31
run spin spin
run rest rest
for seed in 32 33; do
    run "ppo-$seed" ppo --set "seed=$seed"
    corrections "$seed"
done

# What the questions of the method ask.
run first-error ppo --set corrections.scope=first_error
run wrong-10 ppo --set corrections.wrong_labels=0.1
run wrong-20 ppo --set corrections.wrong_labels=0.2
for limit in 100 300 1000 3000; do
    run "limit-$limit" ppo --set "corrections.limit=$limit"
done
run no-completeness ppo --set reward.completeness=0 --set reward.consensus=0
run no-kl ppo --set ppo.kl.beta=0 --set ppo.kl.target=0
