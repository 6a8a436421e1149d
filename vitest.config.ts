import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    projects: ['packages/*', 'packages/virtio/*', 'packages/backends/*', 'apps/*', 'tools/*', 'examples/*'],
  },
});
