// The fabric between interrupt sources and the local APICs of one VM: inter-processor interrupts, message-signalled
// interrupts, I/O APIC messages and end-of-interrupt broadcasts. Intel SDM vol. 3 §11.6, §11.11, §11.12.10
// (bhyve: lapic.c, the delivery half of vlapic.c).
import { HyveError, type MsiSink, type PhysAddr } from '@hyve/core';
import {
  DELIVERY_FIXED,
  DELIVERY_INIT,
  DELIVERY_LOWEST,
  DELIVERY_NMI,
  DELIVERY_STARTUP,
  ICR_ASSERT,
  ICR_LEVEL,
  ICR_LOGICAL,
  ICR_SHORTHAND_MASK,
  ICR_SHORTHAND_SHIFT,
  MSI_ADDRESS_BASE,
  MSI_ADDRESS_DEST_SHIFT,
  MSI_ADDRESS_LOGICAL,
  MSI_DATA_ASSERT,
  MSI_DATA_DELIVERY_SHIFT,
  MSI_DATA_LEVEL,
  SHORTHAND_NONE,
  SHORTHAND_OTHERS,
  SHORTHAND_SELF,
} from './bits.ts';
import type { LocalApic } from './lapic.ts';

/** Something that wants to hear of level-triggered interrupts being ended: an I/O APIC. */
export interface EoiListener {
  /** A local APIC ended an interrupt whose TMR bit was set. */
  eoi(vector: number): void;
}

/** A local APIC as senders see it: {@link LocalApic}, or the stand-in for one that lives on another thread. */
export interface ApicTarget {
  /** vCPU index. */
  readonly index: number;
  /** Whether it takes fixed interrupts. */
  readonly softwareEnabled: boolean;
  /** See LocalApic. */
  matches(dest: number, logical: boolean, wide: boolean): boolean;
  /** See LocalApic. */
  receive(mode: number, vector: number, level: boolean): boolean;
  /** See LocalApic. */
  setLint(n: 0 | 1, asserted: boolean): void;
  /** See LocalApic. */
  arbitrationPriority(): number;
}

/**
 * Connects all local APICs of one VM. Also the VM's {@link MsiSink}.
 *
 * Destinations are 8 bits wide when they come from an xAPIC, an MSI or an I/O APIC, and 32 bits wide from an x2APIC; each
 * receiver compares them in its own mode. 0xFF (8 bits) and 0xFFFFFFFF (32 bits) reach everybody.
 * For MSIs the destination-mode bit alone selects logical addressing, whatever the redirection hint says: Linux sends
 * logical messages without the hint.
 *
 * Not modelled: SMI (accepted and ignored), remote read, interrupt remapping, extended destination ids.
 * @example
 * const bus = new ApicBus();
 * const bsp = new LocalApic({ bus, index: 0, id: 0, clock, tscHz: 2_000_000_000 });
 * bus.send(0xfee00000, 0x4041); // MSI: fixed, vector 0x41, to APIC 0
 */
export class ApicBus implements MsiSink {
  /** The local APICs of this thread's vCPUs, in order of index. */
  readonly lapics: LocalApic[] = [];
  /** All local APICs by vCPU index. */
  private readonly targets: ApicTarget[] = [];
  /** Called when vCPU `index` has something to take: an interrupt above its priority, an NMI, INIT or SIPI. */
  onAttention: ((index: number) => void) | null = null;
  private readonly listeners: EoiListener[] = [];
  private lastLowest = -1;

  /** @internal Registers a local APIC, in order of index; its constructor calls this. @throws HyveError `APIC_INDEX` */
  attach(lapic: LocalApic): void {
    this.attachRemote(lapic);
    this.lapics.push(lapic);
  }

  /** Registers the stand-in for a local APIC of another thread, in order of index. @throws HyveError `APIC_INDEX` */
  attachRemote(target: ApicTarget): void {
    if (target.index !== this.targets.length)
      throw new HyveError('APIC_INDEX', `local APIC ${target.index} built when ${this.targets.length} was next`);
    this.targets.push(target);
  }

  /** Registers an I/O APIC for EOI broadcasts. */
  addEoiListener(listener: EoiListener): void {
    this.listeners.push(listener);
  }

  /** @internal A local APIC has something for its vCPU. */
  attention(index: number): void {
    if (this.onAttention !== null) this.onAttention(index);
  }

  /** @internal EOI of a level-triggered vector. */
  eoi(vector: number): void {
    for (let i = 0; i < this.listeners.length; i++) (this.listeners[i] as EoiListener).eoi(vector);
  }

