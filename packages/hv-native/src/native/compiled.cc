// The machine code that V8 has made of a WebAssembly module, as bytes, and back. V8 has functions for that (v8-wasm.h:
// CompiledWasmModule::Serialize and WasmModuleCompilation), which neither JavaScript nor Node-API reaches. They are looked up
// by name in the running process, so that one library loads everywhere and works where they are; which versions of V8 it has
// been tried with is compiled.ts's business. Everything else goes through Node-API (version 9).
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <variant>

#include <dlfcn.h>

#ifndef NAPI_VERSION
#define NAPI_VERSION 9
#endif
#ifndef NODE_GYP_MODULE_NAME
#define NODE_GYP_MODULE_NAME hyve_compiled
#endif
#include <node_api.h>

// --- V8's types, as far as their layout matters -------------------------------------------------------------------------

// Not in an anonymous namespace: the compiler would see that nothing here implements Caching.
namespace hyve::v8 {

// A handle: the address of a slot. Node-API's napi_value is the same address.
struct Handle {
  void* slot;
};

struct Span {
  const uint8_t* data;
  size_t size;
};

struct OwnedBuffer {
  std::unique_ptr<const uint8_t[]> bytes;
  size_t size = 0;
};

struct CompiledModule {
  std::shared_ptr<void> native;
  std::string url;
};

// V8 implements it: its functions, in their order.
class __attribute__((visibility("default"))) Caching {
 public:
  virtual Span wireBytes() const = 0;
  virtual bool setCode(Span code) = 0;
};

using OnCaching = std::function<void(Caching&)>;
using OnEnd = std::function<void(std::variant<Handle, Handle>)>;

// Room for a WasmModuleCompilation, which is one pointer.
struct Compilation {
  alignas(16) unsigned char room[64];
};

struct Functions {
  void* (*isolate)();
  bool (*isModule)(const void* value);
  // Results that are not plain data: the compiler passes where they go.
  CompiledModule (*compiledModule)(const void* module);
  OwnedBuffer (*serialize)(CompiledModule* compiled);
  void (*begin)(Compilation*);
  void (*end)(Compilation*);
  void (*setHasCode)(Compilation*);
  void (*bytes)(Compilation*, const uint8_t* data, size_t size);
  void (*finish)(Compilation*, void* isolate, const OnCaching&, const OnEnd&);
};

}  // namespace hyve::v8

using hyve::v8::Caching;
using hyve::v8::Compilation;
using hyve::v8::CompiledModule;
using hyve::v8::Handle;
using hyve::v8::OwnedBuffer;
using hyve::v8::Span;
using V8 = hyve::v8::Functions;

namespace {

template <class F>
bool find(F& f, const char* name) {
  f = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  return f != nullptr;
}

// Whether this process has all of them.
bool findAll(V8& v8) {
  return find(v8.isolate, "_ZN2v87Isolate10GetCurrentEv") && find(v8.isModule, "_ZNK2v85Value18IsWasmModuleObjectEv") &&
         find(v8.compiledModule, "_ZN2v816WasmModuleObject17GetCompiledModuleEv") &&
         find(v8.serialize, "_ZN2v818CompiledWasmModule9SerializeEv") &&
         find(v8.begin, "_ZN2v821WasmModuleCompilationC1Ev") && find(v8.end, "_ZN2v821WasmModuleCompilationD1Ev") &&
         find(v8.setHasCode, "_ZN2v821WasmModuleCompilation25SetHasCompiledModuleBytesEv") &&
         find(v8.bytes, "_ZN2v821WasmModuleCompilation15OnBytesReceivedEPKhm") &&
         find(v8.finish,
              "_ZN2v821WasmModuleCompilation6FinishEPNS_7IsolateERKSt8functionIFvRNS_13WasmStreaming22ModuleCachingInterface"
              "EEERKS3_IFvSt7variantIJNS_5LocalINS_16WasmModuleObjectEEENSC_INS_5ValueEEEEEEE");
}

// --- functions ----------------------------------------------------------------------------------------------------------

napi_value argumentError(napi_env env, const char* what) {
  napi_throw_type_error(env, "ERR_ARGUMENT", what);
  return nullptr;
}

napi_value null(napi_env env) {
  napi_value v = nullptr;
  napi_get_null(env, &v);
  return v;
}

V8* v8Of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return static_cast<V8*>(data);
}

