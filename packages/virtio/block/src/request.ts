// One request in flight, from a pool that bounds how many there are. The views in it are guest memory itself, unless the
// device was asked for copies.
import { type DmaMemory, Segments } from '@hyve/core';
import type { VirtQueue } from '@hyve/virtio';

/** What a range operation works on, bytes. */
export interface Range {
  /** First byte. */
  offset: number;
  /** Bytes. */
  length: number;
  /** May be unmapped instead of zeroed. */
  unmap: boolean;
}

/** A slot of the pool. */
export class Request {
  /** Buffers for the backend, alignment padding included. */
  readonly list: Segments = new Segments();
  /** Ranges of discard and write zeroes; the first {@link rangeCount} count. */
  readonly ranges: Range[] = [];
  rangeCount = 0;
  /** Where the request came from. */
  queue: VirtQueue | null = null;
  generation = 0;
  token = 0;
  /** Request type. */
  type = 0;
  /** Byte offset in the image. */
  offset = 0;
  /** Must be on stable storage when it completes. */
  through = false;
  /** Where the status byte goes. */
  statusAddr = 0;
  /** Bytes the driver is told were written, if all goes well. */
  written = 0;
  /** Called with the backend's answer; made once per slot. */
  readonly done: (status: unknown) => void;
  /** Called when the backend breaks its promise never to reject. */
  readonly failed: () => void;

  /** @param finish what happens at the end */
  constructor(finish: (r: Request, status: unknown) => void) {
    this.done = (status) => finish(this, status);
    this.failed = () => finish(this, 'io-error');
  }

  /** Puts private memory in the place of guest memory, with or without its bytes. */
  detach(withBytes: boolean): void {
    const { views, addrs } = this.list;
    for (let i = 0; i < views.length; i++) {
      const view = views[i] as Uint8Array;
      if ((addrs[i] as number) >= 0) views[i] = withBytes ? view.slice() : new Uint8Array(view.length);
    }
  }

  /** Copies private memory to where the guest wants it. */
  deliver(dma: DmaMemory): void {
    const { views, addrs } = this.list;
    for (let i = 0; i < views.length; i++) {
      const view = views[i] as Uint8Array;
      if ((addrs[i] as number) >= 0) dma.writeView(addrs[i] as number, view.length)?.set(view);
    }
  }
}
