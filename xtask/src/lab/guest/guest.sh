#!/bin/sh
# Runs the steps of /lab/steps, lines of `<name> <traced|counted|alone> <command>`, each within the
# command of /lab/around if there is one; alone is counted and never within it. Beside the module's truth log a kprobe and a kretprobe event on the
# kernel's handler count. Leaves release and for each step a directory in /out with
#   truth, totals, conversions   as the module has them
#   trace                        the kprobe event's lines, for traced steps
#   hist, results                histograms by exit reason and by return value
#   profile                      kprobe_profile: hits and misses since the boot
#   status                       exit code of the command
#   streamed                     how many lines events had, of which there are 100 left, unless traced
#   btf                          what is in /sys/kernel/btf, which /lab/no-btf takes away

tracing=/sys/kernel/tracing
events=$tracing/events/tdlab
lab=/sys/kernel/debug/tdlab
function=tdx_handle_virt_exception

uname -r >/out/release
if [ -f /lab/no-btf ]; then
	mount -t tmpfs btf /sys/kernel/btf || exit 1
fi
insmod /lab/tdlab.ko && insmod /lab/tdlab_drv.ko || exit 1
# struct ve_info in the second argument, struct pt_regs with ip in the first.
fields='reason=+0(%si):u64 qual=+8(%si):x64 gla=+16(%si):x64 gpa=+24(%si):x64 len=+32(%si):u32'
echo "p:tdlab/ve $function $fields ip=+128(%di):x64" >$tracing/kprobe_events &&
	echo "r:tdlab/result $function handled=\$retval:u8" >>$tracing/kprobe_events || exit 1
echo 'hist:keys=reason' >$events/ve/trigger && echo 'hist:keys=handled' >$events/result/trigger || exit 1
echo 8192 >$tracing/buffer_size_kb

around=
[ -f /lab/around ] && read -r around </lab/around

while read -r name traced command; do
	out=/out/$name
	mkdir "$out"
	[ -f /lab/no-btf ] && ls -A /sys/kernel/btf >"$out/btf"
	echo 1 >$lab/clear
	# Opened to be replaced, the file would lose its trigger before.
	echo 'hist:keys=reason:clear' >>$events/ve/trigger
	echo 'hist:keys=handled:clear' >>$events/result/trigger
	echo >$tracing/trace
	# An oops turns it off.
	echo 1 >$tracing/tracing_on
	[ "$traced" = traced ] && echo 1 >$events/ve/enable
	if [ -n "$around" ] && [ "$traced" != alone ]; then
		OUT=$out STEP=$name sh -c "$around \"\$@\"" around sh -c "$command" </dev/null
	else
		OUT=$out STEP=$name sh -c "$command" </dev/null
	fi
	echo $? >"$out/status"
	echo 0 >$events/ve/enable
	cat $lab/totals >"$out/totals"
	# Of a storm the first lines are enough.
	if [ "$traced" = traced ]; then cat $lab/truth; else head -n 100 $lab/truth; fi >"$out/truth"
	if [ "$traced" != traced ] && [ -f "$out/events" ]; then
		wc -l <"$out/events" >"$out/streamed"
		head -n 100 "$out/events" >/tmp/events && mv /tmp/events "$out/events"
	fi
	cat $lab/conversions >"$out/conversions"
	cat $events/ve/hist >"$out/hist"
	cat $events/result/hist >"$out/results"
	cat $tracing/kprobe_profile >"$out/profile"
	if [ "$traced" = traced ]; then
		cat $tracing/trace >"$out/trace"
	fi
done </lab/steps
exit 0
