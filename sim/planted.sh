#!/usr/bin/env bash
# Plants five bugs in a copy of the core, one at a time (the patches in sim/planted), and runs the simulator on each: a
# check must notice every one of them. Exit code 0 if all were caught, 1 if one went by.
#
#     sim/planted.sh [PATCH ...]
#
# Takes a build and up to SEEDS random trials (default 200) for each; a bug is caught at the first seed that fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seeds="${SEEDS:-200}"
batch=10
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
# Not the directory of the tree's own builds: cargo would take the copy's objects for the tree's.
export CARGO_TARGET_DIR="${PLANTED_TARGET_DIR:-$work/target}"
mkdir "$work/tree"
git ls-files -z -- . ':!sim/planted' | xargs -0 cp --parents -t "$work/tree"

build() {
    (cd "$work/tree" && cargo build --locked --quiet -p tidings-sim)
}

# Tries seeds in batches, so that a bug that shows early costs little; prints the first line of a failure.
first_failure() {
    local from last said
    for ((from = 1; from <= seeds; from += batch)); do
        last=$((from + batch - 1))
        if ! said="$("$CARGO_TARGET_DIR/debug/tidings-sim" fuzz --from "$from" --seeds "$batch" --dir "$work" 2>/dev/null)"; then
            grep -m 1 '^FAILED' <<<"$said" || echo "FAILED within seeds $from to $last"
            return
        fi
    done
}

if [ $# -eq 0 ]; then
    set -- sim/planted/*.patch
fi
echo "as it is:"
build
clean="$(first_failure)"
if [ -n "$clean" ]; then
    echo "  without any bug a seed fails already: $clean" >&2
    exit 1
fi
echo "  $seeds seeds hold"
missed=0
for patch in "$@"; do
    echo "$(basename "$patch" .patch): $(head -n 1 "$patch")"
    git -C "$work/tree" apply "$PWD/$patch"
    build
    caught="$(first_failure)"
    git -C "$work/tree" apply --reverse "$PWD/$patch"
    if [ -n "$caught" ]; then
        echo "  caught: ${caught#FAILED }"
    else
        echo "  NOT CAUGHT by $seeds seeds"
        missed=$((missed + 1))
    fi
done
exit $((missed > 0))