bool bytesOf(napi_env env, napi_value value, Span& out) {
  bool typed = false;
  if (napi_is_typedarray(env, value, &typed) != napi_ok || !typed) return false;
  napi_typedarray_type type;
  void* data = nullptr;
  size_t length = 0;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok) return false;
  if (type != napi_uint8_array) return false;
  out = {static_cast<const uint8_t*>(data), length};
  return true;
}

// (module) → bytes, or null while no function of it has been optimised.
napi_value serialize(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value module = nullptr;
  napi_get_cb_info(env, info, &count, &module, nullptr, nullptr);
  const V8& v8 = *v8Of(env);
  if (count < 1 || !v8.isModule(module)) return argumentError(env, "a WebAssembly.Module expected");
  CompiledModule compiled = v8.compiledModule(module);
  const OwnedBuffer code = v8.serialize(&compiled);
  if (code.size == 0) return null(env);
  void* data = nullptr;
  napi_value buffer = nullptr;
  napi_value out = nullptr;
  if (napi_create_arraybuffer(env, code.size, &data, &buffer) != napi_ok) return null(env);
  memcpy(data, code.bytes.get(), code.size);
  napi_create_typedarray(env, napi_uint8_array, code.size, buffer, 0, &out);
  return out;
}

// What a compilation that has not ended yet may still write to.
struct Outcome {
  bool waiting = true;
  napi_env env = nullptr;
  napi_ref module = nullptr;
};

// (WebAssembly, what serialize gave for a module of the same) → module, or null where V8 refuses the code.
napi_value deserialize(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value args[2] = {nullptr, nullptr};
  napi_get_cb_info(env, info, &count, args, nullptr, nullptr);
  Span wasm;
  Span code;
  if (count < 2 || !bytesOf(env, args[0], wasm) || !bytesOf(env, args[1], code))
    return argumentError(env, "two Uint8Arrays expected");
  const V8& v8 = *v8Of(env);
  const auto outcome = std::make_shared<Outcome>();
  outcome->env = env;
  bool used = false;
  Compilation compilation;
  v8.begin(&compilation);
  v8.setHasCode(&compilation);
  v8.bytes(&compilation, wasm.data, wasm.size);
  v8.finish(
      &compilation, v8.isolate(), [&](Caching& caching) { used = caching.setCode(code); },
      [outcome](std::variant<Handle, Handle> result) {
        // With code there is nothing to wait for. Later, nobody wants it.
        const Handle* module = std::get_if<0>(&result);
        if (outcome->waiting && module != nullptr)
          napi_create_reference(outcome->env, static_cast<napi_value>(module->slot), 1, &outcome->module);
      });
  v8.end(&compilation);
  outcome->waiting = false;
  napi_value out = nullptr;
  if (outcome->module != nullptr) {
    if (used) napi_get_reference_value(env, outcome->module, &out);
    napi_delete_reference(env, outcome->module);
  }
  return out == nullptr ? null(env) : out;
}

void drop(napi_env, void* data, void*) { delete static_cast<V8*>(data); }

}  // namespace

NAPI_MODULE_INIT() {
  V8* v8 = new (std::nothrow) V8();
  if (v8 == nullptr) return exports;
  if (!findAll(*v8)) {
    delete v8;
    return exports;
  }
  napi_set_instance_data(env, v8, drop, nullptr);
  const napi_property_descriptor functions[] = {
      {"serialize", nullptr, serialize, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"deserialize", nullptr, deserialize, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
  };
  napi_define_properties(env, exports, sizeof(functions) / sizeof(functions[0]), functions);
  return exports;
}
