// The engine's functions for JavaScript, over the plain C face of Node-API (version 9). Handles are tagged externals: every
// function checks what it is given, so that no call from JavaScript can reach memory that is not its own.
#include "backend.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#ifndef NAPI_VERSION
#define NAPI_VERSION 9
#endif
#ifndef NODE_GYP_MODULE_NAME
#define NODE_GYP_MODULE_NAME hyve_native
#endif
#include <node_api.h>

using hyve::Part;
using hyve::RunPage;
using hyve::Shared;
using hyve::System;
using hyve::Vcpu;
using hyve::Vm;
using hyve::VmPart;

namespace {

const napi_type_tag SYSTEM_TAG = {0x6879766553797374, 0x8b1f0d6a5c1e4f01};
const napi_type_tag VM_TAG = {0x68797665566d0000, 0x8b1f0d6a5c1e4f02};
const napi_type_tag VCPU_TAG = {0x6879766556637075, 0x8b1f0d6a5c1e4f03};

constexpr size_t MOST_SLOTS = 64;
constexpr double MAX_SAFE = 9007199254740991.0;

struct SystemHandle {
  System* system;
};

struct VmHandle {
  Vm* vm;
  System* system;
  // Guest memory is JavaScript's; it stays while the kernel may reach it.
  napi_ref memory[MOST_SLOTS];
  // Tells JavaScript of what the exchange has; null while nobody listens.
  napi_threadsafe_function listener;
};

struct VcpuHandle {
  Vcpu* vcpu;
  Vm* vm;
  // The run page as JavaScript has it; weak.
  napi_ref page;
};

const char* nameOf(int e) {
  switch (e) {
    case EPERM: return "EPERM";
    case ENOENT: return "ENOENT";
    case EINTR: return "EINTR";
    case EIO: return "EIO";
    case ENXIO: return "ENXIO";
    case E2BIG: return "E2BIG";
    case EBADF: return "EBADF";
    case EAGAIN: return "EAGAIN";
    case ENOMEM: return "ENOMEM";
    case EACCES: return "EACCES";
    case EFAULT: return "EFAULT";
    case EBUSY: return "EBUSY";
    case EEXIST: return "EEXIST";
    case ENODEV: return "ENODEV";
    case EINVAL: return "EINVAL";
    case EMFILE: return "EMFILE";
    case ENOTTY: return "ENOTTY";
    case ENOSPC: return "ENOSPC";
    case ENOSYS: return "ENOSYS";
    case ENOTSUP: return "ENOTSUP";
    default: return "EUNKNOWN";
  }
}

napi_value fail(napi_env env, const char* code, const char* message) {
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) return nullptr;
  napi_throw_error(env, code, message);
  return nullptr;
}

napi_value failErrno(napi_env env, const char* what, int negative) {
  char text[160];
  std::snprintf(text, sizeof text, "%s: %s", what, std::strerror(-negative));
  return fail(env, nameOf(-negative), text);
}

napi_value bad(napi_env env, const char* what) { return fail(env, "ERR_ARGUMENT", what); }

napi_value number(napi_env env, double v) {
  napi_value out = nullptr;
  return napi_create_double(env, v, &out) == napi_ok ? out : fail(env, "ERR_NAPI", "no number");
}

// Up to seven arguments; absent ones are undefined.
struct Arguments {
  napi_value at[7] = {};
  Arguments(napi_env env, napi_callback_info info) {
    size_t n = 7;
    if (napi_get_cb_info(env, info, &n, at, nullptr, nullptr) != napi_ok) n = 0;
    (void)n;
  }
};

template <typename T>
T* handle(napi_env env, napi_value v, const napi_type_tag& tag, const char* what) {
  napi_valuetype type;
  bool tagged = false;
  void* data = nullptr;
  if (v == nullptr || napi_typeof(env, v, &type) != napi_ok || type != napi_external ||
      napi_check_object_type_tag(env, v, &tag, &tagged) != napi_ok || !tagged ||
      napi_get_value_external(env, v, &data) != napi_ok || data == nullptr) {
    bad(env, what);
    return nullptr;
  }
  return static_cast<T*>(data);
}

