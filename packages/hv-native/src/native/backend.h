// What the Node-API face (addon.cc) asks of a platform's engine. One file implements it per platform: kvm.cc on Linux.
// Results are 0 or more, or a negative errno; nothing here knows JavaScript.
#ifndef HYVE_BACKEND_H
#define HYVE_BACKEND_H

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "exchange.h"

namespace hyve {

// Counts owners; the last one to let go deletes.
class Shared {
 public:
  void retain() { owners_.fetch_add(1, std::memory_order_relaxed); }
  void release() {
    if (owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

 protected:
  Shared() = default;
  virtual ~Shared() = default;

 private:
  std::atomic<int> owners_{1};
};

// The page through which a vCPU and the kernel talk; mapped as long as anybody can reach it.
class RunPage final : public Shared {
 public:
  RunPage(void* base, size_t size) : base_(static_cast<uint8_t*>(base)), size_(size) {}
  uint8_t* base() const { return base_; }
  size_t size() const { return size_; }

 private:
  ~RunPage() override;
  uint8_t* base_;
  size_t size_;
};

// The opened device.
class System final : public Shared {
 public:
  // On failure *out is null and the errno negative. -ENOTSUP: the device speaks another version.
  static int open(const char* path, System** out);
  bool closed() const { return fd_ < 0; }
  void close();
  int checkExtension(uint32_t cap) const;
  // Rows of ten words: function, index, flags, EAX, EBX, ECX, EDX, three of padding. Gives how many, at most `rows`.
  // `hyperv`: the leaves of Hyper-V's interface that the kernel can show instead of its own.
  int supportedCpuid(uint32_t* words, uint32_t rows, bool hyperv) const;
  int fd() const { return fd_; }

 private:
  explicit System(int fd) : fd_(fd) {}
  ~System() override { close(); }
  int fd_;
};

class Vcpu;

// Parts of a VM's state. Irqchip says in its first word which controller.
enum class VmPart : uint32_t { Irqchip, Pit, Clock, Count };

// A virtual machine.
class Vm final : public Shared {
 public:
  static int create(System* system, Vm** out);
  bool closed() const { return fd_ < 0; }
  // Lets go of the VM and of its vCPUs. False, now and later: the kernel keeps a thread, which may still use the memory.
  bool close();
  int enableCap(uint32_t cap, uint64_t arg);
  // The bytes stay the caller's, who keeps them until the VM is closed.
  int setMemory(uint32_t slot, uint32_t flags, uint64_t base, uint64_t size, void* host);
  // Switches the log of a slot's written pages.
  int logDirty(uint32_t slot, bool on);
  // Guest accesses to all other MSRs leave the engine.
  int keepMsrs(const uint32_t* indices, size_t count);
  // All controllers and the PIT in the kernel. Before the first vCPU, as enableCap(KVM_CAP_SPLIT_IRQCHIP).
  int createIrqchip();
  // Pin `gsi` of the kernel's controllers.
  int irqLine(uint32_t gsi, bool asserted);
  // Sends a message; 1: somebody took it, 0: nobody.
  int signalMsi(uint64_t address, uint32_t data);
  // Rows of five words: gsi, kind and three more. Kind 1, an input of the kernel's own: controller (0 and 1 the 8259s, 2 the
  // I/O APIC), input, 0. Kind 2, a message: address high, address low, data. Replaces all routes.
  int setRoutes(const uint32_t* rows, size_t count);
  // A file descriptor that raises `gsi` when it is written to; the VM's own. Edges only.
  int irqEvent(uint32_t gsi);
  // Writes of `width` bytes at `address` (with `value`, unless any is meant) ring bell `n` on the exchange and do not leave
  // the guest. `width` 0: of any width.
  int addBell(uint32_t n, bool port, uint64_t address, uint32_t width, bool any, uint64_t value);
  int removeBell(uint32_t n);
  // Pages of a slot written since the last call, a bit each. `bytes` in whole 64-bit words.
  int dirtyLog(uint32_t slot, uint8_t* bytes, size_t pages, size_t size);
  int setClock(uint64_t ns);
  // State of what the kernel has beside the vCPUs; the bytes are its structures, exactly as many.
  int get(VmPart part, uint8_t* bytes, size_t size);
  int set(VmPart part, const uint8_t* bytes, size_t size);
  Exchange& exchange() { return exchange_; }
  // Asks every vCPU's thread for its turn and waits, at most `ns`; -ETIMEDOUT if one did not come back.
  int stopThreads(int64_t ns);
  int fd() const { return fd_; }

 private:
  friend class Vcpu;
  struct Bell {
    int fd;
    bool port;
    bool any;
    uint32_t width;
    uint64_t address;
    uint64_t value;
  };
  explicit Vm(int fd);
  ~Vm() override;
  static void* bellMain(void* vm);
  int startBells();
  void stopBells();
  int bellRequest(const Bell& bell, bool remove);
  int fd_;
  bool stuck_ = false;
  Vcpu* first_ = nullptr;
  Exchange exchange_;
  // Under the exchange's mutex.
  Bell bells_[Exchange::BELLS];
  int epoll_ = -1;
  int bellStop_ = -1;
  pthread_t bellThread_{};
  int irqEvents_[Exchange::BELLS];
  struct Slot {
    uint32_t flags;
    uint64_t base;
    uint64_t size;
    void* host;
  };
  Slot slots_[64] = {};
};

// Parts of a vCPU's state; the bytes are the kernel's structures.
enum class Part : uint32_t { Regs, Sregs, Xsave, Xcrs, DebugRegs, Events, Msrs, Cpuid, Translate, TscKhz, GuestDebug, MpState, Lapic, TscOffset, Count };

// What Vcpu::outcome() gives for a stop that was asked for, and when an interrupt of the 8259 can be given.
constexpr int STOPPED = -4;     // EINTR
constexpr int EXTERNAL = -512;  // no error number of the kernel's that reaches programs

// One virtual CPU. Used on one thread at a time: with a thread of its own, by that thread in the guest's turn and by the
// owner in the host's. Functions called out of turn give -EBUSY.
class Vcpu final : public Shared {
 public:
  static int create(System* system, Vm* vm, uint32_t id, Vcpu** out);
  bool closed() const { return fd_ < 0; }
  void close();
  RunPage* page() const { return page_; }
  // Runs until an exit (0), or an error: -EINTR when asked to stop. With ns > 0 the run is asked to stop after that time,
  // until disarm(); -EBUSY if another vCPU of this thread waits for its own end.
  int run(int64_t ns);
  void disarm();
  int interrupt(uint32_t vector);
  int nmi();
  // Whether `size` is right for a part; Msrs and Cpuid say their length in their first word.
  static bool fits(Part part, const uint8_t* bytes, size_t size);
  int get(Part part, uint8_t* bytes, size_t size);
  int set(Part part, const uint8_t* bytes, size_t size);
  // Makes the vCPU's own thread; it waits for resume().
  int startThread();
  // Gives the guest its turn. It ends by an exit, posted to the exchange under `id`.
  int resume();
  // How the guest's last turn ended: 0 (an exit of KVM's), an error, STOPPED or EXTERNAL.
  int outcome() const { return result_.load(); }
  // The 8259's interrupt line: while it is up, turns end by EXTERNAL as soon as interrupt() would be taken.
  void external(bool asserted);
  // Ends the guest's turn soon. Any thread.
  void stop();

 private:
  friend class Vm;
  static void* threadMain(void* vcpu);
  int enter();
  int tscOffset(unsigned long request, uint64_t* value);
  void kickThread();
  // Waits until the thread has ended; false if it does not within the time.
  bool endThread(int64_t ns);
  Vcpu(int fd, RunPage* page, Vm* vm);
  ~Vcpu() override;
  int fd_;
  RunPage* page_;
  Vm* vm_;
  Vcpu* next_ = nullptr;
  uint32_t id_ = 0;
  pthread_t thread_{};
  std::atomic<int> tid_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> external_{false};
  Signal changed_;
  // Under the exchange's mutex. guest_ is also read by the owner, who alone sets it.
  bool threaded_ = false;
  std::atomic<bool> guest_{false};
  bool quit_ = false;
  bool ended_ = false;
  std::atomic<int> result_{0};
};

}  // namespace hyve

#endif
