// The cable between controller and device.

/** A device on a PS/2 port: keyboard or mouse. The controller takes one byte at a time. */
export interface Ps2Device {
  /** Whether a byte waits. */
  readonly pending: boolean;
  /** Takes the next byte; only while {@link Ps2Device.pending}. */
  next(): number;
  /** A byte from the controller. */
  send(byte: number): void;
  /** Called when a byte comes to wait. Set by the controller. */
  onPending: (() => void) | null;
  /** Back to power-on state, silently. */
  reset(): void;
  /** Plain state. */
  save(): unknown;
  /** Restores it. @throws HyveError `STATE_VERSION`, `STATE_FORMAT` */
  load(state: unknown): void;
}
