// Linux KVM (Documentation/virt/kvm/api.rst). bhyve's counterpart is the kernel's vmm.ko.
#include "backend.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <new>

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
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
constexpr unsigned long GET_SUPPORTED_HV_CPUID = _IOWR(KVMIO, 0xc1, ListHead);
constexpr unsigned long GET_MSRS = _IOWR(KVMIO, 0x88, ListHead);
constexpr unsigned long SET_MSRS = _IOW(KVMIO, 0x89, ListHead);
struct XsaveBytes {
  uint32_t words[1024];
};
constexpr unsigned long GET_XSAVE = _IOR(KVMIO, 0xa4, XsaveBytes);
constexpr unsigned long SET_XSAVE = _IOW(KVMIO, 0xa5, XsaveBytes);
constexpr unsigned long SET_CPUID2 = _IOW(KVMIO, 0x90, ListHead);
constexpr unsigned long SET_GSI_ROUTING = _IOW(KVMIO, 0x6a, ListHead);

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

// The signal, open on this thread; 0 if there is none.
int wakeSignal() {
  // The first thread of the process that comes here decides; others see its choice.
  static const int claimed = claimSignal();
  if (claimed == 0) return 0;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, claimed);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  return claimed;
}

// immediate_exit, which other threads set while the kernel or the vCPU's thread looks at it.
uint8_t* immediate(RunPage* page) { return &reinterpret_cast<kvm_run*>(page->base())->immediate_exit; }

struct ThreadTimer {
  timer_t id{};
  bool made = false;

