// Writes ext4 file systems: a tree of files becomes an image that Linux mounts and e2fsck finds clean, without root and
// without e2fsprogs. Layout after the kernel's Documentation/filesystems/ext4: 4 KiB blocks, extents, one flexible group
// that holds every bitmap and inode table at the start of the disk, a journal, no checksums of metadata.
import { runError } from '../errors.ts';

/** Something in the tree. */
export interface FsNode {
  /** Path without a leading or trailing slash or `./`; parents that are missing are root's directories with mode 0755. */
  readonly path: string;
  /** What it is. */
  readonly type: 'file' | 'directory' | 'symlink' | 'hardlink';
  /** Permission bits with set-uid, set-gid and sticky. */
  readonly mode: number;
  /** Owner. */
  readonly uid: number;
  /** Group. */
  readonly gid: number;
  /** Seconds since 1970. */
  readonly mtime: number;
  /** Content; empty unless a file. */
  readonly data: Uint8Array;
  /** Where a link points: a symbolic one as it stands, a hard one as a path in the tree. */
  readonly link: string;
}

/** Where an image goes: blocks that are never written are zeros. */
export type BlockWriter = (offset: number, data: Uint8Array) => Promise<void>;

/** Options of {@link writeExt4}. */
export interface Ext4Options {
  /** Bytes, a multiple of 128 MiB. */
  readonly size: number;
  /** Volume label, at most 16 characters. */
  readonly label: string;
  /** 16 bytes. */
  readonly uuid: Uint8Array;
  /** Bytes of journal; default 32 MiB. */
  readonly journal?: number;
  /** Where it goes. */
  readonly write: BlockWriter;
}

const BLOCK = 4096;
const BLOCKS_PER_GROUP = 32768;
const INODE_SIZE = 256;
const INODES_PER_GROUP = 8192;
const FIRST_INODE = 11;
const ROOT_INODE = 2;
const JOURNAL_INODE = 8;
const DESCRIPTOR = 32;
/** Longest run of blocks that one extent can name. */
const MAX_EXTENT = 32768;
const LOST_FOUND_BLOCKS = 4;

const COMPAT_HAS_JOURNAL = 0x4;
const COMPAT_EXT_ATTR = 0x8;
const INCOMPAT_FILETYPE = 0x2;
const INCOMPAT_EXTENTS = 0x40;
const INCOMPAT_FLEX_BG = 0x200;
const RO_SPARSE_SUPER = 0x1;
const RO_LARGE_FILE = 0x2;
const RO_DIR_NLINK = 0x20;
const RO_EXTRA_ISIZE = 0x40;

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const FLAG_EXTENTS = 0x80000;
const FT_FILE = 1;
const FT_DIR = 2;
const FT_SYMLINK = 7;

interface Inode {
  readonly number: number;
  readonly kind: 'file' | 'directory' | 'symlink';
  mode: number;
  uid: number;
  gid: number;
  mtime: number;
  links: number;
  data: Uint8Array;
  readonly entries: Map<string, Inode>;
  parent: Inode | null;
}

type Extent = readonly [first: number, count: number];

const encoder = new TextEncoder();

/** Groups that carry a copy of the superblock: 0, 1 and powers of 3, 5 and 7. */
function hasCopy(group: number): boolean {
  if (group <= 1) return true;
  for (const base of [3, 5, 7]) {
    let n = base;
    while (n < group) n *= base;
    if (n === group) return true;
  }
  return false;
}

/**
 * Writes a file system.
 * @returns bytes in use, file system structures included
 * @throws CLI_RUN when the tree does not fit or contradicts itself
 */
