// Swift's Mutex takes and gives back a free lock with atomics in the caller, which ThreadSanitizer instruments. Where
// threads meet it calls into libswiftSynchronization, which is not instrumented: the one thread spins there, or the kernel
// hands it the lock (FUTEX_LOCK_PI), and ThreadSanitizer does not learn that it now sees what the other one wrote.
// So these are defined here, before the library's, which they call.

#include "TSanSupport.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#if __has_feature(thread_sanitizer)
#include <sanitizer/tsan_interface.h>

bool tsan_support_is_active(void) { return true; }

// What is read from a file does not order the reader after whoever wrote there: with that, races of those who share an
// image would hide behind its file.
__attribute__((used)) const char *__tsan_default_options(void) { return "io_sync=0 exitcode=66 history_size=4"; }

#define SWIFT_METHOD __attribute__((swiftcall))
#define SELF __attribute__((swift_context))

#define LOCK_SLOW "$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF"
#define TRY_LOCK_SLOW "$s15Synchronization12_MutexHandleV12_tryLockSlowSbyF"
#define UNLOCK_SLOW "$s15Synchronization12_MutexHandleV11_unlockSlowyyF"

typedef SWIFT_METHOD void lock_method(uint32_t thread, SELF void *mutex);
typedef SWIFT_METHOD bool try_lock_method(SELF void *mutex);
typedef SWIFT_METHOD void unlock_method(SELF void *mutex);

// _MutexHandle._lockSlow(_:), _tryLockSlow() and _unlockSlow(). The mutex is its word in memory, so what is said here of
// its address goes with what ThreadSanitizer knows of the atomics on it.
SWIFT_METHOD void lock_slow(uint32_t thread, SELF void *mutex) __asm__(LOCK_SLOW);
SWIFT_METHOD bool try_lock_slow(SELF void *mutex) __asm__(TRY_LOCK_SLOW);
SWIFT_METHOD void unlock_slow(SELF void *mutex) __asm__(UNLOCK_SLOW);

static lock_method *next_lock_slow;
static try_lock_method *next_try_lock_slow;
static unlock_method *next_unlock_slow;

// Before any thread there may be.
__attribute__((constructor)) static void find_library(void) {
    next_lock_slow = (lock_method *)dlsym(RTLD_NEXT, LOCK_SLOW);
    next_try_lock_slow = (try_lock_method *)dlsym(RTLD_NEXT, TRY_LOCK_SLOW);
    next_unlock_slow = (unlock_method *)dlsym(RTLD_NEXT, UNLOCK_SLOW);
    if (next_lock_slow && next_try_lock_slow && next_unlock_slow) return;
    fputs("this Swift's Mutex has other functions than Tests/TSanSupport knows\n", stderr);
    abort();
}

SWIFT_METHOD void lock_slow(uint32_t thread, SELF void *mutex) {
    next_lock_slow(thread, mutex);
    __tsan_acquire(mutex);
}

SWIFT_METHOD bool try_lock_slow(SELF void *mutex) {
    bool isLocked = next_try_lock_slow(mutex);
    if (isLocked) __tsan_acquire(mutex);
    return isLocked;
}

SWIFT_METHOD void unlock_slow(SELF void *mutex) {
    __tsan_release(mutex);
    next_unlock_slow(mutex);
}

#else

bool tsan_support_is_active(void) { return false; }

#endif
