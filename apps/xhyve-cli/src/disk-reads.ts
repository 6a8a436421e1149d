// A second thread for large reads of disks, as the board's work beside the guest. Machines without disks load nothing.
import type { ReadHelper } from '@hyve/block-backends';
import type { PcHost } from '@hyve/pc';
import { readThread } from './threads.ts';

type HostWork = NonNullable<PcHost['work']>;

/** A `ReadHelper` that is made when the first disk is opened. */
export class DiskReads implements HostWork {
  private helper: ReadHelper | null = null;
  private attached = false;

  /** What disks are opened with. */
  async forDisk(): Promise<ReadHelper> {
    const { ReadHelper } = await import('@hyve/block-backends');
    if (this.helper === null) {
      this.helper = new ReadHelper({ start: readThread });
      if (this.attached) this.helper.attach();
    }
    return this.helper;
  }

  get pending(): number {
    return this.helper === null ? 0 : this.helper.pending;
  }

  attach(): void {
    this.attached = true;
    this.helper?.attach();
  }

  poll(): boolean {
    return this.helper?.poll() ?? false;
  }

  help(ns: number): void {
    this.helper?.help(ns);
  }

  /** Ends the thread, after the disks were closed. */
  async close(): Promise<void> {
    await this.helper?.close();
  }
}
