# For scenarios to source. The kernel's own trace of vCPUs, with tdtrace's clock, beside what else is
# traced: `trace_times` begins it, `keep_times` ends it and leaves format/<event> and trace/<cpu> in /out.

times=/sys/kernel/tracing/instances/times

trace_times() {
	mkdir "$times" /out/trace /out/format || return 1
	echo mono >"$times/trace_clock" || return 1
	echo 8192 >"$times/buffer_size_kb" || return 1
	while read -r event; do
		cat "$times/events/kvm/$event/format" >"/out/format/$event"
		echo 1 >"$times/events/kvm/$event/enable" || return 1
	done </lab/timed
}

keep_times() {
	echo 0 >"$times/tracing_on"
	# Reading an empty buffer waits for events; there will be none.
	for cpu in "$times"/per_cpu/cpu*; do
		dd if="$cpu/trace_pipe_raw" of="/out/trace/${cpu##*/}" bs=4096 2>/dev/null &
		reader=$!
		sleep 0.3
		kill "$reader"
		wait "$reader"
	done
	rmdir "$times"
}
