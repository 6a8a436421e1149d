// Local APIC and the interrupt fabric between local APICs.
export { ApicBus, type ApicTarget, type EoiListener } from './apic-bus.ts';
export {
  APIC_TIMER_HZ,
  LocalApic,
  type LocalApicOptions,
  type LocalApicStateV1,
  type TscSource,
  type X2ApicSupport,
} from './lapic.ts';