System* openSystem(napi_env env, napi_value v) {
  auto* h = handle<SystemHandle>(env, v, SYSTEM_TAG, "expected a system handle");
  if (h == nullptr) return nullptr;
  if (!h->system->closed()) return h->system;
  fail(env, "ERR_CLOSED", "the system is closed");
  return nullptr;
}

VmHandle* openVm(napi_env env, napi_value v) {
  auto* h = handle<VmHandle>(env, v, VM_TAG, "expected a VM handle");
  if (h == nullptr) return nullptr;
  if (!h->vm->closed()) return h;
  fail(env, "ERR_CLOSED", "the VM is closed");
  return nullptr;
}

Vcpu* openVcpu(napi_env env, napi_value v) {
  auto* h = handle<VcpuHandle>(env, v, VCPU_TAG, "expected a vCPU handle");
  if (h == nullptr) return nullptr;
  if (!h->vcpu->closed()) return h->vcpu;
  fail(env, "ERR_CLOSED", "the vCPU is closed");
  return nullptr;
}

// A whole number from 0 to `max`.
bool whole(napi_env env, napi_value v, double max, double* out, const char* what) {
  napi_valuetype type;
  double d = 0;
  if (v == nullptr || napi_typeof(env, v, &type) != napi_ok || type != napi_number ||
      napi_get_value_double(env, v, &d) != napi_ok || !(d >= 0) || d > max || d != std::floor(d)) {
    bad(env, what);
    return false;
  }
  *out = d;
  return true;
}

bool word(napi_env env, napi_value v, uint32_t* out, const char* what) {
  double d = 0;
  if (!whole(env, v, 4294967295.0, &d, what)) return false;
  *out = static_cast<uint32_t>(d);
  return true;
}

bool flag(napi_env env, napi_value v, bool* out, const char* what) {
  if (v != nullptr && napi_get_value_bool(env, v, out) == napi_ok) return true;
  bad(env, what);
  return false;
}

bool array(napi_env env, napi_value v, napi_typedarray_type wanted, void** data, size_t* count, const char* what) {
  bool is = false;
  napi_typedarray_type type;
  if (v == nullptr || napi_is_typedarray(env, v, &is) != napi_ok || !is ||
      napi_get_typedarray_info(env, v, &type, count, data, nullptr, nullptr) != napi_ok || type != wanted ||
      (*data == nullptr && *count != 0)) {
    bad(env, what);
    return false;
  }
  return true;
}

template <typename T>
napi_value wrap(napi_env env, T* h, const napi_type_tag& tag, napi_finalize finalize) {
  napi_value out = nullptr;
  if (napi_create_external(env, h, finalize, nullptr, &out) != napi_ok) {
    finalize(env, h, nullptr);
    return fail(env, "ERR_NAPI", "no handle");
  }
  if (napi_type_tag_object(env, out, &tag) != napi_ok) return fail(env, "ERR_NAPI", "no tag");
  return out;
}

// --- System --------------------------------------------------------------------------------------------------------------

void finalizeSystem(napi_env, void* data, void*) {
  auto* h = static_cast<SystemHandle*>(data);
  h->system->release();
  delete h;
}

// open(path): system
napi_value openDevice(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  char path[256];
  size_t n = 0;
  if (a.at[0] == nullptr || napi_get_value_string_utf8(env, a.at[0], path, sizeof path, &n) != napi_ok ||
      n + 1 >= sizeof path || std::strlen(path) != n)
    return bad(env, "open: expected a path");
  System* system = nullptr;
  const int r = System::open(path, &system);
  if (r < 0) return failErrno(env, path, r);
  auto* h = new (std::nothrow) SystemHandle{system};
  if (h == nullptr) {
    system->release();
    return failErrno(env, "open", -ENOMEM);
  }
  return wrap(env, h, SYSTEM_TAG, finalizeSystem);
}