  /** Drives the INTR wire of the 8259 pair, which ends at LINT0 of every processor. */
  setExtInt(asserted: boolean): void {
    for (let i = 0; i < this.targets.length; i++) (this.targets[i] as ApicTarget).setLint(0, asserted);
  }

  /** Drives the NMI wire (SERR#, port 0x61), which ends at LINT1 of every processor. */
  setNmi(asserted: boolean): void {
    for (let i = 0; i < this.targets.length; i++) (this.targets[i] as ApicTarget).setLint(1, asserted);
  }

  /** An MSI: a 32-bit store of `data` to 0xFEExxxxx. Anything else is dropped. */
  send(address: PhysAddr, data: number): void {
    if (address < MSI_ADDRESS_BASE || address >= MSI_ADDRESS_BASE + 0x100000) return;
    // A level-triggered deassert message tells nobody anything.
    if ((data & MSI_DATA_LEVEL) !== 0 && (data & MSI_DATA_ASSERT) === 0) return;
    const mode = (data >>> MSI_DATA_DELIVERY_SHIFT) & 7;
    if (mode === DELIVERY_STARTUP) return;
    const logical = (address & MSI_ADDRESS_LOGICAL) !== 0;
    const level = (data & MSI_DATA_LEVEL) !== 0;
    this.deliver((address >>> MSI_ADDRESS_DEST_SHIFT) & 0xff, logical, false, mode, data & 0xff, level);
  }

  /**
   * Delivers one message to whom it names.
   * @param dest destination id or logical mask
   * @param logical destination mode
   * @param wide whether `dest` is an x2APIC destination (32 bits)
   * @param mode a `DELIVERY_` value
   * @param level trigger mode, kept in the receivers' TMR
   * @returns whether anybody took it
   */
  deliver(dest: number, logical: boolean, wide: boolean, mode: number, vector: number, level: boolean): boolean {
    const targets = this.targets;
    if (mode === DELIVERY_LOWEST) {
      const winner = this.lowest(dest, logical, wide);
      return winner === null ? false : winner.receive(DELIVERY_FIXED, vector, level);
    }
    let taken = false;
    for (let i = 0; i < targets.length; i++) {
      const l = targets[i] as ApicTarget;
      if (l.matches(dest, logical, wide) && l.receive(mode, vector, level)) taken = true;
    }
    return taken;
  }

  /** Arbitration: the lowest priority wins; among equals, the next after the last winner. */
  private lowest(dest: number, logical: boolean, wide: boolean): ApicTarget | null {
    const n = this.targets.length;
    let best: ApicTarget | null = null;
    let bestPriority = 0x100;
    for (let k = 1; k <= n; k++) {
      const l = this.targets[(this.lastLowest + k) % n] as ApicTarget;
      if (!l.softwareEnabled || !l.matches(dest, logical, wide)) continue;
      const p = l.arbitrationPriority() >> 4;
      if (p < bestPriority) {
        bestPriority = p;
        best = l;
      }
    }
    if (best !== null) this.lastLowest = best.index;
    return best;
  }

  /**
   * @internal An ICR write of `source`.
   * @param lo the command word; the vector is legal for its mode
   * @param wide whether `dest` is an x2APIC destination
   */
  ipi(source: LocalApic, lo: number, dest: number, wide: boolean): void {
    const mode = (lo >>> 8) & 7;
    const vector = lo & 0xff;
    // INIT level de-assert only set arbitration ids, on processors long gone.
    if (mode === DELIVERY_INIT && (lo & ICR_LEVEL) !== 0 && (lo & ICR_ASSERT) === 0) return;
    if (mode === 3 || mode === 7) return;
    const shorthand = (lo >>> ICR_SHORTHAND_SHIFT) & ICR_SHORTHAND_MASK;
    if (shorthand === SHORTHAND_NONE) {
      this.deliver(dest, (lo & ICR_LOGICAL) !== 0, wide, mode, vector, false);
      return;
    }
    const fixed = mode === DELIVERY_FIXED || mode === DELIVERY_LOWEST;
    if (shorthand === SHORTHAND_SELF) {
      if (fixed || mode === DELIVERY_NMI) source.receive(mode, vector, false);
      return;
    }
    // INIT and SIPI to all including self are invalid; they go to the others, which is what senders mean.
    const self = shorthand !== SHORTHAND_OTHERS && (fixed || mode === DELIVERY_NMI);
    for (let i = 0; i < this.targets.length; i++) {
      const l = this.targets[i] as ApicTarget;
      if (l !== source || self) l.receive(mode === DELIVERY_LOWEST ? DELIVERY_FIXED : mode, vector, false);
    }
  }
}
