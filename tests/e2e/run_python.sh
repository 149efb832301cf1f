#!/usr/bin/env bash
# run_python.sh SCRIPT: an end-to-end test in Python's standard library.
exec python3 "$1"
