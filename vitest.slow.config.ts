// End-to-end tests, one file after the other: each may boot real guests and take minutes.
import { defineConfig } from 'vitest/config';
import { projects } from './vitest.config.ts';

export default defineConfig({
  test: {
    projects: projects('test/**/*.slow.test.ts', []),
    testTimeout: 300_000,
    hookTimeout: 300_000,
    fileParallelism: false,
    passWithNoTests: true,
  },
});
