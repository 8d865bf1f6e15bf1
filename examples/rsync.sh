#!/bin/bash
#SBATCH --gcp-wif
# Runs a program in a temporary directory, and copies the files that it writes there to a bucket: every minute while it
# runs, and once more at the end. The script ends with the program's exit status.
#
#   sbatch rsync.sh gs://my-bucket/results PROGRAM [ARGUMENT]...
#
# SECONDS_BETWEEN, if set, replaces the pause of one minute. The script needs gcloud.
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
  # The next copy makes up for one that fails.
  copy || echo "not copied yet" >&2
done
status=0
wait "$program" || status=$?
copy
exit "$status"
