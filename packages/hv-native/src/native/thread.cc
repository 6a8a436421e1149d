// Processor time of the calling thread, to the nanosecond: getrusage, which Node has, is as old as the scheduler's last tick.
// POSIX clock_gettime; Node-API version 9.
#include <ctime>

#ifndef NAPI_VERSION
#define NAPI_VERSION 9
#endif
#ifndef NODE_GYP_MODULE_NAME
#define NODE_GYP_MODULE_NAME hyve_thread
#endif
#include <node_api.h>

namespace {

napi_value cpuNs(napi_env env, napi_callback_info) {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  napi_value out = nullptr;
  napi_create_double(env, static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec), &out);
  return out;
}

}  // namespace

NAPI_MODULE_INIT() {
  const napi_property_descriptor functions[] = {
      {"cpuNs", nullptr, cpuNs, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
  };
  napi_define_properties(env, exports, sizeof(functions) / sizeof(functions[0]), functions);
  return exports;
}
