#!/usr/bin/env bash
# Runs the same experiments with real processes on loopback and in the simulator, and prints their medians side by side
# in Markdown. Exit code 0 if every ratio is between 0.7 and 1.4, 1 if one is not.
#
#     sim/real-against-simulated.sh [MEMBERS ...]
#
# Takes a quarter of an hour for 20 and 50 members: a member that crashed is waited for until all have dropped it.
#
#   PROFILE   the profile that both are built with (default bench)
#   TRIALS    how often real members do each (default 20)
#   CRASHES   how often one of them crashes (default 10)
#   SEEDS     how many worlds are simulated (default 20)
#   AHEAD     yes (default): real members run ahead of everything else on the machine (`chrt -f 1`), where that is
#             allowed, and whoever runs finishes what it began, as in the simulator; no: as the system pleases
#   KEEP      a directory that keeps all figures as JSON
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile="${PROFILE:-bench}"
trials="${TRIALS:-20}"
seeds="${SEEDS:-20}"
if [ $# -eq 0 ]; then
    set -- 20 50
fi
if [ -n "${KEEP:-}" ]; then
    mkdir -p "$KEEP"
    work="$(cd "$KEEP" && pwd)"
else
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
fi
ahead=()
if [ "${AHEAD:-yes}" = yes ]; then
    if chrt -f 1 true 2>/dev/null; then
        ahead=(chrt -f 1)
    else
        echo "not allowed to run ahead: what else runs on this machine counts as well" >&2
    fi
fi

cargo build --locked --quiet --profile "$profile" -p tidings-sim
cargo bench --locked --quiet --profile "$profile" --bench cluster --no-run

measure() {
    "${ahead[@]}" cargo bench --locked --quiet --profile "$profile" --bench cluster -- "$@" >&2
}

simulate() {
    cargo run --locked --quiet --profile "$profile" -p tidings-sim -- "$@"
}

# A missed target is said by the programs themselves; here only what was measured counts.
real=() simulated=()
for members in "$@"; do
    file="$work/real-$members.json"
    measure join change leave --nodes "$members" --trials "$trials" --json "$file" || echo "not all held" >&2
    real+=("$file")
    file="$work/real-crash-$members.json"
    measure crash --nodes "$members" --trials "${CRASHES:-10}" --json "$file" || echo "not all held" >&2
    real+=("$file")
    for experiment in join change crash leave; do
        file="$work/simulated-$experiment-$members.json"
        simulate experiment "$experiment" --nodes "$members" --network loopback --seeds "$seeds" --json "$file" >&2 ||
            echo "not all held" >&2
        simulated+=("$file")
    done
done
simulate compare --real "${real[@]}" --simulated "${simulated[@]}"
