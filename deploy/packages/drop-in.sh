# shellcheck shell=sh
# Part of the maintainer scripts of both kinds of packages. The drop-in is not a file of the package, because /etc/slurm
# may be read-only or a volume, and the installation must not fail then.
template=/usr/share/spank-gcp-wif/10-gcp-wif.conf
drop_in=/etc/slurm/plugstack.conf.d/10-gcp-wif.conf

install_drop_in() {
	if [ ! -e "$drop_in" ]; then
		if ! { mkdir -p "${drop_in%/*}" && cp "$template" "$drop_in"; } 2>/dev/null; then
			echo "spank-gcp-wif: cannot write $drop_in; copy $template to a folder that plugstack.conf includes" >&2
			return 0
		fi
	fi
	# If plugstack.conf comes from the controller, there is no file here, and the line is printed as well.
	if ! grep -qs 'plugstack\.conf\.d' /etc/slurm/plugstack.conf; then
		echo "spank-gcp-wif: add this line to plugstack.conf: include /etc/slurm/plugstack.conf.d/*.conf" >&2
	fi
}

# Slurm no longer loads the plugin afterwards. A drop-in that was edited stays.
remove_drop_in() {
	if cmp -s "$template" "$drop_in"; then
		rm -f "$drop_in" || true
	fi
}
