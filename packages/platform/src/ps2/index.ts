// 8042 controller, PS/2 keyboard and mouse.
export { claimI8042, I8042, type I8042Options, type I8042StateV1 } from './controller.ts';
export { type KeyboardLeds, type KeyboardOptions, type KeyboardStateV1, Ps2Keyboard } from './keyboard.ts';
export { isKeyName, KEY_NAMES, type KeyName } from './keys.ts';
export { keysymToKey } from './keysyms.ts';
export { type MouseStateV1, Ps2Mouse } from './mouse.ts';
export type { Ps2Device } from './port.ts';
