# shellcheck shell=sh
# Gives a shell that came into a Slurm job by ssh (pam_slurm_adopt) the job's
# Google Cloud credentials. Prints nothing if the job has none.
if [ -n "${SLURM_JOB_ID-}" ] && [ -z "${GCP_WIF_VARIABLES-}" ] && [ -x /usr/bin/gcp-wif ]; then
	eval "$(/usr/bin/gcp-wif env 2>/dev/null)"
fi
