// Steps of testkit's scripted vCPU, as values: run-loop tests are lists of them.
import * as kit from '@hyve/testkit';

export const hlt: kit.Step = kit.hlt();
export const sti: kit.Step = kit.sti();
export const cli: kit.Step = kit.cli();
export const pause: kit.Step = kit.pause();
export const nop: kit.Step = () => {};
export const { jump } = kit;
export const store = (addr: number, value: number): kit.Step => kit.mmioWrite(addr, 4, value);
