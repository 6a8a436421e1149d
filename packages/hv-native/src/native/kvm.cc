// Linux KVM (Documentation/virt/kvm/api.rst). bhyve's counterpart is the kernel's vmm.ko.
#include "backend.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <new>

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

namespace hyve {
namespace {

int result(int r) { return r < 0 ? -errno : r; }

// Head of kvm_cpuid2 and kvm_msrs, and kvm_xsave. Their flexible arrays make those structures, and with them the request
// numbers, wrong in C++ with the headers of Linux 6.1.
struct ListHead {
  uint32_t count;
  uint32_t padding;
};
static_assert(sizeof(ListHead) == 8, "as in C");
constexpr unsigned long GET_SUPPORTED_CPUID = _IOWR(KVMIO, 0x05, ListHead);
constexpr unsigned long GET_MSRS = _IOWR(KVMIO, 0x88, ListHead);
constexpr unsigned long SET_MSRS = _IOW(KVMIO, 0x89, ListHead);
struct XsaveBytes {
  uint32_t words[1024];
};
constexpr unsigned long GET_XSAVE = _IOR(KVMIO, 0xa4, XsaveBytes);
constexpr unsigned long SET_XSAVE = _IOW(KVMIO, 0xa5, XsaveBytes);
constexpr unsigned long SET_CPUID2 = _IOW(KVMIO, 0x90, ListHead);

// --- Ending a run after a time -------------------------------------------------------------------------------------------
// Each thread that runs vCPUs has one timer, whose signal goes to that thread alone. The handler sets immediate_exit, so that
// no moment exists at which the signal is lost: either KVM_RUN is interrupted, or it finds the flag.

// The page of the vCPU whose time is running. Initial-exec: a handler may read it.
__attribute__((tls_model("initial-exec"))) thread_local RunPage* volatile timed = nullptr;

void onTimer(int, siginfo_t*, void*) {
  RunPage* page = timed;
  if (page != nullptr)
    reinterpret_cast<volatile kvm_run*>(page->base())->immediate_exit = 1;
}

// A real-time signal that nobody uses; 0 if there is none.
int claimSignal() {
  for (int n = SIGRTMIN + 3; n <= SIGRTMAX; n++) {
    struct sigaction old;
    if (sigaction(n, nullptr, &old) != 0 || (old.sa_flags & SA_SIGINFO) != 0 || old.sa_handler != SIG_DFL) continue;
    struct sigaction mine;
    std::memset(&mine, 0, sizeof mine);
    mine.sa_sigaction = onTimer;
    mine.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    if (sigaction(n, &mine, nullptr) == 0) return n;
  }
  return 0;
}

struct ThreadTimer {
  timer_t id{};
  bool made = false;

  int make() {
    if (made) return 0;
    // The first thread of the process that comes here decides; others see its choice.
    static const int claimed = claimSignal();
    if (claimed == 0) return -EAGAIN;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, claimed);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    struct sigevent e;
    std::memset(&e, 0, sizeof e);
    e.sigev_notify = SIGEV_THREAD_ID;
    e.sigev_signo = claimed;
    e.sigev_notify_thread_id = static_cast<pid_t>(syscall(SYS_gettid));
    if (timer_create(CLOCK_MONOTONIC, &e, &id) != 0) return -errno;
    made = true;
    return 0;
  }

  int arm(int64_t ns) {
    struct itimerspec t;
    std::memset(&t, 0, sizeof t);
    t.it_value.tv_sec = static_cast<time_t>(ns / 1000000000);
    t.it_value.tv_nsec = static_cast<long>(ns % 1000000000);
    return result(timer_settime(id, 0, &t, nullptr));
  }

  ~ThreadTimer() {
    if (made) timer_delete(id);
  }
};

thread_local ThreadTimer threadTimer;

// --- Parts of the state --------------------------------------------------------------------------------------------------

struct PartRow {
  unsigned long get;
  unsigned long set;
  size_t size;  // 0: by count
};

const PartRow PARTS[] = {
    {KVM_GET_REGS, KVM_SET_REGS, sizeof(kvm_regs)},
    {KVM_GET_SREGS, KVM_SET_SREGS, sizeof(kvm_sregs)},
    {GET_XSAVE, SET_XSAVE, sizeof(XsaveBytes)},
    {KVM_GET_XCRS, KVM_SET_XCRS, sizeof(kvm_xcrs)},
    {KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, sizeof(kvm_debugregs)},
    {KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, sizeof(kvm_vcpu_events)},
    {GET_MSRS, SET_MSRS, 0},
    {0, SET_CPUID2, 0},
    {KVM_TRANSLATE, 0, sizeof(kvm_translation)},
    {KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ, 4},
    {0, KVM_SET_GUEST_DEBUG, sizeof(kvm_guest_debug)},
};

// Larger than any part, for kernels that look past the size they were told.
constexpr size_t ROOM = 16384;
constexpr uint32_t MOST_MSRS = 512;
constexpr uint32_t MOST_CPUID = 256;

struct Room {
  alignas(64) uint8_t bytes[ROOM];
};

}  // namespace