export async function writeExt4(nodes: Iterable<FsNode>, o: Ext4Options): Promise<number> {
  const groups = o.size / BLOCK / BLOCKS_PER_GROUP;
  // One block of descriptors names 128 groups.
  if (!Number.isInteger(groups) || groups < 1 || groups > 128)
    throw runError(`ext4: a size of ${o.size} bytes; 1 to 128 times 128 MiB expected`);
  if (o.uuid.length !== 16) throw runError(`ext4: a UUID of ${o.uuid.length} bytes`);
  const inodes = plant(nodes, groups * INODES_PER_GROUP);
  const totalBlocks = groups * BLOCKS_PER_GROUP;
  const used = new Uint8Array(totalBlocks / 8);
  const take = (first: number, count: number): void => {
    for (let b = first; b < first + count; b++) used[b >> 3] = (used[b >> 3] as number) | (1 << (b & 7));
  };
  const isUsed = (b: number): boolean => ((used[b >> 3] as number) & (1 << (b & 7))) !== 0;

  // Superblock and descriptors with their copies, then bitmaps and inode tables of all groups in one row.
  for (let g = 0; g < groups; g++) if (hasCopy(g)) take(g * BLOCKS_PER_GROUP, 2);
  const tableBlocks = (INODES_PER_GROUP * INODE_SIZE) / BLOCK;
  let next = 2;
  const row = (count: number): number => {
    while (isUsed(next) || !free(next, count)) next++;
    const at = next;
    take(at, count);
    next += count;
    return at;
  };
  const free = (first: number, count: number): boolean => {
    for (let b = first; b < first + count; b++) if (b >= totalBlocks || isUsed(b)) return false;
    return true;
  };
  const blockBitmaps = Array.from({ length: groups }, () => row(1));
  const inodeBitmaps = Array.from({ length: groups }, () => row(1));
  const tables = Array.from({ length: groups }, () => row(tableBlocks));

  const allocate = (count: number): Extent[] => {
    const out: [number, number][] = [];
    for (let left = count; left > 0; next++) {
      if (next >= totalBlocks) throw runError(`ext4: the tree does not fit into ${o.size} bytes`);
      if (isUsed(next)) continue;
      take(next, 1);
      left--;
      const last = out.at(-1);
      if (last !== undefined && last[0] + last[1] === next && last[1] < MAX_EXTENT) last[1]++;
      else out.push([next, 1]);
    }
    return out;
  };
  const put = async (extents: readonly Extent[], data: Uint8Array): Promise<void> => {
    let at = 0;
    for (const [first, count] of extents) {
      const part = data.subarray(at, at + count * BLOCK);
      if (part.length > 0) await o.write(first * BLOCK, whole(part));
      at += count * BLOCK;
    }
  };

  const tableBytes = new Uint8Array(groups * INODES_PER_GROUP * INODE_SIZE);
  const inodeView = new DataView(tableBytes.buffer);
  const describe = (i: Inode, size: number, extents: readonly Extent[] | null): void => {
    const type = i.kind === 'directory' ? S_IFDIR : i.kind === 'symlink' ? S_IFLNK : S_IFREG;
    const at = (i.number - 1) * INODE_SIZE;
    const v = inodeView;
    const blocks = (extents ?? []).reduce((sum, [, n]) => sum + n, 0);
    v.setUint16(at, type | i.mode, true);
    v.setUint16(at + 2, i.uid & 0xffff, true);
    v.setUint32(at + 4, size, true);
    for (const time of [8, 12, 16, 0x90]) v.setUint32(at + time, i.mtime, true);
    v.setUint16(at + 0x18, i.gid & 0xffff, true);
    v.setUint16(at + 0x1a, i.links, true);
    v.setUint32(at + 0x1c, (blocks * BLOCK) / 512, true);
    v.setUint16(at + 0x78, i.uid >>> 16, true);
    v.setUint16(at + 0x7a, i.gid >>> 16, true);
    v.setUint16(at + 0x80, 32, true);
    if (extents === null) {
      tableBytes.set(i.data, at + 0x28); // a short symbolic link lies in the inode itself
      return;
    }
    if (extents.length > 4) throw runError('ext4: a file in more than four pieces');
    v.setUint32(at + 0x20, FLAG_EXTENTS, true);
    v.setUint16(at + 0x28, 0xf30a, true);
    v.setUint16(at + 0x2a, extents.length, true);
    v.setUint16(at + 0x2c, 4, true);
    let logical = 0;
    for (const [n, [first, count]] of extents.entries()) {
      const e = at + 0x34 + n * 12;
      v.setUint32(e, logical, true);
      v.setUint16(e + 4, count, true);
      v.setUint32(e + 8, first, true);
      logical += count;
    }
  };

  const journalBlocks = Math.floor((o.journal ?? 32 * 2 ** 20) / BLOCK);
  const journal = inodes.journal;
  const journalExtents = allocate(journalBlocks);
  describe(journal, journalBlocks * BLOCK, journalExtents);
  await o.write((journalExtents[0] as Extent)[0] * BLOCK, journalSuperblock(journalBlocks, o.uuid));

  const directories = new Array<number>(groups).fill(0);
  for (const i of inodes.all) {
    if (i.kind === 'symlink' && i.data.length < 60) {
      describe(i, i.data.length, null);
      continue;
    }
    const data = i.kind === 'directory' ? directoryBlocks(i, i === inodes.lostFound) : i.data;
    const extents = allocate(Math.ceil(data.length / BLOCK));
    describe(i, data.length, extents);
    await put(extents, data);
    if (i.kind === 'directory') {
      const g = Math.floor((i.number - 1) / INODES_PER_GROUP);
      directories[g] = (directories[g] as number) + 1;
    }
  }

  // Bitmaps, tables, descriptors, superblocks.
  const descriptors = new Uint8Array(BLOCK);
  const d = new DataView(descriptors.buffer);
  let freeBlocks = 0;
  const lastInode = inodes.last;
  for (let g = 0; g < groups; g++) {
    const bitmap = used.slice((g * BLOCKS_PER_GROUP) / 8, ((g + 1) * BLOCKS_PER_GROUP) / 8);
    let freeHere = 0;
    for (const byte of bitmap) for (let b = 0; b < 8; b++) if ((byte & (1 << b)) === 0) freeHere++;
    freeBlocks += freeHere;
    const inodeBitmap = new Uint8Array(BLOCK).fill(0xff);
    const here = Math.min(Math.max(lastInode - g * INODES_PER_GROUP, 0), INODES_PER_GROUP);
    for (let n = here; n < INODES_PER_GROUP; n++)
      inodeBitmap[n >> 3] = (inodeBitmap[n >> 3] as number) & ~(1 << (n & 7));
    await o.write((blockBitmaps[g] as number) * BLOCK, bitmap);
    await o.write((inodeBitmaps[g] as number) * BLOCK, inodeBitmap);
    const from = g * INODES_PER_GROUP * INODE_SIZE;
    if (here > 0)
      await o.write((tables[g] as number) * BLOCK, whole(tableBytes.subarray(from, from + here * INODE_SIZE)));
    const at = g * DESCRIPTOR;
    d.setUint32(at, blockBitmaps[g] as number, true);
    d.setUint32(at + 4, inodeBitmaps[g] as number, true);
    d.setUint32(at + 8, tables[g] as number, true);
    d.setUint16(at + 12, freeHere, true);
    d.setUint16(at + 14, INODES_PER_GROUP - here, true);
    d.setUint16(at + 16, directories[g] as number, true);
  }
  for (let g = 0; g < groups; g++) {
    if (!hasCopy(g)) continue;
    const sb = superblock(o, { groups, totalBlocks, freeBlocks, lastInode, group: g });
    // The first one follows 1024 bytes for a boot loader.
    const block = new Uint8Array(BLOCK);
    block.set(sb, g === 0 ? 1024 : 0);
    await o.write(g * BLOCKS_PER_GROUP * BLOCK, block);
    await o.write((g * BLOCKS_PER_GROUP + 1) * BLOCK, descriptors);
  }
  return (totalBlocks - freeBlocks) * BLOCK;
}

