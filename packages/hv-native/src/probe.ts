// Whether KVM can run an operating system here, and if not, what to do about it.
import { readFileSync, statSync } from 'node:fs';
import { isHyveError } from '@hyve/core';
import { KvmHypervisor } from './kvm.ts';
import { loadNative } from './native.ts';

/** What {@link probeKvm} found. */
export interface KvmProbe {
  /** The device opens, offers what the engine needs, and the processor has VT-x or SVM. */
  readonly usable: boolean;
  /** Why it is usable or not, and how to change that. One line without a full stop. */
  readonly reason: string;
}

/** Options of {@link probeKvm}; for tests. */
export interface KvmProbeOptions {
  /** Default `/dev/kvm`. */
  readonly device?: string;
  /** Text of /proc/cpuinfo; default the host's. */
  readonly cpuinfo?: string;
  /** Default `process.platform`. */
  readonly platform?: string;
  /** Default `process.arch`. */
  readonly arch?: string;
}

/** Looks whether KVM can run an operating system on this machine. Never throws. */
export function probeKvm(options: KvmProbeOptions = {}): KvmProbe {
  const no = (reason: string): KvmProbe => ({ usable: false, reason });
  const platform = options.platform ?? process.platform;
  const arch = options.arch ?? process.arch;
  if (platform !== 'linux') return no(`KVM is part of Linux, and this is ${platform}`);
  if (arch !== 'x64') return no(`KVM on ${arch} cannot run x86 guests`);
  const device = options.device ?? '/dev/kvm';
  const closed = openFault(device);
  if (closed !== null) return no(closed);
  try {
    new KvmHypervisor({ device }).close();
  } catch (e) {
    return no(isHyveError(e) ? e.message : String(e));
  }
  const feature = virtualization(options.cpuinfo ?? cpuinfo());
  if (feature === null)
    return no(
      `${device} opens, but the processor reports neither VT-x nor SVM: switch virtualization on in the firmware, or nested virtualization if this is a virtual machine`,
    );
  return { usable: true, reason: `${device} with ${feature}` };
}

/** Why the device does not open, or null. */
function openFault(device: string): string | null {
  let mode: string;
  try {
    const s = statSync(device);
    mode = `mode ${(s.mode & 0o777).toString(8)}, user ${s.uid}, group ${s.gid}`;
  } catch {
    return `there is no ${device}: load the module kvm_intel or kvm_amd, and switch virtualization on in the firmware`;
  }
  try {
    const native = loadNative();
    native.closeSystem(native.open(device));
    return null;
  } catch (e) {
    const code = (e as { code?: unknown }).code;
    if (code === 'EACCES' || code === 'EPERM')
      return `no permission to open ${device} (${mode}): join its group, often "sudo usermod -aG kvm $USER", and log in again`;
    return e instanceof Error ? e.message : String(e);
  }
}

function cpuinfo(): string {
  try {
    return readFileSync('/proc/cpuinfo', 'utf8');
  } catch {
    return '';
  }
}

function virtualization(text: string): string | null {
  const flags = /^flags\s*:(.*)$/m.exec(text)?.[1]?.split(/\s+/) ?? [];
  return flags.includes('vmx') ? 'VT-x' : flags.includes('svm') ? 'SVM' : null;
}
