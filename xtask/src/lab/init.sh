#!/bin/sh
# Process 1 of the lab VM: loads the modules of /lab/modules, runs /lab/scenario.sh for at most
# /lab/limit seconds with its output on the console, sends what it left in /out over the second
# serial port (the format is in vm.rs) and powers off.

export PATH=/bin HOME=/tmp NO_COLOR=1
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmp /tmp

# Open until the end: the port keeps its raw mode, and closing it waits until all is sent.
exec 3<>/dev/ttyS1
stty raw -echo <&3

mark() {
	read -r uptime _ </proc/uptime
	printf 'mark %s %s\n' "$1" "$uptime" >&3
}

mark init
while read -r module; do
	insmod "/modules/$module.ko" || echo "lab: module $module does not load"
done </lab/modules
mark scenario
read -r limit </lab/limit
timeout -s KILL "$limit" sh /lab/scenario.sh 3>&-
status=$?
mark end
if [ "$status" = 137 ]; then
	echo "lab: the scenario was killed after $limit s; still there:"
	for task in /proc/[0-9]*/task/*; do
		# Kernel threads have no memory of their own.
		grep -q VmSize "$task/status" && grep -E '^(Name|Pid|State)' "$task/status" && cat "$task/stack"
	done
fi

cd /out
find . -type f | while read -r path; do
	printf 'file %s %s\n' "$(stat -c %s "$path")" "${path#./}" >&3
	cat "$path" >&3
done
printf 'done %s\n' "$status" >&3
exec 3>&-
poweroff -f