RunPage::~RunPage() { munmap(base_, size_); }

// --- System --------------------------------------------------------------------------------------------------------------

int System::open(const char* path, System** out) {
  *out = nullptr;
  const int fd = ::open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return -errno;
  const int version = ioctl(fd, KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    const int e = version < 0 ? errno : ENOTSUP;
    ::close(fd);
    return -e;
  }
  *out = new (std::nothrow) System(fd);
  if (*out == nullptr) {
    ::close(fd);
    return -ENOMEM;
  }
  return 0;
}

void System::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

int System::checkExtension(uint32_t cap) const { return result(ioctl(fd_, KVM_CHECK_EXTENSION, cap)); }

int System::supportedCpuid(uint32_t* words, uint32_t rows) const {
  static_assert(sizeof(kvm_cpuid_entry2) == 40, "ten words");
  if (rows > MOST_CPUID) rows = MOST_CPUID;
  Room room;
  static_assert(sizeof(ListHead) + MOST_CPUID * sizeof(kvm_cpuid_entry2) <= ROOM, "fits");
  std::memset(room.bytes, 0, sizeof room.bytes);
  auto* head = reinterpret_cast<ListHead*>(room.bytes);
  head->count = rows;
  const int r = result(ioctl(fd_, GET_SUPPORTED_CPUID, room.bytes));
  if (r < 0) return r;
  if (head->count > rows) return -E2BIG;
  std::memcpy(words, room.bytes + sizeof(ListHead), head->count * sizeof(kvm_cpuid_entry2));
  return static_cast<int>(head->count);
}

// --- Vm ------------------------------------------------------------------------------------------------------------------

int Vm::create(System* system, Vm** out) {
  *out = nullptr;
  int fd = -1;
  // A signal that arrives meanwhile is no reason to give up.
  do fd = ioctl(system->fd(), KVM_CREATE_VM, 0);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) return -errno;
  // Intel's processors without unrestricted guest run real mode as a task in protected mode, which needs four pages that
  // are the engine's own; below the local APICs, where no device of a PC is. Others do not care.
  uint64_t identity = 0xfeffc000;
  ioctl(fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
  ioctl(fd, KVM_SET_TSS_ADDR, 0xfeffd000ul);
  *out = new (std::nothrow) Vm(fd);
  if (*out == nullptr) {
    ::close(fd);
    return -ENOMEM;
  }
  return 0;
}

