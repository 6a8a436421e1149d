// The MC146818A real-time clock and CMOS memory.
export { claimRtc, Rtc, type RtcOptions, type RtcStateV1 } from './rtc.ts';
