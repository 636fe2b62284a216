internal import Glibc

/// The index of the first byte that two arrays do not share, the end of the shorter one included; nil where they are
/// equal. Comparing arrays with `==` goes byte by byte in a debug build, which is most of the time of a large test.
package func firstDifference(_ left: [UInt8], _ right: [UInt8]) -> Int? {
    let count = min(left.count, right.count)
    let isSame = left.withUnsafeBytes { left in
        right.withUnsafeBytes { right in
            guard let first = left.baseAddress, let second = right.baseAddress else { return true }
            return memcmp(first, second, count) == 0
        }
    }
    if isSame { return left.count == right.count ? nil : count }
    return (0..<count).first { left[$0] != right[$0] }
}

/// Whether two buffers of one length hold the same.
package func areEqual(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
    guard left.count == right.count else { return false }
    guard let first = left.baseAddress, let second = right.baseAddress else { return true }
    return memcmp(first, second, left.count) == 0
}