// closeSystem(system)
napi_value closeSystem(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  auto* h = handle<SystemHandle>(env, a.at[0], SYSTEM_TAG, "expected a system handle");
  if (h != nullptr) h->system->close();
  return nullptr;
}

// checkExtension(system, cap): number
napi_value checkExtension(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  System* system = openSystem(env, a.at[0]);
  uint32_t cap = 0;
  if (system == nullptr || !word(env, a.at[1], &cap, "checkExtension: expected a number")) return nullptr;
  return number(env, system->checkExtension(cap));
}

// supportedCpuid(system, Uint32Array, hyperv): rows
napi_value supportedCpuid(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  System* system = openSystem(env, a.at[0]);
  void* data = nullptr;
  size_t count = 0;
  if (system == nullptr || !array(env, a.at[1], napi_uint32_array, &data, &count, "supportedCpuid: expected a Uint32Array"))
    return nullptr;
  const size_t rows = count / 10 > 256 ? 256 : count / 10;
  bool hyperv = false;
  if (!flag(env, a.at[2], &hyperv, "supportedCpuid: expected a boolean")) return nullptr;
  const int r = system->supportedCpuid(static_cast<uint32_t*>(data), static_cast<uint32_t>(rows), hyperv);
  return r < 0 ? failErrno(env, "KVM_GET_SUPPORTED_CPUID", r) : number(env, r);
}

// --- Vm ------------------------------------------------------------------------------------------------------------------

void dropMemory(napi_env env, VmHandle* h) {
  for (auto& ref : h->memory) {
    if (ref != nullptr) napi_delete_reference(env, ref);
    ref = nullptr;
  }
}

// Before the environment goes: threads of the VM must not call into it.
void leaveVm(void* data) {
  auto* h = static_cast<VmHandle*>(data);
  h->vm->close();
  // Node has its own end of it to close, later.
  h->listener = nullptr;
}

void shutVm(napi_env env, VmHandle* h) {
  if (h->vm->close()) dropMemory(env, h);
  if (h->listener == nullptr) return;
  napi_remove_env_cleanup_hook(env, leaveVm, h);
  napi_release_threadsafe_function(h->listener, napi_tsfn_abort);
  h->listener = nullptr;
}

void finalizeVm(napi_env env, void* data, void*) {
  auto* h = static_cast<VmHandle*>(data);
  // Nobody can run it any more, and its memory goes with the handle.
  shutVm(env, h);
  h->vm->release();
  h->system->release();
  delete h;
}

// createVm(system): vm
napi_value createVm(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  System* system = openSystem(env, a.at[0]);
  if (system == nullptr) return nullptr;
  Vm* vm = nullptr;
  const int r = Vm::create(system, &vm);
  if (r < 0) return failErrno(env, "KVM_CREATE_VM", r);
  auto* h = new (std::nothrow) VmHandle{};
  if (h == nullptr) {
    vm->release();
    return failErrno(env, "KVM_CREATE_VM", -ENOMEM);
  }
  h->vm = vm;
  h->system = system;
  system->retain();
  return wrap(env, h, VM_TAG, finalizeVm);
}

// closeVm(vm): its vCPUs too
napi_value closeVm(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  auto* h = handle<VmHandle>(env, a.at[0], VM_TAG, "expected a VM handle");
  if (h != nullptr) shutVm(env, h);
  return nullptr;
}

// enableCap(vm, cap, argument): number
napi_value enableCap(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  uint32_t cap = 0;
  double arg = 0;
  if (h == nullptr || !word(env, a.at[1], &cap, "enableCap: expected a number") ||
      !whole(env, a.at[2], MAX_SAFE, &arg, "enableCap: expected an argument"))
    return nullptr;
  return number(env, h->vm->enableCap(cap, static_cast<uint64_t>(arg)));
}

