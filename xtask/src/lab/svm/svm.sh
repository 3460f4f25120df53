#!/bin/sh
# First times the exits of a nested KVM guest twice: the kernel's own trace, with tdtrace's clock, and
# tdtrace. Leaves times.json and what times.sh says in /out.
# Then counts those of others twice: tracefs by a histogram on each event, tdtrace by its programs. Leaves stat.json, <guests>.json, release and hist/<event> in /out.

events=/sys/kernel/tracing/events
if ! [ -c /dev/kvm ]; then
	echo "lab: there is no /dev/kvm"
	exit 1
fi
uname -r >/out/release
mkdir /out/hist

times="sh /lab/times.sh"
$times before || exit 1
tdtrace stat --json -o /out/times.json -- $times after tdtrace workload $(cat /lab/timed_guest) >/dev/null ||
	exit 1
$times keep

while read -r group event keys; do
	echo "hist:keys=$keys:size=4096" >"$events/$group/$event/trigger" || exit 1
done </lab/events

cat >/tmp/guests.sh <<'END'
while read -r name arguments; do
	tdtrace workload $arguments >"/out/$name.json" </dev/null || exit 1
done </lab/guests
END
tdtrace stat --json -o /out/stat.json -- sh /tmp/guests.sh
status=$?

while read -r group event keys; do
	cat "$events/$group/$event/hist" >"/out/hist/$event" || exit 1
done </lab/events
exit $status
