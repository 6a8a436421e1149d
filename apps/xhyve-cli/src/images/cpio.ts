// Writes cpio archives in the "newc" format, the one the Linux kernel unpacks as an initial RAM file system
// (Documentation/driver-api/early-userspace/buffer-format).
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;
const TRAILER = 'TRAILER!!!';

const encoder = new TextEncoder();

/** Collects entries and lays them out; parents must be added before what they hold. Times are 0: equal input, equal bytes. */
export class CpioWriter {
  private readonly parts: Uint8Array[] = [];
  private readonly made = new Set<string>();
  private inode = 1;
  private length = 0;

  /** A directory. Parents that are missing come along with mode 0755; one that is there already is left alone. */
  dir(path: string, mode = 0o755): void {
    if (this.made.has(path) || path === '') return;
    this.parents(path);
    this.made.add(path);
    this.entry(path, S_IFDIR | mode, new Uint8Array(0), 0, 0);
  }

  /** A regular file. */
  file(path: string, data: Uint8Array | string, mode = 0o644): void {
    this.parents(path);
    this.entry(path, S_IFREG | mode, typeof data === 'string' ? encoder.encode(data) : data, 0, 0);
  }

  /** A symbolic link at `path` to `target`. */
  symlink(path: string, target: string): void {
    this.parents(path);
    this.entry(path, S_IFLNK | 0o777, encoder.encode(target), 0, 0);
  }

  /** A character device node. */
  charDevice(path: string, major: number, minor: number, mode = 0o600): void {
    this.parents(path);
    this.entry(path, S_IFCHR | mode, new Uint8Array(0), major, minor);
  }

  /** The archive with its trailer, padded to 512 bytes. The writer is used up. */
  finish(): Uint8Array {
    this.entry(TRAILER, 0, new Uint8Array(0), 0, 0);
    const out = new Uint8Array(Math.ceil(this.length / 512) * 512);
    let at = 0;
    for (const p of this.parts) {
      out.set(p, at);
      at += p.length;
    }
    return out;
  }

  private parents(path: string): void {
    const cut = path.lastIndexOf('/');
    if (cut > 0) this.dir(path.slice(0, cut));
  }

  private entry(path: string, mode: number, data: Uint8Array, major: number, minor: number): void {
    const name = encoder.encode(`${path}\0`);
    const fields = [
      mode === 0 ? 0 : this.inode++,
      mode,
      0, // uid
      0, // gid
      (mode & 0o170000) === S_IFDIR ? 2 : 1, // nlink
      0, // mtime
      data.length,
      0, // device of the file system, major and minor
      0,
      major,
      minor,
      name.length,
      0, // checksum, unused in this variant
    ];
    const header = encoder.encode(`070701${fields.map((f) => f.toString(16).toUpperCase().padStart(8, '0')).join('')}`);
    this.push(header, name);
    this.align();
    this.push(data);
    this.align();
  }

  private push(...chunks: Uint8Array[]): void {
    for (const c of chunks) {
      if (c.length === 0) continue;
      this.parts.push(c);
      this.length += c.length;
    }
  }

  private align(): void {
    const pad = -this.length & 3;
    if (pad !== 0) this.push(new Uint8Array(pad));
  }
}
