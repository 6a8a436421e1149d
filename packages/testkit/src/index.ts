// Test parts for every Hyve package; a development dependency only.
export { createRig, ManualClock, MockCpu, RecordingIrq, type Rig } from './rig.ts';
