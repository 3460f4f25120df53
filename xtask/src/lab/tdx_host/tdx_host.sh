#!/bin/sh
# Lets KVM run TDs, asks tdtrace's doctor, and counts while the VMM of /lab/steps runs and the kernel's own
# trace takes the times. Leaves doctor, stat.json, layout, exits, seamcalls, dropped, poisoned, vmm, kvm_exit,
# release and what times.sh says in /out; perf, if it is there.

host=/sys/kernel/debug/tdhost
exit_event=/sys/kernel/tracing/events/kvm/kvm_exit
uname -r >/out/release
if ! echo start >$host/control; then
	echo "lab: KVM does not run TDs"
	exit 1
fi
tdtrace doctor >/out/doctor || exit 1
cat $host/layout >/out/layout
echo 'hist:keys=exit_reason' >>$exit_event/trigger || exit 1
times="sh /lab/times.sh"
$times before || exit 1
record=
if [ -e /bin/perf ]; then
	perf version
	record="perf kvm stat record -a -o /tmp/perf.data"
fi
$record tdtrace stat --json --hotspots 1000 -o /out/stat.json -- $times after vmm /lab/steps /out/vmm
status=$?
$times keep
cat $exit_event/hist >/out/kvm_exit
for file in exits seamcalls dropped poisoned; do
	cat $host/$file >/out/$file
done
if [ -n "$record" ]; then
	{
		perf version
		PAGER=cat perf kvm -i /tmp/perf.data stat report --event vmexit
	} >/out/perf 2>&1
fi
exit $status
