internal import Bytes
internal import Storage

/// Lets one plan or release at a time into an allocation unit.
///
/// A thread is inside with one range at most, and inside it waits for no other thread; so nobody waits in a circle.
final class RangeGate: Sendable {
    private let unit: UInt64
    private let inside = Monitor<[ByteRange]>([])

    /// A gate for units of `unit` bytes, a power of two.
    init(unit: UInt64) { self.unit = unit }

    /// The units that `range` touches, as one range.
    func units(of range: ByteRange) -> ByteRange {
        ByteRange(range.lower & ~(unit - 1), to: range.upper.roundedUp(toPowerOfTwo: unit) ?? .max)
    }

    /// Waits until nobody is in any of the units of `range`, and takes them. The answer is for `leave`.
    func enter(_ range: ByteRange) -> ByteRange {
        let wanted = units(of: range)
        return inside.wait { inside in
            guard !inside.contains(where: { $0.lower < wanted.upper && wanted.lower < $0.upper }) else { return nil }
            inside.append(wanted)
            return wanted
        }
    }

    /// Gives back what `enter` answered.
    func leave(_ range: ByteRange) {
        inside.change { inside in
            if let index = inside.firstIndex(of: range) { inside.remove(at: index) }
            return true
        }
    }
}
