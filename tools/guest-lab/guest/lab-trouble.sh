#!/bin/sh
# lab-trouble: kernel messages about trouble with disks, interrupts or the kernel itself.
dmesg | grep -E 'error|exception Emask|timed out|nobody cared|blocked for|BUG:|WARNING:|resetting|failed command'
exit 0
