#!/bin/sh
# Makes the root file system that every server of the lab starts from: base.sh TARGET SUITE MIRROR COMPONENTS
# Its own text is part of the recipe that the cache is named by: change a line, and the next `up` makes a new base.
set -eu
target=$1 suite=$2 mirror=$3 components=$4

eval "$(apt-config shell proxy Acquire::http::Proxy)"
[ -z "${proxy:-}" ] || export http_proxy="$proxy"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# Docker comes in the second step, by apt: debootstrap does not resolve alternatives.
debootstrap --variant=minbase --components="$components" \
	--include=systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,iproute2,nftables,iptables,iputils-ping,sudo,python3-minimal,ca-certificates,curl,procps,rsync,gnupg,zstd,less \
	"$suite" "$target" "$mirror"

printf '#!/bin/sh\nexit 101\n' >"$target/usr/sbin/policy-rc.d" # no daemon starts in the chroot
chmod +x "$target/usr/sbin/policy-rc.d"
# Where the Docker command line and compose are packages of their own, they are wanted too.
extra=""
for package in docker-cli docker-compose docker-compose-v2 docker-buildx; do
	if chroot "$target" apt-cache show --no-all-versions "$package" >/dev/null 2>&1; then extra="$extra $package"; fi
done
# shellcheck disable=SC2086 # a list of package names
chroot "$target" apt-get install -y -qq --no-install-recommends docker.io $extra knot knot-dnsutils
rm "$target/usr/sbin/policy-rc.d"

# What a server without modules, without a way to the internet and with an address given from outside does not need.
chroot "$target" systemctl mask systemd-modules-load.service systemd-networkd.service systemd-networkd-wait-online.service
chroot "$target" systemctl disable knot.service docker.service docker.socket containerd.service
# Housekeeping that has never run is caught up with at every first boot, on all servers at once.
for timer in "$target"/etc/systemd/system/timers.target.wants/*.timer; do
	[ ! -L "$timer" ] || chroot "$target" systemctl disable "${timer##*/}"
done
chroot "$target" apt-get clean
rm -rf "$target"/var/lib/apt/lists/* "$target"/etc/ssh/ssh_host_*
: >"$target/etc/machine-id"
mkdir -p "$target/etc/docker"
# The default pools end at about thirty networks; a stack has one of its own.
cat >"$target/etc/docker/daemon.json" <<'JSON'
{"bip": "172.17.0.1/24", "default-address-pools": [{"base": "172.20.0.0/14", "size": 26}], "log-opts": {"max-size": "5m"}}
JSON