// setMemory(vm, slot, base, Uint8Array) and with slot + 2^16: read-only
napi_value setMemory(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  uint32_t slot = 0;
  double base = 0;
  void* data = nullptr;
  size_t size = 0;
  if (h == nullptr || !word(env, a.at[1], &slot, "setMemory: expected a slot") ||
      !whole(env, a.at[2], MAX_SAFE, &base, "setMemory: expected an address") ||
      !array(env, a.at[3], napi_uint8_array, &data, &size, "setMemory: expected a Uint8Array"))
    return nullptr;
  const bool readOnly = (slot & 0x10000) != 0;
  slot &= ~0x10000u;
  if (slot >= MOST_SLOTS || h->memory[slot] != nullptr) return bad(env, "setMemory: no such slot, or in use");
  if (size == 0 || size % 4096 != 0 || reinterpret_cast<uintptr_t>(data) % 4096 != 0)
    return bad(env, "setMemory: whole pages expected");
  // Bytes that could be detached or resized would leave the kernel with a stale address: shared ones cannot.
  napi_value buffer = nullptr;
  bool plain = true;
  if (napi_get_typedarray_info(env, a.at[3], nullptr, nullptr, nullptr, &buffer, nullptr) != napi_ok ||
      napi_is_arraybuffer(env, buffer, &plain) != napi_ok || plain)
    return bad(env, "setMemory: a view of shared memory expected");
  const int r = h->vm->setMemory(slot, readOnly ? 2 : 0, static_cast<uint64_t>(base), size, data);
  if (r < 0) return number(env, r);
  if (napi_create_reference(env, a.at[3], 1, &h->memory[slot]) != napi_ok) {
    h->memory[slot] = nullptr;
    h->vm->close();
    return fail(env, "ERR_NAPI", "no reference");
  }
  return number(env, 0);
}

// keepMsrs(vm, Uint32Array): number
napi_value keepMsrs(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  void* data = nullptr;
  size_t count = 0;
  if (h == nullptr || !array(env, a.at[1], napi_uint32_array, &data, &count, "keepMsrs: expected a Uint32Array"))
    return nullptr;
  return number(env, h->vm->keepMsrs(static_cast<uint32_t*>(data), count));
}

// createIrqchip(vm): number
napi_value createIrqchip(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  return h == nullptr ? nullptr : number(env, h->vm->createIrqchip());
}

// irqLine(vm, gsi, asserted): number
napi_value irqLine(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  uint32_t gsi = 0;
  bool asserted = false;
  if (h == nullptr || !word(env, a.at[1], &gsi, "irqLine: expected a number") ||
      !flag(env, a.at[2], &asserted, "irqLine: expected a boolean"))
    return nullptr;
  return number(env, h->vm->irqLine(gsi, asserted));
}

// signalMsi(vm, address, data): number
napi_value signalMsi(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  double address = 0;
  uint32_t data = 0;
  if (h == nullptr || !whole(env, a.at[1], MAX_SAFE, &address, "signalMsi: expected an address") ||
      !word(env, a.at[2], &data, "signalMsi: expected a number"))
    return nullptr;
  return number(env, h->vm->signalMsi(static_cast<uint64_t>(address), data));
}

// setRoutes(vm, Uint32Array): number
napi_value setRoutes(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  void* data = nullptr;
  size_t count = 0;
  if (h == nullptr || !array(env, a.at[1], napi_uint32_array, &data, &count, "setRoutes: expected a Uint32Array"))
    return nullptr;
  return number(env, h->vm->setRoutes(static_cast<uint32_t*>(data), count / 5));
}

// irqEvent(vm, gsi): a file descriptor, or a negative errno
napi_value irqEvent(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  uint32_t gsi = 0;
  if (h == nullptr || !word(env, a.at[1], &gsi, "irqEvent: expected a number")) return nullptr;
  return number(env, h->vm->irqEvent(gsi));
}