/** A piece filled up to whole blocks. */
function whole(part: Uint8Array): Uint8Array {
  if (part.length % BLOCK === 0) return part;
  const out = new Uint8Array(Math.ceil(part.length / BLOCK) * BLOCK);
  out.set(part);
  return out;
}

interface Planted {
  readonly all: readonly Inode[];
  readonly journal: Inode;
  readonly lostFound: Inode;
  readonly last: number;
}

/** The tree as numbered inodes. */
function plant(nodes: Iterable<FsNode>, limit: number): Planted {
  const all: Inode[] = [];
  const make = (number: number, kind: Inode['kind'], mode: number): Inode => ({
    ...{ number, kind, mode, uid: 0, gid: 0, mtime: 0, links: kind === 'directory' ? 2 : 1 },
    ...{ data: new Uint8Array(0), entries: new Map<string, Inode>(), parent: null },
  });
  let last = FIRST_INODE - 1;
  const fresh = (kind: Inode['kind'], mode: number): Inode => {
    last++;
    if (last > limit) throw runError(`ext4: more than ${limit} files`);
    const i = make(last, kind, mode);
    all.push(i);
    return i;
  };
  const root = make(ROOT_INODE, 'directory', 0o755);
  root.parent = root;
  all.push(root);
  const enter = (dir: Inode, name: string, i: Inode): void => {
    if (encoder.encode(name).length > 255) throw runError(`ext4: the name ${name} is too long`);
    dir.entries.set(name, i);
    if (i.kind !== 'directory') return;
    i.parent = dir;
    dir.links++;
  };
  const lostFound = fresh('directory', 0o700);
  enter(root, 'lost+found', lostFound);
  const directory = (path: string): Inode => {
    let at = root;
    for (const name of path.split('/')) {
      if (name === '') continue;
      let below = at.entries.get(name);
      if (below === undefined) {
        below = fresh('directory', 0o755);
        enter(at, name, below);
      }
      if (below.kind !== 'directory') throw runError(`ext4: ${path}: ${name} is not a directory`);
      at = below;
    }
    return at;
  };
  const hardlinks: FsNode[] = [];
  for (const n of nodes) {
    const cut = n.path.lastIndexOf('/');
    const name = n.path.slice(cut + 1);
    const apply = (i: Inode): void => {
      i.mode = n.mode & 0o7777;
      i.uid = n.uid;
      i.gid = n.gid;
      i.mtime = n.mtime;
    };
    if (n.type === 'directory') {
      apply(directory(n.path));
      continue;
    }
    if (n.type === 'hardlink') {
      hardlinks.push(n);
      continue;
    }
    const parent = directory(n.path.slice(0, Math.max(cut, 0)));
    const before = parent.entries.get(name);
    if (before !== undefined && before.kind !== n.type) throw runError(`ext4: two things are called ${n.path}`);
    const i = before ?? fresh(n.type, 0);
    apply(i);
    i.data = n.type === 'symlink' ? encoder.encode(n.link) : n.data;
    if (i.kind === 'symlink') i.mode = 0o777;
    if (before === undefined) enter(parent, name, i);
  }
  for (const n of hardlinks) {
    const cut = n.path.lastIndexOf('/');
    let target: Inode | undefined = root;
    for (const name of n.link.split('/')) target = target?.entries.get(name);
    if (target === undefined || target.kind === 'directory')
      throw runError(`ext4: ${n.path} is a link to ${n.link}, which is not there`);
    enter(directory(n.path.slice(0, Math.max(cut, 0))), n.path.slice(cut + 1), target);
    target.links++;
  }
  const journal = make(JOURNAL_INODE, 'file', 0o600);
  return { all, journal, lostFound, last };
}

