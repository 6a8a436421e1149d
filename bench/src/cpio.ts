// Archives in cpio's "newc" form, for initial RAM file systems.

const DIRECTORY = 0o040755;
const LINK = 0o120777;
const CHARACTER = 0o020600;
const FILE = 0o100000;

/** Puts an archive together: directories before what is in them. Owners are root, times zero. */
export class Cpio {
  private readonly parts: Uint8Array[] = [];
  private readonly directories: Set<string> = new Set();
  private inode = 1;

  /** A directory, and those above it, unless they are there. */
  directory(path: string): void {
    if (path === '' || this.directories.has(path)) return;
    this.directory(path.slice(0, Math.max(0, path.lastIndexOf('/'))));
    this.directories.add(path);
    this.add(path, DIRECTORY, new Uint8Array(0));
  }

  /** A file with its permissions, and the directories above it. Paths have no leading slash. */
  file(path: string, permissions: number, data: Uint8Array): void {
    this.directory(path.slice(0, Math.max(0, path.lastIndexOf('/'))));
    this.add(path, FILE | permissions, data);
  }

  /** A symbolic link. */
  link(path: string, target: string): void {
    this.directory(path.slice(0, Math.max(0, path.lastIndexOf('/'))));
    this.add(path, LINK, Buffer.from(target));
  }

  /** /dev/console, without which /init has no output. */
  console(): void {
    this.directory('dev');
    this.add('dev/console', CHARACTER, new Uint8Array(0), 5, 1);
  }

  /** The archive. */
  finish(): Uint8Array {
    this.add('TRAILER!!!', 0, new Uint8Array(0));
    return Buffer.concat(this.parts);
  }

  private add(name: string, mode: number, data: Uint8Array, major = 0, minor = 0): void {
    const path = Buffer.from(`${name}\0`);
    const fields = [this.inode++, mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, path.length, 0];
    const head = Buffer.from(`070701${fields.map((n) => n.toString(16).padStart(8, '0')).join('')}`);
    const padding = -(head.length + path.length) & 3;
    this.parts.push(head, path, Buffer.alloc(padding), data, Buffer.alloc(-data.length & 3));
  }
}
