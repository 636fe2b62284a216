import Bytes
import Formats
import Storage

/// No companion files: a VHDX names none.
struct NoCompanions: CompanionOpener {
    func openDataFile(_ name: String) throws(ImageError) -> any Storage {
        throw ImageError(.missing, "a VHDX has no data file")
    }
}

/// Reads a disk through `map`, a chain included, with none of `Disk`'s code.
struct VHDXReader {
    /// The layers from the top down.
    let layers: [any FormatDriver]

    init(_ layers: [any FormatDriver]) { self.layers = layers }

    var size: UInt64 { layers[0].shape.virtualSize }

    /// The bytes of `range`, which lies within the top disk.
    func bytes(_ range: ByteRange) throws(ImageError) -> [UInt8] {
        var result: [UInt8] = []
        try visit(range) { (chunk: [UInt8]) in result += chunk }
        return result
    }

    /// Hands the bytes of `range` on in order, in chunks of at most `step` bytes.
    func visit(
        _ range: ByteRange, step: UInt64 = 1 << 20, _ body: ([UInt8]) -> Void
    ) throws(ImageError) {
        try visit(range, layer: 0, step, body)
    }

    private func visit(
        _ range: ByteRange, layer: Int, _ step: UInt64, _ body: ([UInt8]) -> Void
    ) throws(ImageError) {
        var left = range
        while !left.isEmpty {
            guard layer < layers.count, left.lower < layers[layer].shape.virtualSize else {
                return Self.zeros(left.length, step, body)
            }
            let driver = layers[layer]
            var runs = ExtentList(for: left.clipped(to: driver.shape.virtualSize))
            try driver.map(.placement, into: &runs)
            guard runs.count > 0 else { throw ImageError(.io, "a map without a run") }
            var position = left.lower
            for index in 0..<runs.count {
                let run = runs[index]
                let part = ByteRange(position, to: position + run.length)
                switch run.place {
                case .zero: Self.zeros(run.length, step, body)
                case .hole: try visit(part, layer: layer + 1, step, body)
                case .encoded: throw ImageError(.unsupported, "a VHDX has no encoded runs")
                case .data(let file, let offset):
                    var done: UInt64 = 0
                    while done < run.length {
                        let count = min(step, run.length - done)
                        let place = HostOffset(offset.rawValue + done)
                        body(try driver.files[Int(file.rawValue)].bytes(at: place, count: Int(count)))
                        done += count
                    }
                }
                position += run.length
            }
            left = left.dropping(first: runs.covered)
        }
    }

    private static func zeros(_ length: UInt64, _ step: UInt64, _ body: ([UInt8]) -> Void) {
        let chunk = [UInt8](repeating: 0, count: Int(min(step, length)))
        var done: UInt64 = 0
        while done < length {
            let count = min(step, length - done)
            body(count == UInt64(chunk.count) ? chunk : Array(chunk.prefix(Int(count))))
            done += count
        }
    }
}
