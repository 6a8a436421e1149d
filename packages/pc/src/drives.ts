// Disks and CD drives of a machine by name, and what may be done to them while it runs: another medium, a larger image.
import { type BlockBackend, HyveError } from '@hyve/core';

/** A disk or CD drive. */
export interface DriveInfo {
  /** `BUS:SLOT:FUNCTION`, for AHCI with `.PORT`. */
  readonly name: string;
  /** What the guest sees. */
  readonly device: 'virtio-blk' | 'ahci-hd' | 'ahci-cd' | 'nvme';
  /** Image and options as they were written, or null for a drive without a medium. */
  readonly image: string | null;
  /** Bytes of the image, or 0. */
  readonly bytes: number;
  /** Whether the guest may not write. */
  readonly readOnly: boolean;
}

/** An image that the host has opened. */
export interface OpenImage {
  /** The open image. */
  readonly backend: BlockBackend;
  /** Makes it larger; absent: it cannot be. */
  readonly grow?: (bytes: number) => Promise<void>;
}

/** What a drive's device can do. */
export interface DrivePorts {
  /** Tells the guest that the image has another size; absent: the device has no way to. */
  readonly resized?: () => void;
  /** Opens the tray and gives the medium back; only CD drives. */
  readonly eject?: (force: boolean) => Promise<BlockBackend | null>;
  /** Closes the tray with a medium in it; only CD drives. */
  readonly insert?: (medium: BlockBackend) => void;
}

interface Drive extends DrivePorts {
  readonly name: string;
  readonly device: DriveInfo['device'];
  image: string | null;
  open: OpenImage | null;
}

/** Options of {@link Drives}. */
export interface DrivesOptions {
  /** Opens a medium for a CD drive. */
  readonly openMedium: (name: string, image: string) => Promise<OpenImage>;
  /** A medium came or went: who flushes and closes it at the end. */
  readonly onMedium: (backend: BlockBackend, came: boolean) => void;
  /** Why nothing may be changed, or null. */
  readonly frozen: string | null;
}

/**
 * The drives of a machine. Changes of one drive happen one after the other.
 */
export class Drives {
  private readonly o: DrivesOptions;
  private readonly drives: Drive[] = [];
  private last: Promise<unknown> = Promise.resolve();

  constructor(o: DrivesOptions) {
    this.o = o;
  }

  /** @internal Adds a drive while the machine is built. */
  add(
    name: string,
    device: DriveInfo['device'],
    image: string | null,
    open: OpenImage | null,
    ports: DrivePorts,
  ): void {
    this.drives.push({ name, device, image, open, ...ports });
  }

  /** All of them, in the order of the specification. */
  list(): DriveInfo[] {
    return this.drives.map(({ name, device, image, open }) => ({
      name,
      device,
      image,
      bytes: open?.backend.size ?? 0,
      readOnly: open === null || open.backend.readOnly || device === 'ahci-cd',
    }));
  }

  private find(name: string): Drive {
    // As -s has it: the bus may be left out, and the function, and the port where there is one.
    const m = /^(?:(?:(\d+):)?(\d+):)?(\d+)(?:\.(\d+))?$/u.exec(name);
    const found = this.drives.filter((d) => {
      if (m === null) return false;
      const [address, port] = d.name.split('.') as [string, string?];
      const [bus, slot, func] = address.split(':').map(Number);
      if (m[4] !== undefined && Number(m[4]) !== Number(port ?? 0)) return false;
      if (m[2] === undefined) return bus === 0 && slot === Number(m[3]) && func === 0;
      return bus === Number(m[1] ?? 0) && slot === Number(m[2]) && func === Number(m[3]);
    });
    if (found.length === 1) return found[0] as Drive;
    const all = this.drives.map((d) => d.name).join(', ');
    const which = found.length === 0 ? 'there is no such drive' : 'there is more than one; add .PORT';
    throw new HyveError('PC_DRIVE', `${name}: ${which}; the machine has ${all === '' ? 'none' : all}`);
  }

  private cd(name: string): Drive & Required<Pick<DrivePorts, 'eject' | 'insert'>> {
    const d = this.find(name);
    if (d.eject === undefined || d.insert === undefined)
      throw new HyveError('PC_DRIVE', `${d.name} is ${d.device}: only a CD drive has media that come and go`);
    return d as Drive & Required<Pick<DrivePorts, 'eject' | 'insert'>>;
  }

  private next<T>(job: () => Promise<T>): Promise<T> {
    const p = this.last.then(() => {
      if (this.o.frozen !== null) throw new HyveError('PC_DRIVE', `drives cannot be changed: ${this.o.frozen}`);
      return job();
    });
    this.last = p.catch(() => {});
    return p;
  }

  /**
   * Takes the medium out of a CD drive.
   * @param o.force even if the guest has locked the drive; otherwise the guest is asked and this rejects
   * @throws HyveError `PC_DRIVE`, `AHCI_LOCKED`
   */
  eject(name: string, o: { readonly force?: boolean } = {}): Promise<void> {
    return this.next(async () => this.takeOut(this.cd(name), o.force === true));
  }

  private async takeOut(d: Drive & Required<Pick<DrivePorts, 'eject' | 'insert'>>, force: boolean): Promise<void> {
    const medium = await d.eject(force);
    d.image = null;
    d.open = null;
    if (medium === null) return;
    this.o.onMedium(medium, false);
    await medium.close();
  }

  /**
   * Puts a medium into a CD drive, in the place of what is in it. If it cannot be opened, nothing has changed.
   * @param image as in a device's specification
   * @throws HyveError `PC_DRIVE`, `AHCI_LOCKED`, `AHCI_BACKEND`, and what the host's images throw
   */
  change(name: string, image: string, o: { readonly force?: boolean } = {}): Promise<void> {
    return this.next(async () => {
      const d = this.cd(name);
      const open = await this.o.openMedium(d.name, image);
      try {
        if (d.open !== null) await this.takeOut(d, o.force === true);
        d.insert(open.backend);
      } catch (e) {
        await open.backend.close();
        throw e;
      }
      d.open = open;
      d.image = image;
      this.o.onMedium(open.backend, true);
    });
  }

  /**
   * Makes a disk's image larger and tells the guest.
   * @param bytes the new size, whole sectors, not below the present one
   * @throws HyveError `PC_DRIVE`, and what the host's images throw
   */
  resize(name: string, bytes: number): Promise<void> {
    return this.next(async () => {
      const d = this.find(name);
      if (d.resized === undefined)
        throw new HyveError('PC_DRIVE', `${d.name} is ${d.device}, which cannot tell the guest of another size`);
      const { backend, grow } = d.open as OpenImage;
      if (grow === undefined) throw new HyveError('PC_DRIVE', `${d.name}: ${backend.identity} has a fixed size`);
      if (bytes < backend.size)
        throw new HyveError('PC_DRIVE', `${d.name} has ${backend.size} bytes; it does not shrink while it is in use`);
      await grow(bytes);
      d.resized();
    });
  }
}
