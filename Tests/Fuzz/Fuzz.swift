import Bytes
import Formats
import Glibc
import Storage
import TestSupport

/// What is fuzzed, by the name in PLATTER_FUZZ_TARGET.
enum FuzzTarget: String {
    case vhd, vhdx, vhdxlog, qcow2, qcow1
    /// Checks an image and repairs it.
    case vhdcheck, vhdxcheck, qcow2check
    /// Opens an image for writing, and writes.
    case vhdwrite, vhdxwrite, qcow2write
    /// Finds the format, and asks for the size as a listing does.
    case detect
    /// Finds the format and then does everything that can be done with an image.
    case image
    /// No fuzzing: writes the packed form of each input into the directory PLATTER_FUZZ_OUT.
    case pack

    static let chosen: FuzzTarget = {
        guard let name = getenv("PLATTER_FUZZ_TARGET").map({ String(cString: $0) }),
            let target = FuzzTarget(rawValue: name)
        else { preconditionFailure("PLATTER_FUZZ_TARGET names no target") }
        return target
    }()

    /// The format that the target opens without looking at the content first.
    var format: (any ImageFormat.Type)? {
        switch self {
        case .vhd, .vhdcheck, .vhdwrite: VHD.self
        case .vhdx, .vhdxlog, .vhdxcheck, .vhdxwrite: VHDX.self
        case .qcow2, .qcow2check, .qcow2write: QCOW2.self
        case .qcow1: QCOW1.self
        case .detect, .image, .pack: nil
        }
    }
}

/// What libFuzzer calls with every input. An error thrown is a good answer; a trap, a hang or much memory is a find.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = UnsafeRawBufferPointer(start: data, count: count)
    if FuzzTarget.chosen == .pack {
        writePacked(input)
        return 0
    }
    let (storage, flags) = PackedImage.unpack(input)
    if flags & PackedImage.repairsChecksums != 0 { Checksums.repair(storage) }
    do {
        switch FuzzTarget.chosen {
        case .vhdcheck: try exerciseCheck(storage, VHD.self) { try exercise($0) }
        case .vhdxcheck: try exerciseCheck(storage, VHDX.self) { try exercise($0) }
        case .qcow2check: try exerciseCheck(storage, QCOW2.self) { try exercise($0) }
        // The seed comes from the input, so that a find can be repeated.
        case .vhdwrite: try exerciseWriting(storage, VHD.self, seed: UInt64(count))
        case .vhdxwrite: try exerciseWriting(storage, VHDX.self, seed: UInt64(count))
        case .qcow2write: try exerciseWriting(storage, QCOW2.self, seed: UInt64(count))
        default: try exercise(storage, FuzzTarget.chosen)
        }
    } catch let error as ImageError {
        // The message is built as well: it must not trap either.
        precondition(!"\(error)".isEmpty)
    } catch {
        fatalError("\(error)")
    }
    return 0
}

private func exercise(_ storage: any Storage, _ target: FuzzTarget) throws {
    let options = FormatOptions(vhdSize: .current, cacheBytes: 256 << 10)
    let format = try target.format ?? Registry.detect(storage)
    let size = try format.virtualSize(of: storage, options: options)
    guard target != .detect else { return }
    let driver = try format.open(OpenRequest(storage: storage, companions: AnyDataFile(), options: options))
    try ContractViolation.check(driver.shape.virtualSize == size, "open and virtualSize differ about the size")
    try exercise(driver)
    for index in driver.snapshots.indices.prefix(4) {
        do { try exercise(try driver.openSnapshot(index)) } catch _ as ImageError {}
    }
    _ = driver.shape.facts.map { "\($0.key) \($0.value)" } + driver.shape.remarks
    _ = driver.parent?.paths
}

/// Maps the disk from its start and at some places further on, and reads a part of what it finds.
private func exercise(_ driver: any FormatDriver) throws {
    let size = driver.shape.virtualSize
    let reader = DriverReader(driver)
    var failure: (any Error)?
    for detail in [MapDetail.placement, .allocation] {
        for start in [0, size / 3, size - min(size, 70_000)] {
            var position = start
            var steps = 0
            while position < size, steps < 64 {
                steps += 1
                do {
                    position += try checkedMap(driver, ByteRange(position, to: size), detail)
                } catch let error as ImageError {
                    failure = error
                    position += driver.shape.allocationUnit
                }
            }
            let part = ByteRange(start, to: start + min(size - start, 128 << 10))
            do { try reader.forEachPiece(in: part) { _ in } } catch let error as ImageError { failure = error }
        }
    }
    if let failure { throw failure }
}

/// One answer, which has to keep the contract whatever the image says; returns how far it goes.
private func checkedMap(_ driver: any FormatDriver, _ range: ByteRange, _ detail: MapDetail) throws -> UInt64 {
    var runs = ExtentList(for: range)
    try driver.map(detail, into: &runs)
    try ContractViolation.check(runs.count > 0, "no run for \(range)")
    for index in 0..<runs.count {
        switch runs[index].place {
        case .zero, .hole: break
        case .data(let slot, let offset):
            let file = driver.files[Int(slot.rawValue)]
            try ContractViolation.check(file.holds(offset, count: runs[index].length), "a run leaves its file")
        case .encoded(let slot, let offset, let length, let skip):
            let file = driver.files[Int(slot.rawValue)]
            let unit = UInt64(driver.decoder?.unitBytes ?? 0)
            try ContractViolation.check(length > 0 && offset.rawValue < file.size, "an encoded run leaves its file")
            try ContractViolation.check(UInt64(skip) + runs[index].length <= unit, "a run is longer than its unit")
        }
    }
    return runs.covered
}

/// A data file of 1 MiB under every name.
private struct AnyDataFile: CompanionOpener {
    func openDataFile(_ name: String) throws(ImageError) -> any Storage {
        SparseMemoryStorage(size: 1 << 20, name: name)
    }
}

private func writePacked(_ input: UnsafeRawBufferPointer) {
    guard input.count > 0, let directory = getenv("PLATTER_FUZZ_OUT").map({ String(cString: $0) }) else { return }
    for flags in [0, PackedImage.repairsChecksums] {
        let packed = PackedImage.pack(input, flags: flags)
        do { try HostFiles.write(packed, to: "\(directory)/\(SHA256.of(packed))") } catch { fatalError("\(error)") }
    }
}
