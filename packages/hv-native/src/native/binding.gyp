{
  # For machines that build with node-gyp: node-gyp rebuild -C src/native. scripts/build-native.ts needs only a compiler.
  # In the package's root npm and pnpm would build it at every installation.
  'targets': [
    {
      'target_name': 'hyve_native',
      'type': 'none',
      'conditions': [
        ['OS=="linux" and target_arch=="x64"', {
          'type': 'loadable_module',
          'sources': ['addon.cc', 'kvm.cc'],
          'cflags_cc': ['-std=c++17', '-Wall', '-Wextra', '-fvisibility=hidden'],
          'ldflags': ['-Wl,-z,nodelete'],
        }],
      ],
    },
  ],
}
