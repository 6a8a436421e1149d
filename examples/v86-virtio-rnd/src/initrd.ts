// An initial RAM file system in cpio's "newc" form: busybox, modules and a script.
import type { GuestFiles } from './guest-files.ts';

const DIRECTORY = 0o040755;
const EXECUTABLE = 0o100755;
const text = new TextEncoder();

/** The archive, whose /init mounts the usual, loads the modules, runs `script` in busybox's shell and powers off. */
export function initrd(files: GuestFiles, script: string): Uint8Array {
  const out: Uint8Array[] = [];
  let inode = 1;
  const pad = (n: number): Uint8Array => new Uint8Array((4 - (n % 4)) % 4);
  const add = (name: string, mode: number, data: Uint8Array): void => {
    const fields = [inode++, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length + 1, 0];
    const head = text.encode(`070701${fields.map((n) => n.toString(16).padStart(8, '0')).join('')}${name}\0`);
    out.push(head, pad(head.length), data, pad(data.length));
  };
  const none = new Uint8Array(0);
  for (const d of ['bin', 'dev', 'm', 'proc', 'sys', 'tmp']) add(d, DIRECTORY, none);
  add('bin/busybox', EXECUTABLE, files.busybox);
  for (const m of files.modules) add(`m/${m.name}.ko`, EXECUTABLE, m.bytes);
  const init = [
    '#!/bin/busybox sh',
    '/bin/busybox --install -s /bin',
    'export PATH=/bin',
    'mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev',
    ...files.modules.map((m) => `insmod /m/${m.name}.ko || echo FAILED ${m.name}`),
    script,
    'echo GUEST-DONE',
    'poweroff -f',
    '',
  ].join('\n');
  add('init', EXECUTABLE, text.encode(init));
  add('TRAILER!!!', 0, none);
  const bytes = new Uint8Array(out.reduce((n, b) => n + b.length, 0));
  let at = 0;
  for (const b of out) {
    bytes.set(b, at);
    at += b.length;
  }
  return bytes;
}