  int make() {
    if (made) return 0;
    const int claimed = wakeSignal();
    if (claimed == 0) return -EAGAIN;
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
    {KVM_GET_MP_STATE, KVM_SET_MP_STATE, sizeof(kvm_mp_state)},
    {KVM_GET_LAPIC, KVM_SET_LAPIC, sizeof(kvm_lapic_state)},
    {KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR, 8},
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

int System::supportedCpuid(uint32_t* words, uint32_t rows, bool hyperv) const {
  static_assert(sizeof(kvm_cpuid_entry2) == 40, "ten words");
  if (rows > MOST_CPUID) rows = MOST_CPUID;
  Room room;
  static_assert(sizeof(ListHead) + MOST_CPUID * sizeof(kvm_cpuid_entry2) <= ROOM, "fits");
  std::memset(room.bytes, 0, sizeof room.bytes);
  auto* head = reinterpret_cast<ListHead*>(room.bytes);
  head->count = rows;
  const int r = result(ioctl(fd_, hyperv ? GET_SUPPORTED_HV_CPUID : GET_SUPPORTED_CPUID, room.bytes));
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

Vm::Vm(int fd) : fd_(fd) {
  for (auto& b : bells_) b = Bell{-1, false, false, 0, 0, 0};
  for (auto& e : irqEvents_) e = -1;
}

Vm::~Vm() { close(); }

bool Vm::close() {
  exchange_.listen(nullptr, nullptr);
  // All are told before the first is waited for.
  for (Vcpu* v = first_; v != nullptr; v = v->next_) v->stop();
  while (first_ != nullptr) first_->close();
  stopBells();
  for (auto& e : irqEvents_) {
    if (e >= 0) ::close(e);
    e = -1;
  }
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  return !stuck_;
}

int Vm::stopThreads(int64_t ns) {
  const int64_t end = monotonicNs() + ns;
  for (Vcpu* v = first_; v != nullptr; v = v->next_) v->stop();
  for (Vcpu* v = first_; v != nullptr; v = v->next_) {
    Lock lock(exchange_.mutex());
    while (v->guest_)
      if (!v->changed_.waitUntil(exchange_.mutex(), end) && v->guest_) return -ETIMEDOUT;
  }
  return 0;
}

int Vm::createIrqchip() {
  int r = result(ioctl(fd_, KVM_CREATE_IRQCHIP, 0));
  if (r < 0) return r;
  kvm_pit_config pit;
  std::memset(&pit, 0, sizeof pit);
  pit.flags = KVM_PIT_SPEAKER_DUMMY;
  return result(ioctl(fd_, KVM_CREATE_PIT2, &pit));
}

int Vm::irqLine(uint32_t gsi, bool asserted) {
  kvm_irq_level l;
  std::memset(&l, 0, sizeof l);
  l.irq = gsi;
  l.level = asserted ? 1 : 0;
  return result(ioctl(fd_, KVM_IRQ_LINE, &l));
}

int Vm::signalMsi(uint64_t address, uint32_t data) {
  kvm_msi m;
  std::memset(&m, 0, sizeof m);
  m.address_lo = static_cast<uint32_t>(address);
  m.address_hi = static_cast<uint32_t>(address >> 32);
  m.data = data;
  const int r = result(ioctl(fd_, KVM_SIGNAL_MSI, &m));
  return r > 0 ? 1 : r;
}

int Vm::setRoutes(const uint32_t* rows, size_t count) {
  constexpr size_t MOST = 64;
  if (count > MOST) return -E2BIG;
  struct {
    ListHead head;
    kvm_irq_routing_entry rows[MOST];
  } all;
  std::memset(&all, 0, sizeof all);
  all.head.count = static_cast<uint32_t>(count);
  for (size_t i = 0; i < count; i++) {
    auto& e = all.rows[i];
    const uint32_t* row = rows + 5 * i;
    e.gsi = row[0];
    e.type = row[1];
    if (e.type == KVM_IRQ_ROUTING_IRQCHIP) {
      e.u.irqchip.irqchip = row[2];
      e.u.irqchip.pin = row[3];
    } else if (e.type == KVM_IRQ_ROUTING_MSI) {
      e.u.msi.address_hi = row[2];
      e.u.msi.address_lo = row[3];
      e.u.msi.data = row[4];
    } else {
      return -EINVAL;
    }
  }
  return result(ioctl(fd_, SET_GSI_ROUTING, &all));
}

int Vm::irqEvent(uint32_t gsi) {
  for (auto& slot : irqEvents_) {
    if (slot >= 0) continue;
    const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) return -errno;
    kvm_irqfd f;
    std::memset(&f, 0, sizeof f);
    f.fd = static_cast<uint32_t>(fd);
    f.gsi = gsi;
    const int r = result(ioctl(fd_, KVM_IRQFD, &f));
    if (r < 0) {
      ::close(fd);
      return r;
    }
    slot = fd;
    return fd;
  }
  return -ENOSPC;
}

int Vm::dirtyLog(uint32_t slot, uint8_t* bytes, size_t pages, size_t size) {
  if (slot >= sizeof slots_ / sizeof slots_[0]) return -EINVAL;
  if (size % 8 != 0 || size * 8 < pages || pages * 4096 != slots_[slot].size) return -EINVAL;
  kvm_dirty_log d;
  std::memset(&d, 0, sizeof d);
  d.slot = slot;
  d.dirty_bitmap = bytes;
  return result(ioctl(fd_, KVM_GET_DIRTY_LOG, &d));
}

int Vm::setClock(uint64_t ns) {
  kvm_clock_data c;
  std::memset(&c, 0, sizeof c);
  c.clock = ns;
  return result(ioctl(fd_, KVM_SET_CLOCK, &c));
}

namespace {
struct VmPartRow {
  unsigned long get;
  unsigned long set;
  size_t size;
};
const VmPartRow VM_PARTS[] = {
    {KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, sizeof(kvm_irqchip)},
    {KVM_GET_PIT2, KVM_SET_PIT2, sizeof(kvm_pit_state2)},
    {KVM_GET_CLOCK, KVM_SET_CLOCK, sizeof(kvm_clock_data)},
};
}  // namespace

int Vm::get(VmPart part, uint8_t* bytes, size_t size) {
  if (part >= VmPart::Count || size != VM_PARTS[static_cast<uint32_t>(part)].size) return -EINVAL;
  Room room;
  std::memset(room.bytes, 0, sizeof room.bytes);
  std::memcpy(room.bytes, bytes, size);
  const int r = result(ioctl(fd_, VM_PARTS[static_cast<uint32_t>(part)].get, room.bytes));
  if (r >= 0) std::memcpy(bytes, room.bytes, size);
  return r;
}

int Vm::set(VmPart part, const uint8_t* bytes, size_t size) {
  if (part >= VmPart::Count || size != VM_PARTS[static_cast<uint32_t>(part)].size) return -EINVAL;
  Room room;
  std::memset(room.bytes, 0, sizeof room.bytes);
  std::memcpy(room.bytes, bytes, size);
  return result(ioctl(fd_, VM_PARTS[static_cast<uint32_t>(part)].set, room.bytes));
}

// --- Doorbells -----------------------------------------------------------------------------------------------------------
// One thread waits for all of a VM's, and posts them.

int Vm::startBells() {
  if (epoll_ >= 0) return 0;
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) return -errno;
  const int stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct epoll_event e;
  std::memset(&e, 0, sizeof e);
  e.events = EPOLLIN;
  e.data.u32 = Exchange::BELLS;
  int r = stop < 0 ? -errno : result(epoll_ctl(epoll, EPOLL_CTL_ADD, stop, &e));
  if (r == 0) {
    epoll_ = epoll;
    bellStop_ = stop;
    r = -pthread_create(&bellThread_, nullptr, bellMain, this);
    if (r == 0) return 0;
    epoll_ = bellStop_ = -1;
  }
  if (stop >= 0) ::close(stop);
  ::close(epoll);
  return r;
}

void* Vm::bellMain(void* p) {
  auto* vm = static_cast<Vm*>(p);
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  pthread_setname_np(pthread_self(), "hyve-bells");
  struct epoll_event events[32];
  for (;;) {
    const int n = epoll_wait(vm->epoll_, events, 32, -1);
    if (n < 0 && errno != EINTR) return nullptr;
    Lock lock(vm->exchange_.mutex());
    for (int i = 0; i < n; i++) {
      const uint32_t bell = events[i].data.u32;
      if (bell == Exchange::BELLS) return nullptr;
      uint64_t rung = 0;
      // Removed meanwhile: nothing to read.
      if (vm->bells_[bell].fd >= 0 && read(vm->bells_[bell].fd, &rung, sizeof rung) == sizeof rung)
        vm->exchange_.post(Exchange::VCPUS + bell);
    }
  }
}

void Vm::stopBells() {
  if (epoll_ < 0) return;
  for (uint32_t n = 0; n < Exchange::BELLS; n++) removeBell(n);
  const uint64_t one = 1;
  if (write(bellStop_, &one, sizeof one) == sizeof one) pthread_join(bellThread_, nullptr);
  ::close(bellStop_);
  ::close(epoll_);
  epoll_ = bellStop_ = -1;
}

int Vm::bellRequest(const Bell& bell, bool remove) {
  kvm_ioeventfd e;
  std::memset(&e, 0, sizeof e);
  e.fd = bell.fd;
  e.addr = bell.address;
  e.len = bell.width;
  e.datamatch = bell.value;
  e.flags = (bell.port ? 1u << kvm_ioeventfd_flag_nr_pio : 0u) | (bell.any ? 0u : 1u << kvm_ioeventfd_flag_nr_datamatch) |
            (remove ? 1u << kvm_ioeventfd_flag_nr_deassign : 0u);
  return result(ioctl(fd_, KVM_IOEVENTFD, &e));
}

int Vm::addBell(uint32_t n, bool port, uint64_t address, uint32_t width, bool any, uint64_t value) {
  if (n >= Exchange::BELLS) return -EINVAL;
  int r = startBells();
  if (r < 0) return r;
  Bell bell{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), port, any, width, address, value};
  if (bell.fd < 0) return -errno;
  struct epoll_event e;
  std::memset(&e, 0, sizeof e);
  e.events = EPOLLIN;
  e.data.u32 = n;
  Lock lock(exchange_.mutex());
  r = bells_[n].fd >= 0 ? -EEXIST : result(epoll_ctl(epoll_, EPOLL_CTL_ADD, bell.fd, &e));
  if (r == 0) r = bellRequest(bell, false);
  if (r < 0) {
    ::close(bell.fd);  // takes it out of epoll too
    return r;
  }
  bells_[n] = bell;
  return 0;
}

