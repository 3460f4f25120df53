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

# The links that tdtrace holds: others after it has attached anew.
links() {
	cat /proc/"$top"/fdinfo/* 2>/dev/null | grep -A3 raw_tracepoint | grep link_id | sort
}

load() {
	before=$(links)
	for module in $modules; do
		[ -e "/sys/module/$(echo "$module" | tr - _)" ] || insmod "/modules/$module.ko" || exit 1
	done
	# It attaches to kvm at once and anew when kvm_amd has come: that is over when nothing changes.
	still=0
	tries=0
	last=
	until [ "$still" -ge 12 ]; do
		now=$(links)
		if [ "$now" != "$before" ] && [ "$now" = "$last" ] && [ "$(echo "$now" | wc -l)" -ge 18 ]; then
			still=$((still + 1))
		else
			still=0
		fi
		last=$now
		tries=$((tries + 1))
		if [ "$tries" -gt 150 ]; then
			echo "lab: tdtrace has not attached: $now"
			exit 1
		fi
		sleep 0.4
	done
	# What VMs are counted in comes after the links.
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
sleep 2
kill -TERM "$top"
wait "$top"
