// What the first bytes of a file say it is. Never used to choose how a disk is opened, for a guest can write any bytes; only
// to stop somebody who hands a container to a guest as if it were the disk.
import { looksLikeQcow2 } from './qcow2/format.ts';

/** A container format by name, and whether `format=` can name it. */
export interface ImageKind {
  readonly name: string;
  readonly known: boolean;
}

const SIGNATURES: readonly (readonly [at: number, text: string, name: string])[] = [
  [0, 'QED\0', 'QED'],
  [0, 'KDMV', 'VMDK'],
  [0, 'COWD', 'VMDK'],
  [0, '# Disk DescriptorFile', 'VMDK'],
  [0, 'vhdxfile', 'VHDX'],
  [0, 'conectix', 'VHD'],
  [64, '\x7f\x10\xda\xbe', 'VDI'],
  [0, 'WithoutFreeSpace', 'Parallels'],
  [0, 'WithouFreSpacExt', 'Parallels'],
];

/** The container whose signature the bytes have, or null. @param first the beginning of a file, at least 68 bytes of it */
export function imageKind(first: Uint8Array): ImageKind | null {
  if (looksLikeQcow2(first)) {
    const version = new DataView(first.buffer, first.byteOffset).getUint32(4);
    return version === 1 ? { name: 'qcow (version 1)', known: false } : { name: 'qcow2', known: true };
  }
  for (const [at, text, name] of SIGNATURES) {
    let same = first.length >= at + text.length;
    for (let i = 0; same && i < text.length; i++) same = first[at + i] === text.charCodeAt(i);
    if (same) return { name, known: false };
  }
  return null;
}
