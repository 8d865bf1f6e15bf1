#!/bin/bash
#SBATCH --gcp-wif
# Runs a program in a directory of the job's, and copies what it writes there into a bucket: every minute while it runs,
# and once more at its end, with its exit status.
#
#   sbatch rsync.sh gs://my-bucket/results PROGRAM [ARGUMENT]...
#
# SECONDS_BETWEEN, if set, is the pause instead of a minute. It needs gcloud.
set -euo pipefail

bucket=$1
shift
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
cd "$results"

copy() {
  gcloud storage rsync --recursive --no-user-output-enabled . "$bucket"
}

"$@" &
program=$!
while kill -0 "$program" 2>/dev/null; do
  sleep "${SECONDS_BETWEEN:-60}"
  # A copy that fails is tried again with the next one.
  copy || echo "not copied yet" >&2
done
status=0
wait "$program" || status=$?
copy
exit "$status"