// addBell(vm, n, port, address, width, any, value): number
napi_value addBell(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  uint32_t n = 0, width = 0;
  bool port = false, any = false;
  double address = 0, value = 0;
  if (h == nullptr || !word(env, a.at[1], &n, "addBell: expected a number") ||
      !flag(env, a.at[2], &port, "addBell: expected a boolean") ||
      !whole(env, a.at[3], MAX_SAFE, &address, "addBell: expected an address") ||
      !word(env, a.at[4], &width, "addBell: expected a width") || !flag(env, a.at[5], &any, "addBell: expected a boolean") ||
      !whole(env, a.at[6], MAX_SAFE, &value, "addBell: expected a value"))
    return nullptr;
  return number(env, h->vm->addBell(n, port, static_cast<uint64_t>(address), width, any, static_cast<uint64_t>(value)));
}

// removeBell(vm, n): number
napi_value removeBell(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  uint32_t n = 0;
  if (h == nullptr || !word(env, a.at[1], &n, "removeBell: expected a number")) return nullptr;
  return number(env, h->vm->removeBell(n));
}

// logDirty(vm, slot, on): number
napi_value logDirty(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  uint32_t slot = 0;
  bool on = false;
  if (h == nullptr || !word(env, a.at[1], &slot, "logDirty: expected a slot") ||
      !flag(env, a.at[2], &on, "logDirty: expected a boolean"))
    return nullptr;
  return number(env, h->vm->logDirty(slot, on));
}

// dirtyLog(vm, slot, Uint8Array, pages): number
napi_value dirtyLog(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  uint32_t slot = 0, pages = 0;
  void* data = nullptr;
  size_t size = 0;
  if (h == nullptr || !word(env, a.at[1], &slot, "dirtyLog: expected a slot") ||
      !array(env, a.at[2], napi_uint8_array, &data, &size, "dirtyLog: expected a Uint8Array") ||
      !word(env, a.at[3], &pages, "dirtyLog: expected a number"))
    return nullptr;
  return number(env, h->vm->dirtyLog(slot, static_cast<uint8_t*>(data), pages, size));
}

// setClock(vm, ns): number
napi_value setClock(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  double ns = 0;
  if (h == nullptr || !whole(env, a.at[1], MAX_SAFE, &ns, "setClock: expected nanoseconds")) return nullptr;
  return number(env, h->vm->setClock(static_cast<uint64_t>(ns)));
}

// getVm(vm, part, Uint8Array): number
napi_value getVm(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  uint32_t part = 0;
  void* data = nullptr;
  size_t size = 0;
  if (h == nullptr || !word(env, a.at[1], &part, "getVm: expected a part") ||
      !array(env, a.at[2], napi_uint8_array, &data, &size, "getVm: expected a Uint8Array"))
    return nullptr;
  return number(env, h->vm->get(static_cast<VmPart>(part), static_cast<uint8_t*>(data), size));
}

// setVm(vm, part, Uint8Array): number
napi_value setVm(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  uint32_t part = 0;
  void* data = nullptr;
  size_t size = 0;
  if (h == nullptr || !word(env, a.at[1], &part, "setVm: expected a part") ||
      !array(env, a.at[2], napi_uint8_array, &data, &size, "setVm: expected a Uint8Array"))
    return nullptr;
  return number(env, h->vm->set(static_cast<VmPart>(part), static_cast<uint8_t*>(data), size));
}

// misalignment(Uint8Array): how far its first byte is past a multiple of 2 MiB
napi_value misalignment(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  void* data = nullptr;
  size_t size = 0;
  if (!array(env, a.at[0], napi_uint8_array, &data, &size, "misalignment: expected a Uint8Array")) return nullptr;
  return number(env, static_cast<double>(reinterpret_cast<uintptr_t>(data) & 0x1fffff));
}

// --- Threads -------------------------------------------------------------------------------------------------------------

void wakeListener(void* f) {
  // Full or closing: nobody is left to be told.
  napi_call_threadsafe_function(static_cast<napi_threadsafe_function>(f), nullptr, napi_tsfn_nonblocking);
}

