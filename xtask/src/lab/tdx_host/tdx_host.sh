#!/bin/sh
# Lets KVM run TDs, asks tdtrace's doctor, and counts while the VMM of /lab/steps runs. Leaves doctor,
# stat.json, layout, exits, seamcalls, dropped and release in /out.

host=/sys/kernel/debug/tdhost
uname -r >/out/release
if ! echo start >$host/control; then
	echo "lab: KVM does not run TDs"
	exit 1
fi
tdtrace doctor >/out/doctor || exit 1
cat $host/layout >/out/layout
tdtrace stat --json --hotspots 1000 -o /out/stat.json -- vmm /lab/steps
status=$?
for file in exits seamcalls dropped; do
	cat $host/$file >/out/$file
done
exit $status
