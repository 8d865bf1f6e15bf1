# shellcheck shell=sh
# Part of the maintainer scripts of both kinds of packages. When the service is gone, an agent without a service manager
# serves the jobs that run on this node. The scripts call this before they remove the command.
serve_on() {
	if [ -n "$(ls -A /run/gcp-wif/records 2>/dev/null)" ]; then
		gcp-wif agent --runtime-dir /run/gcp-wif || true
	fi
}
