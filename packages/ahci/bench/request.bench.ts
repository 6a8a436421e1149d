// What one request costs in the device, without a VM: queued reads from doorbell to completion over a back end that answers
// at once. Prints nanoseconds per request and heap growth per request.
import { NullDisk } from '@hyve/testkit';
import { DATA, Guest } from '../test/kit.ts';

const ROUNDS = 20_000;

const disk = new NullDisk();
const g = new Guest({ ports: [{ kind: 'hd', backend: disk }] });
g.start();

async function measure(name: string, tags: number, requests: number): Promise<void> {
  const round = async (): Promise<void> => {
    g.pw(0, 0x34, tags);
    g.pw(0, 0x38, tags);
    while (g.pr(0, 0x34) !== 0) await null;
    g.pw(0, 0x10, 0xffff_ffff);
    g.w(0x08, 1);
  };
  for (let i = 0; i < 2000; i++) await round();
  globalThis.gc?.();
  const heap = process.memoryUsage().heapUsed;
  const start = performance.now();
  for (let i = 0; i < ROUNDS; i++) await round();
  const ns = ((performance.now() - start) * 1e6) / ROUNDS / requests;
  globalThis.gc?.();
  const kept = (process.memoryUsage().heapUsed - heap) / ROUNDS / requests;
  console.log(
    `${name}, ${disk.atOnce ? 'at once' : 'by promise'}: ${ns.toFixed(0)} ns a request, ${kept.toFixed(2)} bytes kept`,
  );
}

for (const atOnce of [false, true]) {
  disk.atOnce = atOnce;
  g.lay(0, { slot: 0, command: 0x60, features: 8, count: 0, pieces: [[DATA, 4096]] });
  await measure('read 4 KiB, one at a time', 1, 1);
  const pieces = Array.from({ length: 32 }, (_, i) => [DATA + i * 8192, 4096] as const);
  g.lay(0, { slot: 1, command: 0x60, features: 256, count: 8, pieces });
  await measure('read 128 KiB in 32 pieces', 2, 1);
  for (let slot = 0; slot < 32; slot++)
    g.lay(0, { slot, command: 0x60, features: 8, count: slot << 3, pieces: [[DATA, 4096]] });
  await measure('read 4 KiB, 32 at once', 0xffff_ffff, 32);
}
