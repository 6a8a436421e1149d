// What keeps a machine on virtual time the same in every run: whatever the host does takes no guest time, lands in the
// order it was asked for, and brings no randomness of its own.
import type { BlockBackend, BlockStatus, CharBackend, EntropySource } from '@hyve/core';

/** What holds the guest still; @hyve/vmm's RunLoop is one. */
export interface Holder {
  /** The guest stands still until as many releases have come; at once, or when its turn is over. */
  hold(when?: 'now' | 'after-this-turn'): void;
  /** Ends one hold. */
  release(): void;
}

/**
 * A console that always takes more: one that cannot stops the guest's clock, not the transmitter, whose state the guest
 * could see.
 */
export function patientConsole(c: CharBackend, loop: () => Holder | null): CharBackend {
  let holding = false;
  c.onDrain = () => {
    if (!holding) return;
    holding = false;
    loop()?.release();
  };
  return {
    write(bytes) {
      if (!c.write(bytes) && !holding) {
        holding = true;
        // Ending the turn early would let the guest see when it happened: others would run sooner.
        loop()?.hold('after-this-turn');
      }
      return true;
    },
    get onData() {
      return c.onData;
    },
    set onData(f) {
      c.onData = f;
    },
    onDrain: null,
    setFlow: (paused) => c.setFlow(paused),
    close: () => c.close(),
  };
}

/** A disk during whose work guest time stands still, and whose requests end in the order they were made. */
export function heldDisk(b: BlockBackend, loop: () => Holder | null): BlockBackend {
  let before: Promise<unknown> = Promise.resolve();
  const during = (work: Promise<BlockStatus>): Promise<BlockStatus> => {
    const l = loop();
    l?.hold();
    const earlier = before;
    const mine = (async () => {
      try {
        return await work;
      } finally {
        await earlier;
        l?.release();
      }
    })();
    before = mine.catch(() => {});
    return mine;
  };
  return {
    size: b.size,
    sectorSize: b.sectorSize,
    physicalSectorSize: b.physicalSectorSize,
    readOnly: b.readOnly,
    canDiscard: b.canDiscard,
    identity: b.identity,
    read: (o, v) => during(b.read(o, v)),
    write: (o, v) => during(b.write(o, v)),
    flush: () => during(b.flush()),
    discard: (o, n) => during(b.discard(o, n)),
    writeZeroes: (o, n, u) => during(b.writeZeroes(o, n, u)),
    close: () => b.close(),
  };
}

/**
 * 32-bit words that look random and are the same in every run, for RDRAND, RDSEED and virtio-rnd. Not for secrets.
 * Counter through a mixing function, as in SplitMix (Steele, Lea, Flood 2014).
 */
export function repeatableWords(seed: number): () => number {
  let counter = seed >>> 0;
  return () => {
    counter = (counter + 0x9e3779b9) >>> 0;
    let z = counter;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
}

/** {@link repeatableWords} as bytes. */
export function repeatableEntropy(seed: number): EntropySource {
  const next = repeatableWords(seed);
  return {
    fill(bytes) {
      for (let i = 0; i < bytes.length; i++) bytes[i] = next();
    },
  };
}
