#!/bin/sh
# lab-soak SECONDS EACH NAME...: stress-ng's stressors one after the other, checking their own results, EACH seconds at a
# time, round and round until SECONDS are over. A line per stressor; "WRONG" where one found a fault.
total=$1 each=$2
shift 2
mkdir -p /tmp/soak /dev/shm /dev/mqueue /dev/pts
mount -t tmpfs tmpfs /tmp/soak
grep -q /dev/shm /proc/mounts || mount -t tmpfs shm /dev/shm
grep -q mqueue /proc/mounts || mount -t mqueue mqueue /dev/mqueue 2>/dev/null
grep -q devpts /proc/mounts || mount -t devpts devpts /dev/pts
ip link set lo up 2>/dev/null
cd /tmp/soak || exit 1
# The procfs stressor reads /proc/kmsg, which waits for the next message, for ever in a kernel that has nothing to say.
while sleep 1; do echo "<7>lab-soak at work" >/dev/kmsg; done &
talker=$!
start=$(cut -d. -f1 /proc/uptime) round=0 wrong=0 passed=0
while :; do
  round=$((round + 1))
  for name in "$@"; do
    now=$(cut -d. -f1 /proc/uptime)
    [ $((now - start)) -ge $total ] && break 2
    out=$(stress-ng --$name 1 --verify --oomable --timeout ${each}s --temp-path /tmp/soak 2>&1)
    status=$?
    case $status in
    0) passed=$((passed + 1)) ; word=passed ;;
    3 | 4) word="not possible here" ;; # stress-ng(1): no resource, not implemented
    *) wrong=$((wrong + 1)) ; word="WRONG, status $status" ;;
    esac
    # Exit status 0 goes with failures that the stressor only reports.
    case $out in *fail:*) [ $status = 0 ] && wrong=$((wrong + 1)) && word="WRONG" ;; esac
    echo "soak $((now - start)) s, round $round, $name: $word"
    case $word in WRONG*) echo "$out" ;; esac
    [ "$word" = "not possible here" ] && [ $round = 1 ] && echo "$out" | grep -v dispatching
    rm -rf /tmp/soak/tmp-*
  done
done
echo "soak over: $passed passed, $wrong wrong, $round rounds, $(($(cut -d. -f1 /proc/uptime) - start)) s"
kill $talker
[ $wrong = 0 ]
