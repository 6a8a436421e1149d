// The loop of kvm-exits.ts without JavaScript: runs a guest that writes a port until it has done so often enough, and prints
// nanoseconds per write. Arguments: how many, and for kvm-options.ts what is done besides: `sync` (the kernel copies all
// registers into the run page at each exit), `get` (an exit reads general registers by a system call), `coalesced` (writes
// go to the kernel's ring, and every 64th to another port, which is an exit).
#include "../src/native/backend.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

using namespace hyve;

int main(int argc, char** argv) {
  const long writes = std::atol(argv[1]);
  const char* mode = argc > 2 ? argv[2] : "";
  const bool sync = std::strcmp(mode, "sync") == 0, get = std::strcmp(mode, "get") == 0;
  const bool coalesced = std::strcmp(mode, "coalesced") == 0;
  System* system = nullptr;
  Vm* vm = nullptr;
  Vcpu* vcpu = nullptr;
  constexpr size_t SIZE = 1 << 20;
  auto* ram = static_cast<uint8_t*>(mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const uint8_t code[] = {0xe6, 0x80, 0xeb, 0xfc};  // out 0x80, al; jmp
  // again: mov cx, 63; one: out 0x80, al; loop one; out 0x81, al; jmp again
  const uint8_t bursts[] = {0xb9, 0x3f, 0x00, 0xe6, 0x80, 0xe2, 0xfc, 0xe6, 0x81, 0xeb, 0xf5};
  if (coalesced) std::memcpy(ram + 0x8000, bursts, sizeof bursts);
  else std::memcpy(ram + 0x8000, code, sizeof code);
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
  long done = 0;
  kvm_coalesced_mmio_ring* ring = nullptr;
  if (sync) run->kvm_valid_regs = KVM_SYNC_X86_VALID_FIELDS;
  if (coalesced) {
    kvm_coalesced_mmio_zone zone;
    std::memset(&zone, 0, sizeof zone);
    zone.addr = 0x80;
    zone.size = 1;
    zone.pio = 1;
    if (ioctl(vm->fd(), KVM_REGISTER_COALESCED_MMIO, &zone) < 0) return 2;
    ring = reinterpret_cast<kvm_coalesced_mmio_ring*>(vcpu->page()->base() + 4096 * KVM_COALESCED_MMIO_PAGE_OFFSET);
  }
  const auto start = std::chrono::steady_clock::now();
  while (done < writes) {
    if (vcpu->run(0) != 0 || run->exit_reason != KVM_EXIT_IO) return 1;
    if (get && vcpu->get(Part::Regs, bytes(&r), sizeof r) < 0) return 1;
    if (sync) sum += static_cast<long>(run->s.regs.regs.rax);
    constexpr uint32_t ENTRIES = (4096 - sizeof(kvm_coalesced_mmio_ring)) / sizeof(kvm_coalesced_mmio);
    for (; ring != nullptr && ring->first != ring->last; done++) {
      sum += ring->coalesced_mmio[ring->first].data[0];
      ring->first = (ring->first + 1) % ENTRIES;
    }
    sum += *(vcpu->page()->base() + run->io.data_offset);
    done++;
  }
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  std::printf("%.1f %ld\n", took.count() / static_cast<double>(done), sum);
  return 0;
}