void Vm::close() {
  while (first_ != nullptr) first_->close();
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

int Vm::enableCap(uint32_t cap, uint64_t arg) {
  kvm_enable_cap e;
  std::memset(&e, 0, sizeof e);
  e.cap = cap;
  e.args[0] = arg;
  return result(ioctl(fd_, KVM_ENABLE_CAP, &e));
}

int Vm::setMemory(uint32_t slot, uint32_t flags, uint64_t base, uint64_t size, void* host) {
  kvm_userspace_memory_region r;
  std::memset(&r, 0, sizeof r);
  r.slot = slot;
  r.flags = flags;
  r.guest_phys_addr = base;
  r.memory_size = size;
  r.userspace_addr = reinterpret_cast<uint64_t>(host);
  return result(ioctl(fd_, KVM_SET_USER_MEMORY_REGION, &r));
}

int Vm::keepMsrs(const uint32_t* indices, size_t count) {
  kvm_msr_filter f;
  std::memset(&f, 0, sizeof f);
  uint64_t bits[KVM_MSR_FILTER_MAX_RANGES] = {};
  f.flags = KVM_MSR_FILTER_DEFAULT_DENY;
  size_t used = 0;
  for (size_t i = 0; i < count; i++) {
    size_t at = 0;
    while (at < used && (indices[i] < f.ranges[at].base || indices[i] - f.ranges[at].base >= 64)) at++;
    if (at == used) {
      if (used == KVM_MSR_FILTER_MAX_RANGES) return -E2BIG;
      f.ranges[at].flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
      f.ranges[at].base = indices[i];
      f.ranges[at].nmsrs = 64;
      f.ranges[at].bitmap = reinterpret_cast<uint8_t*>(&bits[at]);
      used++;
    }
    bits[at] |= uint64_t{1} << (indices[i] - f.ranges[at].base);
  }
  return result(ioctl(fd_, KVM_X86_SET_MSR_FILTER, &f));
}

// --- Vcpu ----------------------------------------------------------------------------------------------------------------

Vcpu::Vcpu(int fd, RunPage* page, Vm* vm) : fd_(fd), page_(page), vm_(vm) {
  vm->retain();
  next_ = vm->first_;
  vm->first_ = this;
}

Vcpu::~Vcpu() {
  close();
  page_->release();
  vm_->release();
}

int Vcpu::create(System* system, Vm* vm, uint32_t id, Vcpu** out) {
  *out = nullptr;
  const int size = ioctl(system->fd(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < 0) return -errno;
  if (static_cast<size_t>(size) < sizeof(kvm_run)) return -ENOTSUP;
  const int fd = ioctl(vm->fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(id));
  if (fd < 0) return -errno;
  void* base = mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    const int e = errno;
    ::close(fd);
    return -e;
  }
  auto* page = new (std::nothrow) RunPage(base, static_cast<size_t>(size));
  if (page == nullptr) {
    munmap(base, static_cast<size_t>(size));
    ::close(fd);
    return -ENOMEM;
  }
  *out = new (std::nothrow) Vcpu(fd, page, vm);
  if (*out == nullptr) {
    page->release();
    ::close(fd);
    return -ENOMEM;
  }
  return 0;
}

void Vcpu::close() {
  if (fd_ < 0) return;
  disarm();
  ::close(fd_);
  fd_ = -1;
  for (Vcpu** at = &vm_->first_; *at != nullptr; at = &(*at)->next_) {
    if (*at != this) continue;
    *at = next_;
    break;
  }
}

int Vcpu::run(int64_t ns) {
  if (timed != nullptr && timed != page_) return -EBUSY;
  if (ns > 0) {
    int r = threadTimer.make();
    if (r < 0) return r;
    timed = page_;
    r = threadTimer.arm(ns);
    if (r < 0) {
      timed = nullptr;
      return r;
    }
  }
  return result(ioctl(fd_, KVM_RUN, 0));
}

void Vcpu::disarm() {
  if (timed != page_) return;
  // A signal that is under way finds nothing to do.
  timed = nullptr;
  threadTimer.arm(0);
}

int Vcpu::interrupt(uint32_t vector) {
  kvm_interrupt i;
  std::memset(&i, 0, sizeof i);
  i.irq = vector;
  return result(ioctl(fd_, KVM_INTERRUPT, &i));
}

int Vcpu::nmi() { return result(ioctl(fd_, KVM_NMI, 0)); }

bool Vcpu::fits(Part part, const uint8_t* bytes, size_t size) {
  if (part >= Part::Count) return false;
  const PartRow& row = PARTS[static_cast<uint32_t>(part)];
  if (row.size != 0) return size == row.size;
  uint32_t count = 0;
  if (size < 8) return false;
  std::memcpy(&count, bytes, 4);
  if (part == Part::Msrs) return count <= MOST_MSRS && size == sizeof(ListHead) + count * sizeof(kvm_msr_entry);
  return count <= MOST_CPUID && size == sizeof(ListHead) + count * sizeof(kvm_cpuid_entry2);
}

int Vcpu::get(Part part, uint8_t* bytes, size_t size) {
  if (!fits(part, bytes, size)) return -EINVAL;
  const PartRow& row = PARTS[static_cast<uint32_t>(part)];
  if (row.get == 0) return -ENOSYS;
  if (part == Part::TscKhz) {
    const int khz = result(ioctl(fd_, KVM_GET_TSC_KHZ, 0));
    if (khz >= 0) std::memcpy(bytes, &khz, 4);
    return khz < 0 ? khz : 0;
  }
  Room room;
  std::memset(room.bytes, 0, sizeof room.bytes);
  std::memcpy(room.bytes, bytes, size);
  const int r = result(ioctl(fd_, row.get, room.bytes));
  if (r >= 0) std::memcpy(bytes, room.bytes, size);
  return r;
}

int Vcpu::set(Part part, const uint8_t* bytes, size_t size) {
  if (!fits(part, bytes, size)) return -EINVAL;
  const PartRow& row = PARTS[static_cast<uint32_t>(part)];
  if (row.set == 0) return -ENOSYS;
  if (part == Part::TscKhz) {
    uint32_t khz = 0;
    std::memcpy(&khz, bytes, 4);
    return result(ioctl(fd_, KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz)));
  }
  Room room;
  std::memset(room.bytes, 0, sizeof room.bytes);
  std::memcpy(room.bytes, bytes, size);
  // Somebody may change shared bytes between the check and the copy.
  if (!fits(part, room.bytes, size)) return -EINVAL;
  return result(ioctl(fd_, row.set, room.bytes));
}

}  // namespace hyve