int Vm::removeBell(uint32_t n) {
  if (n >= Exchange::BELLS) return -EINVAL;
  Lock lock(exchange_.mutex());
  Bell& bell = bells_[n];
  if (bell.fd < 0) return -ENOENT;
  const int r = bellRequest(bell, true);
  ::close(bell.fd);
  bell.fd = -1;
  exchange_.forget(Exchange::VCPUS + n);
  return r;
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
  const int done = result(ioctl(fd_, KVM_SET_USER_MEMORY_REGION, &r));
  if (done < 0 || slot >= sizeof slots_ / sizeof slots_[0]) return done;
  slots_[slot] = Slot{flags, base, size, host};
  // A wish: fewer and larger pages make translation cheaper. Small regions have nothing to gain.
  if (size >= 2u << 20) madvise(host, size, MADV_HUGEPAGE);
  return done;
}

int Vm::logDirty(uint32_t slot, bool on) {
  if (slot >= sizeof slots_ / sizeof slots_[0] || slots_[slot].size == 0) return -EINVAL;
  const Slot& s = slots_[slot];
  const uint32_t log = KVM_MEM_LOG_DIRTY_PAGES;
  return setMemory(slot, on ? s.flags | log : s.flags & ~log, s.base, s.size, s.host);
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
  (*out)->id_ = id;
  return 0;
}

