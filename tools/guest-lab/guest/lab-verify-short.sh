#!/bin/sh
# lab-verify-short DEVICE: writes a few MiB around the kernel's cache and through it, and reads them back.
dev=$1 name=${1##*/}
fail() { echo "$dev: $*"; exit 1; }
dd if=/dev/urandom of=/tmp/data.$name bs=1M count=2 2>/dev/null
dd if=/tmp/data.$name of=$dev bs=24576 conv=fsync 2>/dev/null || fail 'write failed'
fio --name=short --filename=$dev --offset=4M --size=2M --rw=randwrite --bs=4k --ioengine=libaio --iodepth=32 --direct=1 \
  --verify=crc32c --verify_fatal=1 --thread --output-format=terse >/tmp/fio.$name 2>&1 || { cat /tmp/fio.$name; fail fio; }
sync
echo 3 >/proc/sys/vm/drop_caches
[ "$(head -c 2097152 $dev | sha256sum)" = "$(sha256sum </tmp/data.$name)" ] || fail 'other data came back'
rm /tmp/*.$name
echo "$dev: kept"
