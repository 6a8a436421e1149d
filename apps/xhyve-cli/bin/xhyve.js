#!/usr/bin/env node
// Starts xhyve. The version check is plain old JavaScript, so that old runtimes reach the message.
var need = 24;
var have = parseInt(process.versions.node.split('.')[0], 10);
if (have < need) {
  console.error('xhyve: needs Node.js ' + need + ' or newer; this is ' + process.version);
  process.exit(1);
}
// The garbage collector's nursery stays at its first size, where V8 would let it grow to 60 MiB for objects that live for a
// moment. And V8 does not take an event loop that never rests for an idle program whose heap wants compacting.
var v8 = process.getBuiltinModule('node:v8');
v8.setFlagsFromString('--semi-space-growth-factor=1');
v8.setFlagsFromString('--no-memory-reducer');
// The nursery is small: helpers would take longer to start than to collect it, behind the guest on hosts with few processors.
v8.setFlagsFromString('--no-parallel-scavenge');
// Threads get a larger one: to the translator each region is thousands of short-lived objects, and in a nursery of 1 MiB the
// collector runs every half millisecond. It is set here because machine code that is kept knows V8's settings.
v8.setFlagsFromString('--min-semi-space-size=4');
// Every region would note whom it calls, for an optimiser that copies the called function in: the guest's code is called
// through tables that change, and the notes cost each entry of a region. The first of the two needs the notes.
v8.setFlagsFromString('--no-wasm-inlining-call-indirect');
v8.setFlagsFromString('--no-wasm-inlining');
// The machine code of regions counts as memory outside the heap, and grows by megabytes a second while a guest starts
// programs: it is no reason to collect the whole heap each half second. It still counts against the limit of all memory.
v8.setFlagsFromString('--external-memory-accounted-in-global-limit');
// Compiled code is kept between runs.
process.getBuiltinModule('node:module').enableCompileCache();
// A published package has the program in a few files of bundle/; in the repository Node runs the TypeScript as it is, so
// that nothing needs to be built first. XHYVE_FROM=bundle takes the built one there too, for measurements.
var fs = process.getBuiltinModule('node:fs');
var source = new URL('../src/main.ts', import.meta.url);
var inRepository = import.meta.url.indexOf('/node_modules/') < 0 && fs.existsSync(source);
var fromSource = inRepository && process.env.XHYVE_FROM !== 'bundle';
import(fromSource ? source.href : new URL('../bundle/main.js', import.meta.url).href)
  .then((m) => m.main(process.argv.slice(2)))
  .then(
    (status) => {
      process.exitCode = status;
    },
    (e) => {
      console.error('xhyve: ' + (e instanceof Error ? e.message : e));
      process.exitCode = 4;
    },
  );
