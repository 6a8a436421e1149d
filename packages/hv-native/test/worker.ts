// Runs a guest without end, for kvm.test.ts to terminate.
import { parentPort } from 'node:worker_threads';
import { KvmHypervisor } from '../src/index.ts';
import { Rig } from './rig.ts';

const rig = new Rig(new KvmHypervisor(), [0xeb, 0xfe]);
rig.vcpu.run(1e6);
parentPort?.postMessage('running');
for (;;) rig.vcpu.run(5e6);
