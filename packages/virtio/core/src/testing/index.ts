// Driver-side parts for tests and examples. Not for production guests.
export {
  enableMsix,
  type GuestBus,
  type GuestDevice,
  type GuestFunction,
  LegacyGuest,
  MmioGuest,
  ModernGuest,
  pciCapabilities,
  pciRead,
  pciWrite,
  startDriver,
} from './guest.ts';
export {
  type GuestBuffer,
  PackedRing,
  type RingDriver,
  type RingOptions,
  ringBytes,
  SplitRing,
  type UsedBuffer,
} from './ring.ts';
