import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// `checkFormatDriver` on every driver there is, on images made here, by qemu-img, and by other software.
@Suite struct ConformanceTests {
    @Test(arguments: [0, 1, 511, 4096, 100_000, 3_000_001] as [UInt64])
    func rawDisk(size: UInt64) throws {
        let storage = SparseMemoryStorage(size: size)
        var random = SeededRandom(seed: size)
        for offset in stride(from: 70_000, to: size, by: 300_000) {
            storage.patch(random.bytes(Int(min(5000, size - offset))), at: offset)
        }
        let driver = try Raw.open(OpenRequest(storage: storage, companions: NoCompanions()))
        try checkFormatDriver(driver, expected: ExpectedDisk(raw: storage))
    }

    @Test func rawDiskAsLargeAsAFileCanBe() throws {
        let storage = SparseMemoryStorage(size: UInt64(Int64.max))
        storage.patch([1, 2, 3], at: 1 << 50)
        let driver = try Raw.open(OpenRequest(storage: storage, companions: NoCompanions()))
        try checkFormatDriver(driver, expected: ExpectedDisk(raw: storage))
    }

    @Test(
        .enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"),
        arguments: SharedImages.images(.equal).filter { $0.name != "gen-luks.qcow2" })
    func sharedImage(image: SharedImage) throws {
        let reader = try TestChain.open(image.path())
        try checkFormatDriver(reader.driver, parent: reader.parent)
    }
}

/// That `checkFormatDriver` sees what it is there to see.
@Suite struct DriverCheckTests {
    @Test(arguments: BrokenDriver.Fault.allCases)
    func notices(fault: BrokenDriver.Fault) {
        var bytes = [UInt8](repeating: 7, count: 1 << 20)
        bytes.replaceSubrange(0..<4096, with: repeatElement(0, count: 4096))
        #expect(throws: ContractViolation.self, "\(fault)") {
            try checkFormatDriver(BrokenDriver(MemoryStorage(bytes), fault), expected: ExpectedDisk(bytes))
        }
    }

    @Test func acceptsTheSameDriverWithoutAFault() throws {
        let bytes = [UInt8](repeating: 7, count: 1 << 20)
        try checkFormatDriver(BrokenDriver(MemoryStorage(bytes), nil), expected: ExpectedDisk(bytes))
    }
}

/// A raw disk whose driver breaks one rule.
final class BrokenDriver: FormatDriver {
    enum Fault: CaseIterable, Sendable {
        case nothingMapped, pastTheFile, wrongOffset, dependsOnTheQuestion, allocationDiffers, noSuchFile
        case encodedWithoutDecoder, reserves
    }

    let shape: DiskShape
    let files: [any Storage]
    let parent: ParentReference? = nil
    private let fault: Fault?

    init(_ storage: any Storage, _ fault: Fault?) {
        files = [storage]
        self.fault = fault
        shape = DiskShape(
            virtualSize: storage.size + (fault == .pastTheFile ? 1 : 0), allocationUnit: 4096, formatName: "broken",
            subformat: "raw")
    }

    func map(_ detail: MapDetail, into runs: inout ExtentList) throws(ImageError) {
        let offset = HostOffset(runs.remaining.lower)
        let length = runs.remaining.length
        switch fault {
        case .nothingMapped: break
        case .wrongOffset where offset.rawValue == 0 && length > 512:
            runs.append(.data(file: .image, offset: HostOffset(4096)), length: 512)
        case .dependsOnTheQuestion where length == 513: runs.append(.zero, length: length)
        case .allocationDiffers where detail == .allocation: runs.append(.zero, length: length)
        case .noSuchFile: runs.append(.data(file: FileSlot(rawValue: 1), offset: offset), length: length)
        case .encodedWithoutDecoder:
            runs.append(.encoded(file: .image, offset: HostOffset(0), length: 10, skip: 0), length: length)
        default: runs.append(.data(file: .image, offset: offset), length: length)
        }
    }

    func reserve(_ range: ByteRange) throws(ImageError) -> WritePlan {
        guard fault == .reserves else { throw .openForReading }
        return WritePlan(range: range, runs: ExtentList(for: range), fills: [], token: 0)
    }
}
