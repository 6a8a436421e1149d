// What every device has in common, whatever bus it sits on.

/** A device's life. Registers are reached through the bus; everything here is the host's side. */
export interface Device {
  /** Unique in its machine, for messages and saved state, such as `com1` or `0:4.0 virtio-blk`. */
  readonly name: string;
  /** Back to power-on state: registers, lines, timers, requests in flight. */
  reset(): void;
  /** Stops producing work; a paused device still accepts register accesses. Resolves once nothing is in flight. */
  pause?(): void | Promise<void>;
  /** Goes on after {@link Device.pause}. */
  resume?(): void;
  /** Plain versioned data that {@link Device.load} of the same version range takes. Only while paused. */
  save?(): unknown;
  /** Restores saved state without making interrupt edges. @throws HyveError `STATE_VERSION`, `STATE_FORMAT` */
  load?(state: unknown): void;
  /** Counters by name, for statistics. */
  counters?(): Readonly<Record<string, number>>;
  /** Lets go of everything the device holds. */
  close?(): Promise<void>;
}

/** Where packages write. Check `on` before formatting anything on a path the guest can make hot. */
export interface Logger {
  /** Whether {@link Logger.debug} goes anywhere. */
  readonly on: boolean;
  /** Detail for people who debug a guest. */
  debug(message: string): void;
  /** Something a user should know. */
  info(message: string): void;
  /** Something went wrong and the machine goes on. */
  warn(message: string): void;
}

/** A logger that says nothing. */
export const silentLogger: Logger = { on: false, debug: () => {}, info: () => {}, warn: () => {} };
