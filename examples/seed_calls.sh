#!/usr/bin/env bash
# The calls that are documented, against a server of one's own machine:
#
#   codetune serve &
#   examples/seed_calls.sh REPOSITORY [http://localhost:8000]
#
# REPOSITORY is a folder with a git repository. What is quick is asked at once; with TUNE=1 the
# tunings are waited for and their models asked, too. Every call has to succeed.
set -euo pipefail

repository=${1:?the folder of a git repository}
url=${2:-http://localhost:8000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

call() { curl --silent --show-error --fail-with-body --max-time 120 "$@" && echo; }
# field NAME: the value of a field of the JSON object on standard input
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
json=(-H "Content-Type: application/json")
# CONFIG='{"config": {…}}': options as codetune.yaml has them, for the tunings
options=()
[[ ${CONFIG:-} ]] && options=("${json[@]}" -d "$CONFIG")

wait_for() { # JOB: until it has ended
  local state=queued
  while [[ $state == queued || $state == running ]]; do
    sleep 1
    state=$(call "$url/ingest/status/$1" | field state)
  done
  [[ $state == succeeded ]] || { call "$url/ingest/status/$1"; exit 1; }
}

# --- a completion server -------------------------------------------------------------------------
call -X POST "$url/generate" "${json[@]}" -d '{
  "file_path": "add.py",
  "prior_context": "def add(a, b):\n    return ",
  "proceeding_context": "\n",
  "max_decode_length": 16
}'
call -X POST "$url/generate" "${json[@]}" \
  -d '{"prior_context": "def add(a, b):\n    return ", "max_decode_length": 16}'

# --- a repository's pipeline ---------------------------------------------------------------------
ingest=$(call -X POST "$url/ingest" "${json[@]}" -d "{\"source\": \"$repository\"}" | field job_id)
call "$url/ingest/status"
wait_for "$ingest"
call -X POST "$url/fine-tune/generate-data"
started=$(call -X POST "$url/fine-tune/start" ${options[@]+"${options[@]}"})
echo "$started"
job_id=$(field job_id <<<"$started")
call "$url$(field status_endpoint <<<"$started")"
call "$url/ingest/status/$job_id"
call "$url/models/info"
if [[ ${TUNE:-} ]]; then
  wait_for "$job_id"
  call -X POST "$url/query" \
    -H "Content-Type: application/json" \
    -d '{"q": "How do I integrate Hyperswitch payments?", "model": "fine-tuned"}'
  call -X POST "$url/query?model=fine-tuned" "${json[@]}" -d '{"q": "What is in this repository?"}'
fi

# --- adapters for documents ----------------------------------------------------------------------
for topic in basket invoice parcel ledger voucher; do
  {
    echo "# The $topic"
    for rule in $(seq 40); do echo; echo "Rule $rule of a $topic: write $((rule * 7))."; done
  } >"$work/$topic.md"
  call -X POST "$url/documents" -F "file=@$work/$topic.md"
done
if [[ ${TUNE:-} ]]; then
  setup=$(call -X POST "$url/fine-tuning/setup" ${options[@]+"${options[@]}"} | field job_id)
  wait_for "$setup"
fi
call "$url/fine-tuning/status"
if [[ ${TUNE:-} ]]; then
  call -X POST "$url/fine-tuning/query" \
    -F "query=What is machine learning?"
fi

# --- a tuning backend ----------------------------------------------------------------------------
printf '{"instruction": "Add %s", "output": "def add(a, b): return a + b"}\n' one two three \
  >"$work/rows.jsonl"
dataset=$(call -X POST "$url/api/v1/datasets/upload" -F "file=@$work/rows.jsonl" | field id)
call "$url/api/v1/datasets/"
call "$url/api/v1/datasets/$dataset/preview"
call "$url/api/v1/models/"
model=$(call "$url/api/v1/models/?kind=base" |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["items"][0]["id"])')
pulled=$(call -X POST "$url/api/v1/models/pull" "${json[@]}" -d '{"model": "nano"}' | field id)
call "$url/api/v1/ollama/models"
call -X POST "$url/api/v1/ollama/chat" "${json[@]}" -d "{
  \"model\": \"$model\",
  \"messages\": [{\"role\": \"user\", \"content\": \"What is a mutex?\"}],
  \"options\": {\"num_predict\": 8},
  \"stream\": false
}"
call -X POST "$url/api/v1/compare" "${json[@]}" \
  -d "{\"models\": [\"$model\", \"no-such-model\"], \"prompt\": \"def add(\", \"max_tokens\": 8}"
call "$url/api/v1/user-models/"
call "$url/api/v1/settings"
call "$url/api/v1/analytics/"
[[ ${TUNE:-} ]] && wait_for "$pulled"
tuning=$(call -X POST "$url/api/v1/tuning/" "${json[@]}" \
  -d "{\"source\": \"$repository\", \"name\": \"second\", \"datasets\": [{\"id\": \"$dataset\"}]}" |
  field id)
call "$url/api/v1/tuning/"
call "$url/api/v1/tuning/$tuning"
call "$url/api/v1/tuning/$tuning/progress"
call -X POST "$url/api/v1/tuning/$tuning/cancel"
