import Bytes
import TestSupport
import Testing

@Suite struct BitmapTests {
    private static let orders: [BitOrder] = [.lowestFirst, .highestFirst]

    /// The same question, answered one bit at a time.
    private func slowRun(_ bytes: [UInt8], from start: Int, to end: Int, order: BitOrder) -> BitRun {
        func bit(_ index: Int) -> Bool {
            let place = order == .lowestFirst ? index % 8 : 7 - index % 8
            return bytes[index / 8] & UInt8(1 << place) != 0
        }
        guard start < end else { return BitRun(isSet: false, length: 0) }
        var length = 1
        while start + length < end, bit(start + length) == bit(start) { length += 1 }
        return BitRun(isSet: bit(start), length: length)
    }

    private func run(_ bytes: [UInt8], from start: Int, to end: Int, order: BitOrder) -> BitRun {
        bytes.withUnsafeBytes { Bitmap.run($0, from: start, to: end, order: order) }
    }

    @Test func highestBitComesFirst() {
        #expect(run([0x80, 0], from: 0, to: 16, order: .highestFirst) == BitRun(isSet: true, length: 1))
        #expect(run([0x80, 0], from: 1, to: 16, order: .highestFirst) == BitRun(isSet: false, length: 15))
    }

    @Test func lowestBitComesFirst() {
        #expect(run([0x01, 0], from: 0, to: 16, order: .lowestFirst) == BitRun(isSet: true, length: 1))
        #expect(run([0x01, 0], from: 1, to: 16, order: .lowestFirst) == BitRun(isSet: false, length: 15))
    }

    @Test(arguments: orders) func endCutsTheRun(order: BitOrder) {
        let full = [UInt8](repeating: 0xFF, count: 40)
        #expect(run(full, from: 3, to: 318, order: order) == BitRun(isSet: true, length: 315))
        #expect(run(full, from: 3, to: 4, order: order) == BitRun(isSet: true, length: 1))
        #expect(run(full, from: 4, to: 4, order: order) == BitRun(isSet: false, length: 0))
    }

    @Test(arguments: orders) func agreesWithBitByBit(order: BitOrder) {
        var random = SeededRandom(seed: 0xB17)
        for _ in 0..<3000 {
            let count = Int.random(in: 1...40, using: &random)
            // Long runs with single bits off are what real maps look like.
            let fill: UInt8 = Bool.random(using: &random) ? 0xFF : 0
            var bytes = [UInt8](repeating: fill, count: count)
            for _ in 0..<Int.random(in: 0...3, using: &random) {
                bytes[Int.random(in: 0..<count, using: &random)] ^= UInt8(1 << Int.random(in: 0...7, using: &random))
            }
            let start = Int.random(in: 0..<(count * 8), using: &random)
            let end = Int.random(in: start...(count * 8), using: &random)
            #expect(
                run(bytes, from: start, to: end, order: order) == slowRun(bytes, from: start, to: end, order: order),
                "bytes \(bytes), bits \(start)..<\(end)")
        }
    }
}
