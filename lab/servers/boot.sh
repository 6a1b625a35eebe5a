#!/bin/sh
# Is the power of one server: boot.sh FOLDER, with what it must know of the server in FOLDER/settings.
#
# It runs the server again when the server reboots, and ends when it powers off or is killed. Everything is mounted in
# the server's own mount namespace, and its network namespace is made at every start, so that nothing outlives the
# power: no mount, no packet filter rule, no connection.
set -u
dir=$1 step=${2:-power}
self=$0
# shellcheck source=/dev/null
. "$dir/settings" # name router namespace address gateway mac group base
disk=$dir/disk.img seed=$dir/seed.tar mount=$dir/mount

power() {
	while :; do
		boot
		ended=$?
		unplug
		[ $ended = 129 ] || break # the kernel's way to say that a namespace wants to reboot
		echo "$name reboots"
	done
	echo "$name is off: $ended"
}

boot() {
	# A disk that the last run still holds would be mounted twice: wait until the kernel has let go of it.
	n=0
	while [ -n "$(losetup -n -O NAME -j "$disk")" ]; do
		n=$((n + 1))
		[ $n -lt 200 ] || { echo "the disk $disk is still in use"; return 1; }
		sleep 0.05
	done
	unplug
	plug || return 1
	nsenter --net="/run/netns/$namespace" unshare --mount --uts --ipc --pid --fork --kill-child --propagation private \
		sh -eu "$self" "$dir" first </dev/null
}

# plug gives the server its network: an end of a cable to its site's router. The file unplugged says that the other end
# lies beside the router.
plug() {
	ip netns add "$namespace" &&
		ip link add eth0 address "$mac" netns "$namespace" type veth peer name "$name" netns "$router" &&
		ip -n "$router" link set "$name" master lan &&
		ip -n "$namespace" -batch - <<-END || return 1
			link set lo up
			addr add $address dev eth0
			link set eth0 up
			route add default via $gateway
		END
	ip netns exec "$namespace" sysctl -qw net.ipv4.ip_forward=0 # Docker decides, as on a server of its own
	[ -e "$dir/unplugged" ] || ip -n "$router" link set "$name" up
}

unplug() {
	ip -n "$router" link del "$name" 2>/dev/null
	ip netns del "$namespace" 2>/dev/null
}

# first is the first process in the new namespaces. It joins the server's own groups before it hides the rest of them;
# the process that waits for it stays outside, for a group with processes of its own cannot have groups below it.
first() {
	for members in /sys/fs/cgroup/*/"$group"/cgroup.procs /sys/fs/cgroup/"$group"/cgroup.procs; do
		[ ! -e "$members" ] || echo $$ >"$members"
	done
	exec unshare --cgroup sh -eu "$self" "$dir" second
}

second() {
	hostname "$name"
	controllers=$(cd /sys/fs/cgroup && for c in *; do [ -L "$c" ] || ! mountpoint -q "$c" || echo "$c"; done)
	second_names=$(cd /sys/fs/cgroup && for c in *; do [ ! -L "$c" ] || echo "$c=$(readlink "$c")"; done)
	mount -o loop,discard,noatime "$disk" "$mount"
	mkdir -p "$mount/up" "$mount/work" "$mount/root" "$mount/docker" "$mount/containerd"
	# index and nfs_export give files the lasting identities that file watching by fanotify needs.
	mount -t overlay overlay -o "lowerdir=$base,upperdir=$mount/up,workdir=$mount/work,index=on,nfs_export=on" "$mount/root"
	cd "$mount/root"
	if [ -e "$seed" ]; then
		tar -xf "$seed" -C .
		rm "$seed"
	fi
	devices
	mkdir -p var/lib/docker var/lib/containerd
	mount --bind "$mount/docker" var/lib/docker
	mount --bind "$mount/containerd" var/lib/containerd
	mount -t tmpfs -o mode=755 tmpfs run
	mkdir run/lock
	groups
	mkdir -p .old
	pivot_root . .old
	umount -l /.old
	rmdir /.old
	exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init </dev/null
}

devices() {
	mount -t proc proc proc
	mount -t sysfs sysfs sys
	mount -t tmpfs -o mode=755 tmpfs dev
	for device in null zero full random urandom tty fuse; do
		[ -e /dev/$device ] || continue
		touch dev/$device
		mount --bind /dev/$device dev/$device
	done
	mkdir dev/pts dev/shm
	mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
	mount -t tmpfs tmpfs dev/shm
	ln -s pts/ptmx dev/ptmx
	ln -s /proc/self/fd dev/fd
	ln -s fd/0 dev/stdin
	ln -s fd/1 dev/stdout
	ln -s fd/2 dev/stderr
}

# groups shows the server its own control groups, in the machine's way: version 2 alone, or version 1 beside it.
groups() {
	if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
		mount -t cgroup2 cgroup2 sys/fs/cgroup
		return
	fi
	mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
	for controller in $controllers; do
		mkdir "sys/fs/cgroup/$controller"
		case $controller in
		unified) mount -t cgroup2 cgroup2 sys/fs/cgroup/unified ;;
		systemd) mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd ;;
		*) mount -t cgroup -o "$controller" cgroup "sys/fs/cgroup/$controller" ;;
		esac
	done
	for names in $second_names; do ln -s "${names#*=}" "sys/fs/cgroup/${names%%=*}"; done
}

$step
