#!/bin/sh
# tdtrace is there before kvm, sees a guest, and then another after kvm_amd was loaded anew. Leaves
# top.json, pinned, work-before.json and work-after.json in /out.

modules=$(cat /lab/modules)
for module in $modules; do
	set -- "$module" "$@"
done
for module; do
	rmmod "$module" || echo "lab: $module stays"
done
if [ -e /sys/module/kvm ]; then
	echo "lab: kvm is still there"
	exit 1
fi

wait_for() {
	tries=0
	until grep -q "$1" "$2" 2>/dev/null; do
		tries=$((tries + 1))
		if [ "$tries" -gt 300 ]; then
			echo "lab: no $1 in $2"
			exit 1
		fi
		sleep 0.1
	done
}

tdtrace top --batch --json --delay 0.3 --wait-vm tdtrace >/out/top.json 2>/out/top.err &
top=$!
wait_for "waiting for VM" /out/top.err

load() {
	for module in $modules; do
		[ -e "/sys/module/$(echo "$module" | tr - _)" ] || insmod "/modules/$module.ko" || exit 1
	done
	sleep 1
}

load
tdtrace workload --pio 500 --cpuid 100 >/out/work-before.json || exit 1
wait_for '"pio_out":500' /out/top.json
rmmod kvm_amd || exit 1
rmmod kvm 2>/dev/null && echo unloaded >/out/pinned || echo pinned >/out/pinned
load
tdtrace workload --pio 700 --cpuid 100 >/out/work-after.json || exit 1
wait_for '"pio_out":700' /out/top.json
kill -TERM "$top"
wait "$top"
