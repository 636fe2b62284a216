internal import Storage
internal import Synchronization

/// The promise that no host space is given out again while bytes of it are on their way.
package struct Lease: BitwiseCopyable, Sendable {
    /// Which of the two counters holds it; nil for the lease of a disk that nobody writes.
    let isOdd: Bool?

    static var none: Lease { Lease(isOdd: nil) }
}

/// Who moves bytes right now, in two groups: those of this epoch and those of the one before.
///
/// Every transfer holds a lease from asking where the bytes are until the last of them has moved. Space that was dropped in
/// epoch E may be given out again once epoch E + 2 has begun: an epoch begins only when no lease is left of the one
/// before the last, so nobody who may have seen the space in use is left then. Beginning and ending cost an atomic
/// addition each, and nobody waits in them.
final class Leases: Sendable {
    private let epoch = Atomic<UInt64>(0)
    private let even = Atomic<Int>(0)
    private let odd = Atomic<Int>(0)
    private let waiters = Atomic<Int>(0)
    private let ended = Monitor(())

    /// The epoch of now: what is dropped before this is asked may be given out when `isOver` says so of the answer.
    var now: UInt64 { epoch.load(ordering: .sequentiallyConsistent) }

    func begin() -> Lease {
        while true {
            let epoch = now
            let lease = Lease(isOdd: epoch & 1 == 1)
            add(1, to: lease)
            // Counted in an epoch that went on meanwhile, the lease would be overlooked.
            if now == epoch { return lease }
            end(lease)
        }
    }

    func end(_ lease: Lease) {
        add(-1, to: lease)
        if waiters.load(ordering: .sequentiallyConsistent) > 0 { ended.change { _ in true } }
    }

    /// Whether every lease that began before `now` answered `epoch` has ended.
    func isOver(_ epoch: UInt64) -> Bool {
        for _ in 0..<2 where now < epoch &+ 2 { advance() }
        return now >= epoch &+ 2
    }

    /// Waits until `isOver(epoch)`. Whoever calls this holds no lease, no plan and no gate.
    func wait(for epoch: UInt64) {
        waiters.wrappingAdd(1, ordering: .sequentiallyConsistent)
        _ = ended.wait { _ -> Bool? in isOver(epoch) ? true : nil }
        waiters.wrappingSubtract(1, ordering: .sequentiallyConsistent)
    }

    /// Begins the next epoch, unless leases are left of the one before this.
    private func advance() {
        let current = now
        let left =
            current & 1 == 1
            ? even.load(ordering: .sequentiallyConsistent) : odd.load(ordering: .sequentiallyConsistent)
        guard left == 0 else { return }
        _ = epoch.compareExchange(expected: current, desired: current &+ 1, ordering: .sequentiallyConsistent)
    }

    private func add(_ count: Int, to lease: Lease) {
        switch lease.isOdd {
        case true?: odd.wrappingAdd(count, ordering: .sequentiallyConsistent)
        case false?: even.wrappingAdd(count, ordering: .sequentiallyConsistent)
        case nil: break
        }
    }
}
