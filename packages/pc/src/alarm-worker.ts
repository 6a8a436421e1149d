// What the thread runs that wakes the machine's thread at a time.
export { serveAlarm } from './alarm.ts';
