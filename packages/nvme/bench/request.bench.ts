// What one request costs in the device, without a VM: reads from doorbell to completion over a back end that answers at
// once. The driver's side is part of it. Prints nanoseconds per request and heap growth per request.
import { NullDisk } from '@hyve/testkit';
import { DATA, Guest } from '../test/kit.ts';

const ROUNDS = 20_000;

const disk = new NullDisk();
const g = new Guest({ backend: disk });
g.socket.mode = 'msix';
g.enable();
await g.pair();
const LIST = 0x6_0000;
for (let i = 0; i < 31; i++) g.put64(LIST + i * 8, DATA + (i + 1) * 8192);

async function measure(name: string, requests: number, blocks: number): Promise<void> {
  const round = async (): Promise<void> => {
    for (let i = 0; i < requests; i++) g.submit(1, g.rw(false, 0, blocks, DATA, LIST), false);
    g.ring(1);
    for (let done = 0; done < requests; ) {
      if (g.poll(1) === null) await null;
      else done++;
    }
    g.socket.messages.length = 0;
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
  await measure('read 4 KiB, one at a time', 1, 8);
  await measure('read 128 KiB in 32 pieces', 1, 256);
  await measure('read 4 KiB, 32 at once', 32, 8);
}
