#!/bin/sh
# The kernel's own trace of vCPUs, with tdtrace's clock, on both sides of tdtrace: probes of a tracepoint
# run in the order in which they were attached.
#
# times.sh before            traces from here on; tdtrace must not be attached yet
# times.sh after <command>   traces once more, tdtrace being attached, and becomes the command
# times.sh keep              ends both; format/<event>, before/<cpu> and after/<cpu> are in /out then

instances=/sys/kernel/tracing/instances

trace() {
	instance=$instances/$1
	mkdir "$instance" "/out/$1" || exit 1
	echo mono >"$instance/trace_clock" || exit 1
	echo 8192 >"$instance/buffer_size_kb" || exit 1
	while read -r event; do
		echo 1 >"$instance/events/kvm/$event/enable" || exit 1
	done </lab/timed
}

keep() {
	instance=$instances/$1
	# Reading an empty buffer waits for events; there will be none.
	for cpu in "$instance"/per_cpu/cpu*; do
		dd if="$cpu/trace_pipe_raw" of="/out/$1/${cpu##*/}" bs=4096 2>/dev/null &
		reader=$!
		sleep 0.3
		kill "$reader"
		wait "$reader"
	done
	rmdir "$instance"
}

case $1 in
before)
	mkdir /out/format
	while read -r event; do
		cat "/sys/kernel/tracing/events/kvm/$event/format" >"/out/format/$event"
	done </lab/timed
	trace before
	;;
after)
	shift
	trace after
	exec "$@"
	;;
keep)
	for side in before after; do
		echo 0 >"$instances/$side/tracing_on"
	done
	keep before
	keep after
	;;
esac
