#!/bin/sh
# Takes some #VEs, sends what the module says of them over the second serial port in the format of
# init.sh, and then one on private memory: the kernel panics. What runs around it is told by /lab/around
# as in guest.sh, and has 3 s to leave in /out what is to be sent as well.

lab=/sys/kernel/debug/tdlab
exec 3<>/dev/ttyS1

send() {
	printf 'file %s %s\n' "$(stat -c %s "$1")" "$2" >&3
	cat "$1" >&3
}

body() {
	echo shapes 1 >$lab/run || exit 1
	# Time for what runs around it to flush.
	sleep "${FLUSH:-0}"
	cat $lab/truth >/tmp/truth
	send /tmp/truth truth
	for file in /out/*; do
		[ -f "$file" ] && send "$file" "${file#/out/}"
	done
	# Until the port has sent all.
	sleep 1
	echo private >$lab/run
}

if [ "$1" = body ]; then
	body
	exit 1
fi
insmod /lab/tdlab.ko || exit 1
around=
[ -f /lab/around ] && read -r around </lab/around
if [ -n "$around" ]; then
	OUT=/out STEP=private FLUSH=3 sh -c "$around \"\$@\"" around sh /lab/scenario.sh body </dev/null
else
	body
fi
exit 1
