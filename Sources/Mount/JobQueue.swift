internal import Storage

/// What may have to wait for the kernel or for a device, done by threads that nobody else waits for.
///
/// One queue has the changes that pass by the kernel's page cache of a disk. Telling the kernel to drop pages waits for
/// requests about those pages, which only the workers answer: a worker that waited itself could be the one that the kernel
/// waits for. Another has the host begin to write out, which may take as long as a writer is busy, and commits cannot wait
/// for that. These threads hold no lock.
final class JobQueue: Sendable {
    typealias Job = @Sendable (SessionHandle) -> Void

    private struct State {
        var waiting: [Job] = []
        var isEnding = false
    }

    private let state = Monitor(State())

    /// Has a thread run `job`; returns at once.
    func push(_ job: @escaping Job) {
        state.change { state in
            state.waiting.append(job)
            return true
        }
    }

    /// Runs jobs until `end()` and until none is left; the body of each thread.
    func run(_ session: SessionHandle) {
        while let job = next() { job(session) }
    }

    private func next() -> Job? {
        state.wait { (state) -> Job?? in
            if !state.waiting.isEmpty { return state.waiting.removeFirst() }
            return state.isEnding ? .some(nil) : nil
        }
    }

    /// Lets `run` return once everything has been done.
    func end() {
        state.change { state in
            state.isEnding = true
            return true
        }
    }
}
