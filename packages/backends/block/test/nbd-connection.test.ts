// Whatever bytes a server sends: no exception, nothing written outside a request's buffers, and every request is answered
// once or left to the disk, which sends it again.
import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import type { BlockStatus } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { NbdConnection, type NbdRequest, newRequest } from '../src/nbd-connection.ts';
import type { NbdMode } from '../src/nbd-protocol.ts';
import { random } from './memory-file.ts';

/** As much of a socket as a connection uses. */
class FakeSocket extends EventEmitter {
  destroyed = false;
  write(): boolean {
    return true;
  }
  cork(): void {}
  uncork(): void {}
  end(): void {}
  setTimeout(): void {}
  destroy(): void {
    this.destroyed = true;
  }
}

const MODES: readonly NbdMode[] = [
  { structured: false, extended: false, allocation: null },
  { structured: true, extended: false, allocation: 5 },
  { structured: true, extended: true, allocation: 5 },
];
const GUARD = 64;
const RUNS = Number(process.env['RUNS'] ?? 3000);

describe.each(MODES)('$structured $extended', (mode) => {
  it('survives any bytes', () => {
    const fraction = random(mode.extended ? 3 : mode.structured ? 2 : 1);
    const below = (n: number): number => Math.floor(fraction() * n);
    const next = (): number => below(2 ** 32);
    let answered = 0;
    let lost = 0;
    for (let run = 0; run < RUNS; run++) {
      const socket = new FakeSocket();
      let gone = '';
      const connection = new NbdConnection({
        socket: socket as unknown as Socket,
        mode,
        answerMs: 1e6,
        onLost: (why) => {
          expect(gone).toBe('');
          gone = why;
        },
        onAnswer: () => {},
      });
      const memory = new Uint8Array(4096).fill(0xee);
      const inside = new Uint8Array(4096);
      const statuses: BlockStatus[][] = [];
      const requests = Array.from({ length: 1 + below(4) }, (_, i): NbdRequest => {
        const command = [0, 0, 0, 1, 3, 7][below(6)] as number;
        const length = command === 3 ? 0 : 1 + below(512);
        const at = GUARD + i * 1000;
        const cut = below(length + 1);
        if (command === 0) inside.fill(1, at, at + length);
        const got: BlockStatus[] = [];
        statuses.push(got);
        return newRequest({
          command,
          flags: 0,
          offset: below(1 << 20),
          length,
          buffers: command < 2 ? [memory.subarray(at, at + cut), memory.subarray(at + cut, at + length)] : null,
          resolve: (s) => void got.push(s),
        });
      });
      for (const r of requests) connection.send(r);
      const bytes: number[] = [];
      const put = (n: number, value: number): void => {
        for (let k = n - 1; k >= 0; k--) bytes.push(Math.floor(value / 2 ** (8 * k)) % 256);
      };
      for (let i = below(8); i >= 0; i--) {
        // Mostly what could be a reply, with one field or another at random.
        const which = below(requests.length);
        const r = requests[which] as NbdRequest;
        const odd = (n: number): boolean => below(40) === n;
        if (odd(0)) put(4, next());
        if (mode.structured && below(8) > 0) {
          const type = [0, 1, 1, 2, 5, 6, 0x8001, 0x8002, below(65536)][below(9)] as number;
          const start = below(2) * below(r.length + 1);
          const n = odd(2)
            ? below(2000)
            : type === 1
              ? 8 + r.length - start
              : type === 2
                ? 12
                : type === 0
                  ? 0
                  : below(64);
          put(4, mode.extended !== odd(3) ? 0x6e8a278c : 0x668e33ef);
          put(2, odd(4) ? below(65536) : below(2));
          put(2, type);
          put(4, odd(5) ? 1 : 0);
          put(4, odd(6) ? below(10) : which + 1);
          if (mode.extended) put(8, 0);
          put(mode.extended ? 8 : 4, n);
          if (type === 1 || type === 2) {
            put(8, odd(7) ? next() * 2 ** below(30) : r.offset + start);
            if (type === 2) put(4, odd(8) ? next() : r.length - start);
            else for (let k = 8; k < n; k++) bytes.push(next() & 0xff);
          } else for (let k = 0; k < n; k++) bytes.push(below(3) === 0 ? next() & 0xff : 0);
        } else {
          put(4, 0x67446698);
          put(4, below(4) === 0 ? below(120) : 0);
          put(4, 0);
          put(4, odd(9) ? below(10) : which + 1);
          if (r.command === 0 && !odd(10)) for (let k = 0; k < r.length; k++) bytes.push(next() & 0xff);
        }
      }
      const all = Uint8Array.from(bytes);
      for (let at = 0; at < all.length; ) {
        const n = 1 + below(below(4) === 0 ? 8 : 600);
        socket.emit('data', all.subarray(at, at + n));
        at += n;
      }
      expect(gone !== '').toBe(socket.destroyed);
      for (let i = 0; i < memory.length; i++)
        if (inside[i] === 0 && memory[i] !== 0xee) expect(`byte ${i}`).toBe('kept');
      for (const [i, s] of statuses.entries()) {
        const waits = [...connection.waiting.values()].includes(requests[i] as NbdRequest);
        expect(s.length + (waits ? 1 : 0)).toBe(1);
        answered += s.length;
        const { extents, length } = requests[i] as NbdRequest;
        expect(extents.reduce((n, e) => n + e.length, 0)).toBeLessThanOrEqual(length);
      }
      if (gone !== '') lost++;
      connection.leave();
    }
    // The test reaches both ends.
    expect(answered).toBeGreaterThan(RUNS / 8);
    expect(lost).toBeGreaterThan(RUNS / 8);
  });
});
