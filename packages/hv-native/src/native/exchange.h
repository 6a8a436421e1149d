// Where vCPUs with threads of their own meet the one thread that owns the devices. A vCPU's turn is the guest's (its thread
// is in the kernel) or the host's (it has posted an exit, or was stopped). Doorbells come the same way. No JavaScript here.
#ifndef HYVE_EXCHANGE_H
#define HYVE_EXCHANGE_H

#include <atomic>
#include <cstdint>
#include <ctime>

#include <pthread.h>

namespace hyve {

class Lock {
 public:
  explicit Lock(pthread_mutex_t* m) : m_(m) { pthread_mutex_lock(m_); }
  ~Lock() { pthread_mutex_unlock(m_); }
  Lock(const Lock&) = delete;

 private:
  pthread_mutex_t* m_;
};

inline int64_t monotonicNs() {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1000000000 + t.tv_nsec;
}

// A condition with waits that end after a time.
class Signal {
 public:
  Signal() {
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&c_, &a);
    pthread_condattr_destroy(&a);
  }
  ~Signal() { pthread_cond_destroy(&c_); }
  void all() { pthread_cond_broadcast(&c_); }
  void wait(pthread_mutex_t* m) { pthread_cond_wait(&c_, m); }
  // False once the time has come.
  bool waitUntil(pthread_mutex_t* m, int64_t ns) {
    struct timespec t;
    t.tv_sec = static_cast<time_t>(ns / 1000000000);
    t.tv_nsec = static_cast<long>(ns % 1000000000);
    return pthread_cond_timedwait(&c_, m, &t) == 0;
  }

 private:
  pthread_cond_t c_;
};

class Exchange {
 public:
  static constexpr uint32_t VCPUS = 256;
  static constexpr uint32_t BELLS = 256;

  Exchange() { pthread_mutex_init(&mutex_, nullptr); }
  ~Exchange() { pthread_mutex_destroy(&mutex_); }

  pthread_mutex_t* mutex() { return &mutex_; }

  // Who is told that there is something to fetch; called under the mutex, by any thread. Null: nobody.
  void listen(void (*wake)(void*), void* argument) {
    Lock lock(&mutex_);
    wake_ = wake;
    argument_ = argument;
    told_ = false;
  }

  // Posts number `n`: a vCPU's, or VCPUS + a doorbell's. Under the mutex.
  void post(uint32_t n) {
    const uint64_t bit = uint64_t{1} << (n & 63);
    if ((words_[n >> 6] & bit) == 0) {
      words_[n >> 6] |= bit;
      count_.fetch_add(1, std::memory_order_release);
    }
    if (told_ || fetching_) return;
    told_ = true;
    if (wake_ != nullptr) wake_(argument_);
  }

  // Forgets number `n`. Under the mutex.
  void forget(uint32_t n) {
    const uint64_t bit = uint64_t{1} << (n & 63);
    if ((words_[n >> 6] & bit) == 0) return;
    words_[n >> 6] &= ~bit;
    count_.fetch_sub(1, std::memory_order_release);
  }

  // The next number that was posted, in rotation; looks again for `ns`, then gives -1 and listeners are told of the next.
  int next(int64_t ns) {
    for (;;) {
      {
        Lock lock(&mutex_);
        fetching_ = ns > 0;
        for (uint32_t i = 0; count_.load(std::memory_order_relaxed) != 0 && i <= WORDS; i++) {
          const uint32_t w = ((from_ >> 6) + i) % WORDS;
          uint64_t bits = words_[w];
          if (i == 0) bits &= ~uint64_t{0} << (from_ & 63);
          if (bits == 0) continue;
          const uint32_t n = w * 64 + static_cast<uint32_t>(__builtin_ctzll(bits));
          words_[w] &= ~(uint64_t{1} << (n & 63));
          count_.fetch_sub(1, std::memory_order_relaxed);
          from_ = (n + 1) % (WORDS * 64);
          return static_cast<int>(n);
        }
        if (ns <= 0) {
          fetching_ = false;
          told_ = false;
          return -1;
        }
      }
      const int64_t end = monotonicNs() + ns;
      while (count_.load(std::memory_order_acquire) == 0 && monotonicNs() < end) __builtin_ia32_pause();
      ns = 0;
    }
  }

 private:
  static constexpr uint32_t WORDS = (VCPUS + BELLS) / 64;
  pthread_mutex_t mutex_;
  uint64_t words_[WORDS] = {};
  std::atomic<uint32_t> count_{0};
  uint32_t from_ = 0;
  // Whether the listener has been told since it last found nothing; whether it looks at this moment.
  bool told_ = false;
  bool fetching_ = false;
  void (*wake_)(void*) = nullptr;
  void* argument_ = nullptr;
};

}  // namespace hyve

#endif
