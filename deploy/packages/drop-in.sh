# shellcheck shell=sh
# Part of the scripts of both kinds of packages. The drop-in is no file of the package: /etc/slurm may be read-only, or a
# volume, and then installing must not fail.
template=/usr/share/spank-gcp-wif/10-gcp-wif.conf
drop_in=/etc/slurm/plugstack.conf.d/10-gcp-wif.conf

install_drop_in() {
	if [ ! -e "$drop_in" ]; then
		if ! { mkdir -p "${drop_in%/*}" && cp "$template" "$drop_in"; } 2>/dev/null; then
			echo "spank-gcp-wif: $drop_in cannot be written; copy $template to where plugstack.conf includes it" >&2
			return 0
		fi
	fi
	# Not where plugstack.conf comes from the controller.
	if ! grep -qs 'plugstack\.conf\.d' /etc/slurm/plugstack.conf; then
		echo "spank-gcp-wif: let plugstack.conf say: include /etc/slurm/plugstack.conf.d/*.conf" >&2
	fi
}

# Slurm takes the plugin no more; a file that was edited stays.
remove_drop_in() {
	if cmp -s "$template" "$drop_in"; then
		rm -f "$drop_in" || true
	fi
}
