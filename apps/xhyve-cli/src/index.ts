// xhyve as a library: the command line's parts, for embedders and tests. The program itself is bin/xhyve.js.

export { type Invocation, type ParseHost, parseArgs, type RunInvocation } from './args.ts';
export { type DemoHost, demo } from './demo.ts';
export { describeMachine, resolveMachine } from './machine.ts';
export { type MainHost, main, version } from './main.ts';
export { type Board, type RunIo, type RunnablePc, type RunOptions, runMachine } from './run.ts';
