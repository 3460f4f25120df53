#!/bin/sh
# Counts the exits of nested KVM guests twice: tracefs by a histogram on each event, tdtrace by its
# programs. Leaves stat.json, work.json, release and hist/<event> in /out.

events=/sys/kernel/tracing/events
if ! [ -c /dev/kvm ]; then
	echo "lab: there is no /dev/kvm"
	exit 1
fi
uname -r >/out/release
mkdir /out/hist

while read -r group event keys; do
	echo "hist:keys=$keys:size=4096" >"$events/$group/$event/trigger" || exit 1
done </lab/events

tdtrace stat --json -o /out/stat.json -- tdtrace workload $(cat /lab/workload) >/out/work.json
status=$?

while read -r group event keys; do
	cat "$events/$group/$event/hist" >"/out/hist/$event" || exit 1
done </lab/events
exit $status
