// Two busy processors on threads: in a worker until it is terminated, as a program until it exits (`exit`) or has nothing
// else to do (`end`).
import { parentPort } from 'node:worker_threads';
import { KvmHypervisor } from '../src/index.ts';
import { Rig } from './rig.ts';

const rig = new Rig(new KvmHypervisor(), [0xe6, 0x80, 0xeb, 0xfc], 2, 'local');
rig.vm.engineThreads?.start(() => {});
const timer = setInterval(() => {
  if (rig.log.length < 20) return;
  if (parentPort !== null) parentPort.postMessage('running');
  else if (process.argv[2] === 'exit') process.exit(0);
  clearInterval(timer);
}, 1);
