internal import Glibc
internal import Synchronization

/// Runs `body` on `count` threads of the system at once, with their numbers, and throws the first failure after all
/// have ended. Threads and not tasks: the callers of drivers are the threads of a FUSE session.
package func concurrently(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Void) throws {
    final class Work: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    final class Outcome: Sendable {
        let failure = Mutex<(any Error)?>(nil)
    }
    let outcome = Outcome()
    var threads: [pthread_t] = []
    for index in 0..<count {
        let work = Work {
            do { try body(index) } catch { outcome.failure.withLock { $0 = $0 ?? error } }
        }
        var thread = pthread_t()
        let context = Unmanaged.passRetained(work)
        let code = pthread_create(
            &thread, nil,
            { context in
                if let context { Unmanaged<Work>.fromOpaque(context).takeRetainedValue().body() }
                return nil
            }, context.toOpaque())
        guard code == 0 else {
            context.release()
            for thread in threads { pthread_join(thread, nil) }
            throw HostFailure("cannot start a thread", errno: code)
        }
        threads.append(thread)
    }
    for thread in threads { pthread_join(thread, nil) }
    if let failure = outcome.failure.withLock({ $0 }) { throw failure }
}

/// Seconds on a clock that only goes forward.
package func monotonicSeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}
