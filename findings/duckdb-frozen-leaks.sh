#!/usr/bin/env bash
# duckdb 2.0.0, Python 3.11 (Linux x86-64).
#
# One would guess: gc.freeze(), which Python's documentation advises before a fork and which only leaves objects out of
# later collections, changes nothing that a program prints.
# Seen: with objects frozen, Python's end no longer collects the cycles among duckdb's types, and nanobind, with which
# duckdb is bound, reports each as a leak on standard error: instances, types and functions by name. The exit status
# stays 0. Without the freeze, or after gc.unfreeze(), nothing is printed.
#
# Output seen:
#   plain: 0 lines
#   frozen: nanobind: leaked 27 instances!
#   unfrozen again: 0 lines
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.0
cd "$folder"
say() { "$folder/venv/bin/python" -c "import atexit, gc, duckdb; $1" 2>&1; }
plain=$(say "pass")
frozen=$(say "gc.freeze()")
unfrozen=$(say "gc.freeze(); gc.unfreeze()")
count() { if [ -z "$1" ]; then echo 0; else wc -l <<< "$1"; fi; }
echo "plain: $(count "$plain") lines"
echo "frozen: $(head -1 <<< "$frozen")"
echo "unfrozen again: $(count "$unfrozen") lines"
[ -z "$plain" ] && [ -z "$unfrozen" ] && grep -q 'nanobind: leaked .* types' <<< "$frozen" || { echo "this has changed"; exit 1; }
