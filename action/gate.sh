#!/usr/bin/env bash
# The script of the action: asks the gate, writes what it said, ends as the gate does.
set -euo pipefail

binary=${GATE_BINARY:-deponent}
if ! command -v "$binary" >/dev/null; then
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  echo "deponent is not there: building it" >&2
  cargo install --locked --quiet --path "$here/../crates/cli" --no-default-features --root "${RUNNER_TEMP:-/tmp}/deponent"
  binary=${RUNNER_TEMP:-/tmp}/deponent/bin/deponent
fi
# An empty key is none.
[ -n "${DEPONENT_API_KEY:-}" ] || unset DEPONENT_API_KEY

code=0
answer=$("$binary" gate --job "$GATE_JOB" --wait "${GATE_WAIT:-60s}" --format json) || code=$?
answer=$(printf %s "$answer" | tr -d '\n')
action=$(printf %s "$answer" | sed -n 's/.*"action": *"\([a-z]*\)".*/\1/p')
{
  echo "exit-code=$code"
  echo "action=$action"
  echo "answer=$answer"
} >>"${GITHUB_OUTPUT:-/dev/null}"
echo "gate: ${action:-no answer} (exit code $code) $answer" | tee -a "${GITHUB_STEP_SUMMARY:-/dev/null}"

if [ "${GATE_FAIL:-true}" = true ]; then
  exit "$code"
fi