// listen(vm, callback): the callback is told that next() has something, until next() gives -1
napi_value listen(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  napi_valuetype type;
  if (h == nullptr) return nullptr;
  if (a.at[1] == nullptr || napi_typeof(env, a.at[1], &type) != napi_ok || type != napi_function)
    return bad(env, "listen: expected a function");
  if (h->listener != nullptr) return bad(env, "listen: somebody listens already");
  napi_value name = nullptr;
  if (napi_create_string_utf8(env, "hyve-vm", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_threadsafe_function(env, a.at[1], nullptr, name, 0, 1, nullptr, nullptr, nullptr, nullptr,
                                      &h->listener) != napi_ok) {
    h->listener = nullptr;
    return fail(env, "ERR_NAPI", "no listener");
  }
  // A machine that nobody waits for keeps no process alive.
  napi_unref_threadsafe_function(env, h->listener);
  napi_add_env_cleanup_hook(env, leaveVm, h);
  h->vm->exchange().listen(wakeListener, h->listener);
  return nullptr;
}

// next(vm, ns): a vCPU's id, 256 + a doorbell's number, or -1
napi_value next(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  double ns = 0;
  if (h == nullptr || !whole(env, a.at[1], 1e6, &ns, "next: expected nanoseconds, at most a million")) return nullptr;
  return number(env, h->vm->exchange().next(static_cast<int64_t>(ns)));
}

// stopThreads(vm, ns): number
napi_value stopThreads(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  VmHandle* h = openVm(env, a.at[0]);
  double ns = 0;
  if (h == nullptr || !whole(env, a.at[1], 1e10, &ns, "stopThreads: expected nanoseconds")) return nullptr;
  return number(env, h->vm->stopThreads(static_cast<int64_t>(ns)));
}

// --- Vcpu ----------------------------------------------------------------------------------------------------------------

// startThread(vcpu): number
napi_value startThread(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  Vcpu* vcpu = openVcpu(env, a.at[0]);
  return vcpu == nullptr ? nullptr : number(env, vcpu->startThread());
}

// resume(vcpu): number
napi_value resume(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  Vcpu* vcpu = openVcpu(env, a.at[0]);
  return vcpu == nullptr ? nullptr : number(env, vcpu->resume());
}

// result(vcpu): number
napi_value turnResult(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  Vcpu* vcpu = openVcpu(env, a.at[0]);
  return vcpu == nullptr ? nullptr : number(env, vcpu->outcome());
}

// stop(vcpu)
napi_value stopVcpu(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  Vcpu* vcpu = openVcpu(env, a.at[0]);
  if (vcpu != nullptr) vcpu->stop();
  return nullptr;
}

// external(vcpu, asserted)
napi_value external(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  Vcpu* vcpu = openVcpu(env, a.at[0]);
  bool asserted = false;
  if (vcpu != nullptr && flag(env, a.at[1], &asserted, "external: expected a boolean")) vcpu->external(asserted);
  return nullptr;
}

void finalizeVcpu(napi_env env, void* data, void*) {
  auto* h = static_cast<VcpuHandle*>(data);
  h->vcpu->close();
  if (h->page != nullptr) napi_delete_reference(env, h->page);
  h->vcpu->release();
  h->vm->release();
  delete h;
}

// createVcpu(system, vm, id): vcpu
napi_value createVcpu(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  System* system = openSystem(env, a.at[0]);
  if (system == nullptr) return nullptr;
  VmHandle* vm = openVm(env, a.at[1]);
  uint32_t id = 0;
  if (vm == nullptr || !word(env, a.at[2], &id, "createVcpu: expected a number")) return nullptr;
  Vcpu* vcpu = nullptr;
  const int r = Vcpu::create(system, vm->vm, id, &vcpu);
  if (r < 0) return failErrno(env, "KVM_CREATE_VCPU", r);
  auto* h = new (std::nothrow) VcpuHandle{vcpu, vm->vm, nullptr};
  if (h == nullptr) {
    vcpu->release();
    return failErrno(env, "KVM_CREATE_VCPU", -ENOMEM);
  }
  vm->vm->retain();
  return wrap(env, h, VCPU_TAG, finalizeVcpu);
}

void finalizePage(napi_env, void*, void* hint) { static_cast<RunPage*>(hint)->release(); }

// runPage(vcpu): ArrayBuffer, the same each time
napi_value runPage(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  auto* h = handle<VcpuHandle>(env, a.at[0], VCPU_TAG, "expected a vCPU handle");
  if (h == nullptr || openVcpu(env, a.at[0]) == nullptr) return nullptr;
  napi_value out = nullptr;
  if (h->page != nullptr && napi_get_reference_value(env, h->page, &out) == napi_ok && out != nullptr) return out;
  if (h->page != nullptr) {
    napi_delete_reference(env, h->page);
    h->page = nullptr;
    return fail(env, "ERR_PAGE", "the run page was given out before and is gone");
  }
  RunPage* page = h->vcpu->page();
  page->retain();
  if (napi_create_external_arraybuffer(env, page->base(), page->size(), finalizePage, page, &out) != napi_ok) {
    page->release();
    return fail(env, "ERR_NAPI", "no external buffer");
  }
  if (napi_create_reference(env, out, 0, &h->page) != napi_ok) return fail(env, "ERR_NAPI", "no reference");
  return out;
}

// run(vcpu, ns): 0 or a negative errno
napi_value run(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  Vcpu* vcpu = openVcpu(env, a.at[0]);
  double ns = 0;
  if (vcpu == nullptr || !whole(env, a.at[1], 1e15, &ns, "run: expected nanoseconds")) return nullptr;
  return number(env, vcpu->run(static_cast<int64_t>(ns)));
}

// disarm(vcpu)
napi_value disarm(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  auto* h = handle<VcpuHandle>(env, a.at[0], VCPU_TAG, "expected a vCPU handle");
  if (h != nullptr) h->vcpu->disarm();
  return nullptr;
}

// interrupt(vcpu, vector): number
napi_value interrupt(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  Vcpu* vcpu = openVcpu(env, a.at[0]);
  double vector = 0;
  if (vcpu == nullptr || !whole(env, a.at[1], 255, &vector, "interrupt: expected a vector")) return nullptr;
  return number(env, vcpu->interrupt(static_cast<uint32_t>(vector)));
}

// nmi(vcpu): number
napi_value nmi(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  Vcpu* vcpu = openVcpu(env, a.at[0]);
  return vcpu == nullptr ? nullptr : number(env, vcpu->nmi());
}

napi_value transfer(napi_env env, napi_callback_info info, bool set) {
  Arguments a(env, info);
  Vcpu* vcpu = openVcpu(env, a.at[0]);
  double part = 0;
  void* data = nullptr;
  size_t size = 0;
  if (vcpu == nullptr ||
      !whole(env, a.at[1], static_cast<double>(Part::Count) - 1, &part, "expected a part of the state") ||
      !array(env, a.at[2], napi_uint8_array, &data, &size, "expected a Uint8Array"))
    return nullptr;
  const auto p = static_cast<Part>(static_cast<uint32_t>(part));
  auto* bytes = static_cast<uint8_t*>(data);
  if (!Vcpu::fits(p, bytes, size)) return bad(env, "a Uint8Array of another length expected");
  return number(env, set ? vcpu->set(p, bytes, size) : vcpu->get(p, bytes, size));
}

// get(vcpu, part, Uint8Array): number
napi_value getPart(napi_env env, napi_callback_info info) { return transfer(env, info, false); }

// set(vcpu, part, Uint8Array): number
napi_value setPart(napi_env env, napi_callback_info info) { return transfer(env, info, true); }

// closeVcpu(vcpu): the run page goes away from JavaScript too
napi_value closeVcpu(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  auto* h = handle<VcpuHandle>(env, a.at[0], VCPU_TAG, "expected a vCPU handle");
  if (h == nullptr) return nullptr;
  h->vcpu->close();
  napi_value page = nullptr;
  if (h->page != nullptr && napi_get_reference_value(env, h->page, &page) == napi_ok && page != nullptr)
    napi_detach_arraybuffer(env, page);
  return nullptr;
}

// --- A last resort -------------------------------------------------------------------------------------------------------
// A signal that JavaScript handles waits for the event loop, for ever if that thread does not come out of the kernel. Node's
// handler goes on behind this one; the second signal that nobody has answered ends the process.

struct sigaction guarded[NSIG];
std::atomic<int> unanswered{0};

void onGuarded(int n, siginfo_t* info, void* context) {
  if (unanswered.fetch_add(1) >= 1) kill(getpid(), SIGKILL);
  const struct sigaction& next = guarded[n];
  if ((next.sa_flags & SA_SIGINFO) != 0) next.sa_sigaction(n, info, context);
  else if (next.sa_handler != SIG_DFL && next.sa_handler != SIG_IGN) next.sa_handler(n);
}

// guard(signal): number. The signal has a handler of Node's already
napi_value guard(napi_env env, napi_callback_info info) {
  Arguments a(env, info);
  double n = 0;
  if (!whole(env, a.at[0], NSIG - 1, &n, "guard: expected a signal")) return nullptr;
  const int signal = static_cast<int>(n);
  if (signal != SIGTERM && signal != SIGINT && signal != SIGHUP) return bad(env, "guard: SIGTERM, SIGINT or SIGHUP expected");
  struct sigaction now;
  if (sigaction(signal, nullptr, &now) != 0) return number(env, -errno);
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == onGuarded) return number(env, 0);
  if ((now.sa_flags & SA_SIGINFO) == 0 && (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN))
    return bad(env, "guard: nobody handles this signal");
  guarded[signal] = now;
  struct sigaction mine = now;
  mine.sa_flags |= SA_SIGINFO;
  mine.sa_sigaction = onGuarded;
  return number(env, sigaction(signal, &mine, nullptr) == 0 ? 0 : -errno);
}

