#!/bin/sh
# lab-tree DEVICE FILES: a file system with a tree of that many small files, a hundred in a directory; renames, removals
# and links among them, so that the journal and the directory indexes have something to do.
dev=$1 files=$2
modprobe -qab ext4
/sbin/mkfs.ext4 -q -F -N $((files + files / 8)) $dev || exit 1
mkdir -p /mnt/tree
mount -t ext4 $dev /mnt/tree || exit 1
cd /mnt/tree || exit 1
awk -v files=$files 'BEGIN {
  for (i = 0; i < files; i++) {
    if (i % 100 == 0) { d = sprintf("d%02d/e%03d", i / 10000, i / 100); system("mkdir -p " d) }
    f = d "/file" i
    print "the file number " i " of " files > f
    for (k = i % 50; k > 0; k--) print "line " k " of file " i " which makes it longer" > f
    close(f)
  }
}' || exit 1
mv d00 moved
rm -r d01/e10*
for n in 1 2 3 4 5; do ln moved/e00$n/file${n}00 hard$n; ln -s moved/e00$n soft$n; done
sync
echo "files: $(find . -type f | wc -l)"
find . -type f | sort | xargs cat | sha256sum | cut -c1-64
cd /
umount /mnt/tree
