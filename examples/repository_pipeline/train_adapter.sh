#!/usr/bin/env bash
# Tune on a repository with the settings of axolotl.yaml; what is said stands in out/training.log, too.
#
#   ./train_adapter.sh PATH-OR-URL [more options of `codetune tune`]
#   ./train_adapter.sh . --base nano
#
# A run that was stopped goes on when it is started again.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 PATH-OR-URL [options of codetune tune]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
mkdir -p "$out"
codetune tune "$1" --config "$here/axolotl.yaml" --set dataset.use_sft=true "${@:2}" 2>&1 |
    tee "$out/training.log"
