// The loop of kvm-exits.ts without JavaScript: runs a guest that writes a port until it has done so often enough, and prints
// nanoseconds per write. Arguments: how many.
#include "../src/native/backend.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <linux/kvm.h>
#include <sys/mman.h>

using namespace hyve;

int main(int, char** argv) {
  const long writes = std::atol(argv[1]);
  System* system = nullptr;
  Vm* vm = nullptr;
  Vcpu* vcpu = nullptr;
  constexpr size_t SIZE = 1 << 20;
  auto* ram = static_cast<uint8_t*>(mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const uint8_t code[] = {0xe6, 0x80, 0xeb, 0xfc};  // out 0x80, al; jmp
  std::memcpy(ram + 0x8000, code, sizeof code);
  if (System::open("/dev/kvm", &system) < 0 || Vm::create(system, &vm) < 0 || vm->setMemory(0, 0, 0, SIZE, ram) < 0 ||
      Vcpu::create(system, vm, 0, &vcpu) < 0)
    return 1;
  kvm_sregs s;
  kvm_regs r;
  std::memset(&r, 0, sizeof r);
  auto bytes = [](auto* p) { return reinterpret_cast<uint8_t*>(p); };
  if (vcpu->get(Part::Sregs, bytes(&s), sizeof s) < 0) return 1;
  s.cs.base = s.cs.selector = 0;
  r.rip = 0x8000;
  r.rflags = 2;
  if (vcpu->set(Part::Sregs, bytes(&s), sizeof s) < 0 || vcpu->set(Part::Regs, bytes(&r), sizeof r) < 0) return 1;
  auto* run = reinterpret_cast<kvm_run*>(vcpu->page()->base());
  long sum = 0;
  const auto start = std::chrono::steady_clock::now();
  for (long i = 0; i < writes; i++) {
    if (vcpu->run(0) != 0 || run->exit_reason != KVM_EXIT_IO) return 1;
    sum += *(vcpu->page()->base() + run->io.data_offset);
  }
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  std::printf("%.1f %ld\n", took.count() / static_cast<double>(writes), sum);
  return 0;
}
