#!/bin/sh
# First times the exits of a nested KVM guest twice: the kernel's own trace, with tdtrace's clock, and
# tdtrace. Leaves times.json, format/<event> and trace/<cpu> in /out.
# Then counts those of others twice: tracefs by a histogram on each event, tdtrace by its programs. Leaves stat.json, <guests>.json, release and hist/<event> in /out.

events=/sys/kernel/tracing/events
if ! [ -c /dev/kvm ]; then
	echo "lab: there is no /dev/kvm"
	exit 1
fi
uname -r >/out/release
mkdir /out/hist /out/trace /out/format

instance=/sys/kernel/tracing/instances/times
mkdir "$instance"
echo mono >"$instance/trace_clock" || exit 1
echo 8192 >"$instance/buffer_size_kb" || exit 1
while read -r event; do
	cat "$instance/events/kvm/$event/format" >"/out/format/$event"
	echo 1 >"$instance/events/kvm/$event/enable" || exit 1
done </lab/timed
tdtrace stat --json -o /out/times.json -- tdtrace workload $(cat /lab/timed_guest) >/dev/null || exit 1
echo 0 >"$instance/tracing_on"
# Reading an empty buffer waits for events; there will be none.
for cpu in "$instance"/per_cpu/cpu*; do
	dd if="$cpu/trace_pipe_raw" of="/out/trace/${cpu##*/}" bs=4096 2>/dev/null &
	reader=$!
	sleep 0.3
	kill "$reader"
	wait "$reader"
done
rmdir "$instance"

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
