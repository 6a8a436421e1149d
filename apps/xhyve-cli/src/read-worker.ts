// The program of the thread that takes part in large reads of disks.
import { parentPort } from 'node:worker_threads';
import { serveReads } from '@hyve/block-backends/read-worker';

if (parentPort !== null) serveReads(parentPort);
