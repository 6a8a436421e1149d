// 16550A serial port.
export { COM_PORTS, claimCom } from './claim.ts';
export { Uart16550, type UartOptions, type UartStateV1 } from './device.ts';
