internal import Bytes
@testable internal import Disk
internal import Formats
internal import Glibc
internal import Logging
internal import Storage
internal import TestSupport

/// A layer made for a test: units of one size, each data, zeros, a hole or encoded, as a list says.
final class ModelDriver: FormatDriver {
    enum Unit {
        case data, zero, hole, encoded
    }

    let shape: DiskShape
    let files: [any Storage]
    let parent: ParentReference? = nil
    var decoder: (any BlockDecoder)? { XorDecoder(unitBytes: unitBytes) }

    private let units: [Unit]
    private let unitBytes: Int

    /// The unit at index i is stored at i × `unitBytes` of `file`.
    init(units: [Unit], unitBytes: Int, size: UInt64, file: any Storage) {
        self.units = units
        self.unitBytes = unitBytes
        files = [file]
        shape = DiskShape(
            virtualSize: size, allocationUnit: UInt64(unitBytes), formatName: "model", subformat: "model")
    }

    func map(_ detail: MapDetail, into runs: inout ExtentList) throws(ImageError) {
        while !runs.remaining.isEmpty {
            let position = runs.remaining.lower
            let unit = Int(position) / unitBytes
            let skip = Int(position) % unitBytes
            let start = HostOffset(UInt64(unit * unitBytes))
            let place: Extent.Place =
                switch units[unit] {
                case .data: .data(file: .image, offset: HostOffset(position))
                case .zero: .zero
                case .hole: .hole
                case .encoded: .encoded(file: .image, offset: start, length: UInt32(unitBytes), skip: UInt32(skip))
                }
            guard runs.append(place, length: UInt64(unitBytes - skip)) else { return }
        }
    }
}

/// "Decodes" by inverting every byte.
struct XorDecoder: BlockDecoder {
    let unitBytes: Int

    func decode(
        _ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer
    ) throws(ImageError) {
        guard input.count == output.count else { throw ImageError(.corrupt, "the unit is cut off") }
        for index in 0..<input.count { output[index] = ~input[index] }
    }
}

/// A chain of random layers, and what it must read as.
struct ModelChain {
    let disk: Disk
    let content: [UInt8]
    let files: [FaultStorage]

    /// Layers of the given sizes, the topmost first; the same seed makes the same chain.
    init(
        sizes: [Int], unitBytes: Int = 1024, encoded: Bool, seed: UInt64, in scratch: TemporaryDirectory,
        options: DiskOptions = .quiet
    ) throws {
        var random = SeededRandom(seed: seed)
        var content: [UInt8] = []
        var layers: [Layer] = []
        var files: [FaultStorage] = []
        for (depth, size) in sizes.enumerated().reversed() {
            let count = (size + unitBytes - 1) / unitBytes
            let stored = random.bytes(count * unitBytes)
            let kinds: [ModelDriver.Unit] = encoded ? [.data, .zero, .hole, .hole, .encoded] : [.data, .zero, .hole]
            let units = (0..<count).map { _ in kinds[Int.random(in: 0..<kinds.count, using: &random)] }
            // What lies below shows through holes, and zeros beyond its end.
            var shown = Array(content.prefix(size)) + [UInt8](repeating: 0, count: max(0, size - content.count))
            for (index, unit) in units.enumerated() where unit != .hole {
                for position in (index * unitBytes)..<min(size, (index + 1) * unitBytes) {
                    shown[position] = unit == .zero ? 0 : unit == .data ? stored[position] : ~stored[position]
                }
            }
            content = shown
            let path = try scratch.write(stored, to: "layer\(depth)-\(seed)")
            let file = FaultStorage(try FileStorage(path: path))
            files.insert(file, at: 0)
            let driver = ModelDriver(units: units, unitBytes: unitBytes, size: UInt64(size), file: file)
            layers.insert(Layer(path: path, driver: driver, firstFile: UInt16(depth)), at: 0)
        }
        self.content = content
        self.files = files
        let open = OpenFiles(
            files, decoded: DecodeCache(limitBytes: 64 * unitBytes), reporter: FailureReporter(options.log))
        disk = Disk(name: "model", layers: layers, window: ByteRange(0, to: UInt64(sizes[0])), open: open)
    }
}
