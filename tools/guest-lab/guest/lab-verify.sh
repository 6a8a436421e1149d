#!/bin/sh
# lab-verify DEVICE MIB: writes, flushes, drops caches, reads back and compares, by every path that the device offers;
# discards and zeroes; a file system at the end. The last line is "DEVICE: verified" or says what failed.
dev=$1 mib=${2:-16} name=${1##*/}
q=/sys/block/$name/queue
fail() { echo "$dev: FAILED: $*"; exit 1; }
fresh() { sync; echo 3 >/proc/sys/vm/drop_caches; }
sum() { dd if=$dev bs=1M skip=$1 count=$2 2>/dev/null | sha256sum | cut -c1-64; }
job() {
  what=$1; shift
  fio --name=$what --filename=$dev --size=${mib}M --verify=crc32c --verify_fatal=1 --thread --randseed=7 \
    --output-format=terse "$@" >/tmp/fio.$name 2>&1 || { cat /tmp/fio.$name; fail "fio $what"; }
}
zeroes() { [ -z "$(dd if=$dev bs=1M skip=$1 count=$2 2>/dev/null | tr -d '\000' | head -c 1)" ] || fail "$3 left data"; }

# Plain writes through the cache, in sizes that fit nothing.
dd if=/dev/urandom of=/tmp/data.$name bs=1M count=4 2>/dev/null
data=$(sha256sum </tmp/data.$name | cut -c1-64)
dd if=/tmp/data.$name of=$dev bs=24576 seek=512 conv=fsync 2>/dev/null || fail write
fresh
[ "$(dd if=$dev bs=1M skip=12 count=4 2>/dev/null | sha256sum | cut -c1-64)" = $data ] || fail 'what was written is not what is read'
rm /tmp/data.$name

job random --rw=randwrite --bs=4k --ioengine=libaio --iodepth=32 --direct=1 --fsync=64
fresh
job sizes --rw=write --bsrange=512-256k --bs_unaligned=0 --ioengine=libaio --iodepth=16 --direct=1
if [ $(cat $q/logical_block_size) = 512 ]; then job sectors --rw=randwrite --bs=512 --ioengine=libaio --iodepth=32 --direct=1 --size=1M; fi
job cached --rw=write --bs=64k --ioengine=psync --end_fsync=1 --invalidate=1
job many --rw=randwrite --bs=16k --ioengine=libaio --iodepth=8 --direct=1 --numjobs=2 --offset_increment=${mib}M

if [ "$(cat $q/write_zeroes_max_bytes)" != 0 ]; then how=offered; else how=emulated; fi
before=$(sum 0 2)
/sbin/blkdiscard -z -o 2M -l 2M $dev || fail 'blkdiscard -z'
fresh
zeroes 2 2 'write zeroes'
[ "$(sum 0 2)" = $before ] || fail 'write zeroes touched its neighbour'
echo "$dev: write zeroes $how"
if [ "$(cat $q/discard_max_bytes)" != 0 ]; then
  after=$(sum 8 2)
  /sbin/blkdiscard -o 4M -l 4M $dev || fail blkdiscard
  fresh
  zeroes 4 4 discard
  [ "$(sum 8 2)" = $after ] || fail 'discard touched its neighbour'
  echo "$dev: discard offered"
else echo "$dev: discard not offered"; fi

/sbin/mkfs.ext4 -q -F $dev >/tmp/check.$name 2>&1 || fail mkfs
mkdir -p /mnt/$name
modprobe -qab ext4
mount -t ext4 $dev /mnt/$name || fail mount
cp -r /usr/share/misc /usr/sbin /sbin /mnt/$name/ || fail copy
(cd / && for f in sbin/* usr/sbin/*; do [ -f $f ] && [ ! -L $f ] && sha256sum $f; done) | sed 's# usr/# #' >/tmp/sums.$name
sync
if [ "$(cat $q/discard_max_bytes)" != 0 ]; then /sbin/fstrim -v /mnt/$name || fail fstrim; fi
umount /mnt/$name && mount -t ext4 $dev /mnt/$name || fail 'second mount'
echo 3 >/proc/sys/vm/drop_caches
(cd /mnt/$name && sha256sum -c /tmp/sums.$name) >/tmp/check.$name 2>&1 || { grep -v OK /tmp/check.$name; fail 'files changed'; }
umount /mnt/$name
e2fsck -fn $dev >/tmp/check.$name 2>&1 || { cat /tmp/check.$name; fail e2fsck; }
fresh
rm -f /tmp/*.$name
echo "$dev: sum $(dd if=$dev bs=1M 2>/dev/null | sha256sum | cut -c1-64)"
echo "$dev: verified"
