#!/usr/bin/env bash
# lmms-eval 0.7.3 with filelock 4.3.1 and 4.2.12, Python 3.11 (Linux x86-64).
#
# One would guess: `pip install lmms-eval`, which takes the newest filelock, gives a program that evaluates.
# Seen: before it loads a task's data, each evaluation patches filelock by its private module `_api`, which filelock 4.3 does not have.
# Every evaluation ends with that error (and status 0). filelock below 4.3 is needed.
#
# Output seen:
#   filelock 4.3.1: ModuleNotFoundError: No module named 'filelock._api'
#   filelock 4.2.12: patched
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
# The function alone, so that the forty packages that lmms-eval needs can stay away; what it asks of datasets is a subclass of a lock.
pip --no-deps lmms-eval==0.7.3
cat > "$folder/patch.py" <<'PYTHON'
import ast
import os
import sys
import sysconfig
import types
from importlib.metadata import version
from pathlib import Path

import filelock

locks = types.ModuleType("datasets.utils._filelock")
locks.FileLock = type("FileLock", (filelock.FileLock,), {})
utils = types.ModuleType("datasets.utils")
utils._filelock = locks
sys.modules.update({"datasets": types.ModuleType("datasets"), "datasets.utils": utils, "datasets.utils._filelock": locks})
tree = ast.parse(Path(sysconfig.get_path("purelib"), "lmms_eval", "evaluator.py").read_text())
(function,) = [one for one in tree.body if getattr(one, "name", "") == "_enable_reentrant_filelocks"]
names = {"os": os}
exec(compile(ast.Module([function], []), "evaluator.py", "exec"), names)
try:
    names["_enable_reentrant_filelocks"]()
    said = "patched"
except ImportError as error:
    said = f"{type(error).__name__}: {error}"
print(f"filelock {version('filelock')}: {said}")
sys.exit(said != sys.argv[1])
PYTHON
cd "$folder"
pip filelock==4.3.1
venv/bin/python patch.py "ModuleNotFoundError: No module named 'filelock._api'" || { echo "this has changed"; exit 1; }
pip filelock==4.2.12
venv/bin/python patch.py patched || { echo "this has changed"; exit 1; }
