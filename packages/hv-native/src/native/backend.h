// What the Node-API face (addon.cc) asks of a platform's engine. One file implements it per platform: kvm.cc on Linux.
// Results are 0 or more, or a negative errno; nothing here knows JavaScript.
#ifndef HYVE_BACKEND_H
#define HYVE_BACKEND_H

#include <atomic>
#include <cstddef>
#include <cstdint>

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
  int supportedCpuid(uint32_t* words, uint32_t rows) const;
  int fd() const { return fd_; }

 private:
  explicit System(int fd) : fd_(fd) {}
  ~System() override { close(); }
  int fd_;
};

class Vcpu;

// A virtual machine.
class Vm final : public Shared {
 public:
  static int create(System* system, Vm** out);
  bool closed() const { return fd_ < 0; }
  // Lets go of the VM and of its vCPUs.
  void close();
  int enableCap(uint32_t cap, uint64_t arg);
  // The bytes stay the caller's, who keeps them until the VM is closed.
  int setMemory(uint32_t slot, uint32_t flags, uint64_t base, uint64_t size, void* host);
  // Guest accesses to all other MSRs leave the engine.
  int keepMsrs(const uint32_t* indices, size_t count);
  int fd() const { return fd_; }

 private:
  friend class Vcpu;
  explicit Vm(int fd) : fd_(fd) {}
  ~Vm() override { close(); }
  int fd_;
  Vcpu* first_ = nullptr;
};

// Parts of a vCPU's state; the bytes are the kernel's structures.
enum class Part : uint32_t { Regs, Sregs, Xsave, Xcrs, DebugRegs, Events, Msrs, Cpuid, Translate, TscKhz, GuestDebug, Count };

// One virtual CPU. Used on one thread at a time.
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

 private:
  friend class Vm;
  Vcpu(int fd, RunPage* page, Vm* vm);
  ~Vcpu() override;
  int fd_;
  RunPage* page_;
  Vm* vm_;
  Vcpu* next_ = nullptr;
};

}  // namespace hyve

#endif
