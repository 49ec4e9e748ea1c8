#!/usr/bin/env bash
# lmms-eval 0.7.3 with datasets 5.2.0, filelock 4.2.12, torch 2.13.0, transformers 5.23.0, Python 3.11 (Linux x86-64).
#
# One would guess: `doc_hash` in a log of samples tells whether two runs saw the same question, and `task_hashes` in the results whether
# they saw the same questions.
# Seen: every question of every data set has the same `doc_hash`, that of JSON's null, so that `task_hashes` depend on the number of
# questions alone: two data sets of one size agree. Pair runs by doc_id, and compare what was asked (`input`, `target`) yourself.
#
# Output seen:
#   two data sets of two questions: 1 doc_hash, 1 task hash
#   that of JSON's null: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lmms-eval==0.7.3 datasets==5.2.0 filelock==4.2.12 torch==2.13.0 \
    transformers==5.23.0
# Nothing here needs it, and it loads beside a torch of the same build alone.
"$folder/venv/bin/pip" uninstall --quiet --yes torchvision
cd "$folder"
mkdir tasks
for name in one other; do
    cat > "tasks/$name.yaml" <<YAML
task: $name
dataset_path: json
dataset_kwargs: {data_files: $folder/$name.jsonl}
test_split: train
output_type: generate_until
doc_to_text: question
doc_to_target: answer
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
YAML
done
printf '{"question": "%s", "answer": "a"}\n' "what is red?" "what is blue?" > one.jsonl
printf '{"question": "%s", "answer": "b"}\n' "who is here?" "who was there?" > other.jsonl
for name in one other; do
    HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" venv/bin/python -m lmms_eval --model dummy --tasks "$name" --include_path tasks \
        --output_path "out-$name" --log_samples > "$name.txt" 2>&1
    # Its status is 0 whatever happens.
    [[ -e "out-$name" ]] || { tail -5 "$name.txt"; exit 1; }
done
venv/bin/python - <<'PYTHON' || { echo "this has changed"; exit 1; }
import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

print(f"lmms-eval {version('lmms-eval')}")
rows = [json.loads(line) for file in Path().glob("out-*/**/*_samples_*.jsonl") for line in file.open()]
found = {row["doc_hash"] for row in rows}
tasks = {hash for file in Path().glob("out-*/**/*_results.json") for hash in json.loads(file.read_text())["task_hashes"].values()}
null = hashlib.sha256(b"null").hexdigest()
print(f"two data sets of two questions: {len(found)} doc_hash, {len(tasks)} task hash")
print(f"that of JSON's null: {found == {null}}")
sys.exit((len(rows), len(found), len(tasks), found) != (4, 1, 1, {null}))
PYTHON