/** A directory's entries, each within one block; the last one of a block reaches to its end. */
function directoryBlocks(i: Inode, roomy: boolean): Uint8Array {
  const blocks: Uint8Array[] = [];
  let block = new Uint8Array(BLOCK);
  let at = 0;
  let lastAt = -1;
  const close = (): void => {
    if (lastAt >= 0) new DataView(block.buffer).setUint16(lastAt + 4, BLOCK - lastAt, true);
    blocks.push(block);
    block = new Uint8Array(BLOCK);
    at = 0;
    lastAt = -1;
  };
  const add = (name: string, target: Inode): void => {
    const bytes = encoder.encode(name);
    const length = (8 + bytes.length + 3) & ~3;
    if (at + length > BLOCK) close();
    const v = new DataView(block.buffer);
    v.setUint32(at, target.number, true);
    v.setUint16(at + 4, length, true);
    block[at + 6] = bytes.length;
    block[at + 7] = target.kind === 'directory' ? FT_DIR : target.kind === 'symlink' ? FT_SYMLINK : FT_FILE;
    block.set(bytes, at + 8);
    lastAt = at;
    at += length;
  };
  add('.', i);
  add('..', i.parent ?? i);
  for (const [name, target] of i.entries) add(name, target);
  close();
  // e2fsck wants room in lost+found beforehand.
  while (roomy && blocks.length < LOST_FOUND_BLOCKS) {
    new DataView(block.buffer).setUint16(4, BLOCK, true);
    close();
  }
  const out = new Uint8Array(blocks.length * BLOCK);
  for (const [n, b] of blocks.entries()) out.set(b, n * BLOCK);
  return out;
}

