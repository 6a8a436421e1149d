// I/O APIC.
export { claimIoApic, IoApic, type IoApicBus, type IoApicOptions, type IoApicStateV1 } from './ioapic.ts';
