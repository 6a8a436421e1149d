{
  # For machines that build with node-gyp; scripts/build-native.ts needs only a compiler.
  'targets': [
    {
      'target_name': 'hyve_native',
      'type': 'none',
      'conditions': [
        ['OS=="linux" and target_arch=="x64"', {
          'type': 'loadable_module',
          'sources': ['src/native/addon.cc', 'src/native/kvm.cc'],
          'cflags_cc': ['-std=c++17', '-Wall', '-Wextra', '-fvisibility=hidden'],
          'ldflags': ['-Wl,-z,nodelete'],
        }],
      ],
    },
  ],
}
