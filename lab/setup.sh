#!/bin/sh
# Installs what the tests use from Debian's or Ubuntu's packages; does nothing for what is there.
# Without root it says what is missing, and the tests that need it say so too.
set -eu

missing=""
need() { # need PACKAGE PROGRAM...: the package is wanted when none of the programs is found
	package=$1
	shift
	for program in "$@"; do
		if [ -x "$program" ] || command -v "$program" >/dev/null 2>&1; then return 0; fi
	done
	missing="$missing $package"
}

PATH="$PATH:/usr/sbin:/sbin:/usr/local/sbin"
postgres=$(find /usr/lib/postgresql -name initdb -path '*/bin/*' 2>/dev/null | head -n 1)
[ -n "$postgres" ] || need postgresql initdb
need gnupg gpg
need age age
need redis-server redis-server
need zstd zstd
need rsync rsync
need openssh-server sshd
need openssh-client ssh
need knot knotd
need chromium chromium chromium-browser google-chrome
need docker.io dockerd
need nftables nft
need iproute2 ip
# The lab of full servers (make lab) alone:
need debootstrap debootstrap
need iproute2 ip
need util-linux unshare losetup
need e2fsprogs mkfs.ext4

[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "setup: not installed, and not root:$missing"
	echo "setup: the tests that need them say so; to have them: sudo apt-get install$missing"
	exit 0
fi
echo "setup: installing$missing"
# No daemon starts while packages are unpacked: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' > $policy
	chmod +x $policy
	trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of package names
apt-get install -y -qq --no-install-recommends $missing >/dev/null