// answered(): the event loop has seen the signals so far
napi_value answered(napi_env, napi_callback_info) {
  unanswered.store(0);
  return nullptr;
}

napi_value init(napi_env env, napi_value exports) {
  const struct {
    const char* name;
    napi_callback call;
  } functions[] = {
      {"open", openDevice},
      {"closeSystem", closeSystem},
      {"checkExtension", checkExtension},
      {"supportedCpuid", supportedCpuid},
      {"createVm", createVm},
      {"closeVm", closeVm},
      {"enableCap", enableCap},
      {"setMemory", setMemory},
      {"keepMsrs", keepMsrs},
      {"createVcpu", createVcpu},
      {"closeVcpu", closeVcpu},
      {"runPage", runPage},
      {"run", run},
      {"disarm", disarm},
      {"interrupt", interrupt},
      {"nmi", nmi},
      {"get", getPart},
      {"set", setPart},
      {"createIrqchip", createIrqchip},
      {"irqLine", irqLine},
      {"signalMsi", signalMsi},
      {"setRoutes", setRoutes},
      {"irqEvent", irqEvent},
      {"addBell", addBell},
      {"removeBell", removeBell},
      {"logDirty", logDirty},
      {"dirtyLog", dirtyLog},
      {"setClock", setClock},
      {"getVm", getVm},
      {"setVm", setVm},
      {"misalignment", misalignment},
      {"listen", listen},
      {"next", next},
      {"stopThreads", stopThreads},
      {"startThread", startThread},
      {"resume", resume},
      {"result", turnResult},
      {"stop", stopVcpu},
      {"external", external},
      {"guard", guard},
      {"answered", answered},
  };
  for (const auto& f : functions) {
    napi_value fn = nullptr;
    if (napi_create_function(env, f.name, NAPI_AUTO_LENGTH, f.call, nullptr, &fn) != napi_ok ||
        napi_set_named_property(env, exports, f.name, fn) != napi_ok)
      return fail(env, "ERR_NAPI", f.name);
  }
  return exports;
}

}  // namespace

NAPI_MODULE(NODE_GYP_MODULE_NAME, init)