/** An empty journal's superblock: jbd2 version 2, big-endian. */
function journalSuperblock(blocks: number, uuid: Uint8Array): Uint8Array {
  const out = new Uint8Array(BLOCK);
  const v = new DataView(out.buffer);
  v.setUint32(0, 0xc03b3998);
  v.setUint32(4, 4);
  v.setUint32(0x0c, BLOCK);
  v.setUint32(0x10, blocks);
  v.setUint32(0x14, 1); // first block of the log
  v.setUint32(0x18, 1); // first transaction
  out.set(uuid, 0x30);
  v.setUint32(0x40, 1); // one file system uses it
  return out;
}

function superblock(
  o: Ext4Options,
  c: { groups: number; totalBlocks: number; freeBlocks: number; lastInode: number; group: number },
): Uint8Array {
  const out = new Uint8Array(1024);
  const v = new DataView(out.buffer);
  const u32 = (at: number, value: number): void => v.setUint32(at, value, true);
  const u16 = (at: number, value: number): void => v.setUint16(at, value, true);
  u32(0x00, c.groups * INODES_PER_GROUP);
  u32(0x04, c.totalBlocks);
  u32(0x08, Math.floor(c.totalBlocks / 20)); // kept for root
  u32(0x0c, c.freeBlocks);
  u32(0x10, c.groups * INODES_PER_GROUP - c.lastInode);
  u32(0x18, 2); // block size, 1024 << 2
  u32(0x1c, 2);
  u32(0x20, BLOCKS_PER_GROUP);
  u32(0x24, BLOCKS_PER_GROUP);
  u32(0x28, INODES_PER_GROUP);
  u16(0x36, 0xffff); // no check by mount count
  u16(0x38, 0xef53);
  u16(0x3a, 1); // clean
  u16(0x3c, 1); // go on after errors
  u32(0x4c, 1); // dynamic revision
  u32(0x54, FIRST_INODE);
  u16(0x58, INODE_SIZE);
  u16(0x5a, c.group);
  u32(0x5c, COMPAT_HAS_JOURNAL | COMPAT_EXT_ATTR);
  u32(0x60, INCOMPAT_FILETYPE | INCOMPAT_EXTENTS | INCOMPAT_FLEX_BG);
  u32(0x64, RO_SPARSE_SUPER | RO_LARGE_FILE | RO_DIR_NLINK | RO_EXTRA_ISIZE);
  out.set(o.uuid, 0x68);
  out.set(encoder.encode(o.label).subarray(0, 16), 0x78);
  u32(0xe0, JOURNAL_INODE);
  u32(0x100, 0x0c); // default mount options: user_xattr, acl
  u16(0x15c, 32);
  u16(0x15e, 32);
  out[0x174] = 4; // 16 groups to a flexible group
  return out;
}
