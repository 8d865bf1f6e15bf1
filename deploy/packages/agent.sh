# shellcheck shell=sh
# Part of the scripts of both kinds of packages. Jobs that run on this node are served by an agent of the node's own once
# the service is gone. Called before the command goes.
serve_on() {
	if [ -n "$(ls -A /run/gcp-wif/records 2>/dev/null)" ]; then
		gcp-wif agent --runtime-dir /run/gcp-wif || true
	fi
}