void Vcpu::close() {
  if (fd_ < 0) return;
  disarm();
  // A thread that the kernel does not give back keeps what it uses.
  if (endThread(2'000'000'000)) ::close(fd_);
  else vm_->stuck_ = true;
  fd_ = -1;
  for (Vcpu** at = &vm_->first_; *at != nullptr; at = &(*at)->next_) {
    if (*at != this) continue;
    *at = next_;
    break;
  }
}

int Vcpu::startThread() {
  if (threaded_) return -EEXIST;
  if (id_ >= Exchange::VCPUS) return -EINVAL;
  retain();
  pthread_attr_t a;
  pthread_attr_init(&a);
  pthread_attr_setstacksize(&a, 256 * 1024);
  pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
  const int r = pthread_create(&thread_, &a, threadMain, this);
  pthread_attr_destroy(&a);
  if (r != 0) {
    release();
    return -r;
  }
  threaded_ = true;
  return 0;
}

void* Vcpu::threadMain(void* p) {
  auto* v = static_cast<Vcpu*>(p);
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  wakeSignal();
  char name[16];
  std::snprintf(name, sizeof name, "hyve-vcpu-%u", v->id_);
  pthread_setname_np(pthread_self(), name);
  Exchange& x = v->vm_->exchange_;
  v->tid_.store(static_cast<int>(syscall(SYS_gettid)));
  for (;;) {
    {
      Lock lock(x.mutex());
      while (!v->guest_ && !v->quit_) v->changed_.wait(x.mutex());
      if (v->quit_) break;
    }
    const int r = v->enter();
    Lock lock(x.mutex());
    v->result_.store(r);
    v->guest_.store(false);
    v->changed_.all();
    x.post(v->id_);
  }
  v->tid_.store(0);
  {
    Lock lock(x.mutex());
    v->ended_ = true;
    v->guest_.store(false);
    v->changed_.all();
  }
  // The last owner's work is done by whoever is last: this may be the thread itself.
  v->release();
  return nullptr;
}

int Vcpu::enter() {
  auto* run = reinterpret_cast<kvm_run*>(page_->base());
  for (;;) {
    // In this order: whoever sets a flag afterwards also sets immediate_exit again.
    __atomic_store_n(immediate(page_), 0, __ATOMIC_SEQ_CST);
    if (stop_.exchange(false)) {
      // The instruction whose exit was answered is finished, so that the state is one.
      __atomic_store_n(immediate(page_), 1, __ATOMIC_SEQ_CST);
      const int r = result(ioctl(fd_, KVM_RUN, 0));
      return r == -EINTR || r == -EAGAIN ? STOPPED : r;
    }
    const bool external = external_.load();
    if (external && run->ready_for_interrupt_injection != 0) {
      run->ready_for_interrupt_injection = 0;
      return EXTERNAL;
    }
    run->request_interrupt_window = external ? 1 : 0;
    const int r = result(ioctl(fd_, KVM_RUN, 0));
    if (r == -EINTR || r == -EAGAIN) continue;
    if (r == 0 && (run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN || run->exit_reason == KVM_EXIT_INTR)) continue;
    return r;
  }
}

void Vcpu::kickThread() {
  __atomic_store_n(immediate(page_), 1, __ATOMIC_SEQ_CST);
  const int tid = tid_.load();
  if (tid != 0) syscall(SYS_tgkill, getpid(), tid, wakeSignal());
}

int Vcpu::resume() {
  if (fd_ < 0) return -EBADF;
  if (!threaded_) return -EINVAL;
  Lock lock(vm_->exchange_.mutex());
  if (guest_ || ended_) return -EBUSY;
  vm_->exchange_.forget(id_);
  guest_.store(true);
  changed_.all();
  return 0;
}

void Vcpu::external(bool asserted) {
  if (external_.exchange(asserted) == asserted || !asserted) return;
  if (guest_) kickThread();
}

void Vcpu::stop() {
  if (!guest_) return;
  stop_.store(true);
  kickThread();
}

bool Vcpu::endThread(int64_t ns) {
  if (!threaded_) return true;
  const int64_t end = monotonicNs() + ns;
  stop();
  Lock lock(vm_->exchange_.mutex());
  quit_ = true;
  changed_.all();
  while (!ended_)
    if (!changed_.waitUntil(vm_->exchange_.mutex(), end) && !ended_) return false;
  return true;
}

int Vcpu::run(int64_t ns) {
  if (guest_) return -EBUSY;
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
  if (guest_) return -EBUSY;
  kvm_interrupt i;
  std::memset(&i, 0, sizeof i);
  i.irq = vector;
  return result(ioctl(fd_, KVM_INTERRUPT, &i));
}

int Vcpu::nmi() { return guest_ ? -EBUSY : result(ioctl(fd_, KVM_NMI, 0)); }

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

// What the guest's counter is ahead of the host's; an attribute since Linux 5.16.
int Vcpu::tscOffset(unsigned long request, uint64_t* value) {
  kvm_device_attr a;
  std::memset(&a, 0, sizeof a);
  a.group = KVM_VCPU_TSC_CTRL;
  a.attr = KVM_VCPU_TSC_OFFSET;
  a.addr = reinterpret_cast<uint64_t>(value);
  return result(ioctl(fd_, request, &a));
}

int Vcpu::get(Part part, uint8_t* bytes, size_t size) {
  if (guest_) return -EBUSY;
  if (!fits(part, bytes, size)) return -EINVAL;
  const PartRow& row = PARTS[static_cast<uint32_t>(part)];
  if (row.get == 0) return -ENOSYS;
  if (part == Part::TscKhz) {
    const int khz = result(ioctl(fd_, KVM_GET_TSC_KHZ, 0));
    if (khz >= 0) std::memcpy(bytes, &khz, 4);
    return khz < 0 ? khz : 0;
  }
  if (part == Part::TscOffset) {
    uint64_t offset = 0;
    const int done = tscOffset(row.get, &offset);
    if (done >= 0) std::memcpy(bytes, &offset, 8);
    return done;
  }
  Room room;
  std::memset(room.bytes, 0, sizeof room.bytes);
  std::memcpy(room.bytes, bytes, size);
  const int r = result(ioctl(fd_, row.get, room.bytes));
  if (r >= 0) std::memcpy(bytes, room.bytes, size);
  return r;
}

int Vcpu::set(Part part, const uint8_t* bytes, size_t size) {
  if (guest_) return -EBUSY;
  if (!fits(part, bytes, size)) return -EINVAL;
  const PartRow& row = PARTS[static_cast<uint32_t>(part)];
  if (row.set == 0) return -ENOSYS;
  if (part == Part::TscKhz) {
    uint32_t khz = 0;
    std::memcpy(&khz, bytes, 4);
    return result(ioctl(fd_, KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz)));
  }
  if (part == Part::TscOffset) {
    uint64_t offset = 0;
    std::memcpy(&offset, bytes, 8);
    return tscOffset(row.set, &offset);
  }
  Room room;
  std::memset(room.bytes, 0, sizeof room.bytes);
  std::memcpy(room.bytes, bytes, size);
  // Somebody may change shared bytes between the check and the copy.
  if (!fits(part, room.bytes, size)) return -EINVAL;
  return result(ioctl(fd_, row.set, room.bytes));
}

}  // namespace hyve
