import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// What `VHDX.create` makes, judged by QEMU, by the reader, and by the check.
@Suite struct VHDXCreateTests {
    private static let mib: UInt64 = 1 << 20

    /// Makes an image at `path`; returns its file, open for reading.
    @discardableResult
    static func create(
        _ path: String, size: UInt64, _ options: [String: String] = [:], parent: CreateRequest.Parent? = nil
    ) throws -> FileStorage {
        try HostFiles.write([], to: path)
        let storage = try FileStorage(path: path, isWritable: true)
        defer { storage.close() }
        try VHDX.create(
            CreateRequest(storage: storage, virtualSize: size, options: options, parent: parent))
        return try FileStorage(path: path)
    }

    /// The image at `path` as the parent of a child in the same directory.
    static func parent(_ path: String, recorded: String? = nil) throws -> CreateRequest.Parent {
        let storage = try FileStorage(path: path)
        let driver = try VHDX.open(OpenRequest(storage: storage, companions: NoCompanions()))
        let name = String(path.split(separator: "/").last ?? "")
        return CreateRequest.Parent(
            absolutePath: path, recordedPath: recorded ?? name, shape: driver.shape, modified: 0, storage: storage)
    }

    static func open(_ storage: any Storage) throws -> any FormatDriver {
        try VHDX.open(OpenRequest(storage: storage, companions: NoCompanions()))
    }

    private func refusal(
        size: UInt64, _ options: [String: String], parent: CreateRequest.Parent? = nil
    ) throws -> ImageError.Kind? {
        let directory = try TemporaryDirectory("create")
        do {
            _ = try Self.create(directory.file("new.vhdx"), size: size, options, parent: parent)
            return nil
        } catch let error as ImageError {
            #expect(try HostFiles.read(directory.file("new.vhdx")).isEmpty, "the file was written")
            return error.kind
        }
    }

    // MARK: - Our own reader

    @Test func newDynamicDiskIsAllHolesAndClean() throws {
        let directory = try TemporaryDirectory("create")
        let storage = try Self.create(directory.file("new.vhdx"), size: 5 << 30)
        let driver = try Self.open(storage)
        #expect(driver.shape.virtualSize == 5 << 30)
        #expect(driver.shape.allocationUnit == Self.mib)
        #expect(driver.shape.subformat == "dynamic")
        #expect(driver.shape.logicalSectorSize == 512)
        #expect(driver.shape.physicalSectorSize == 4096)
        #expect(driver.shape.fact("creator") == .text("platter"))
        #expect(driver.shape.remarks == [])
        var runs = ExtentList(for: ByteRange(0, to: 5 << 30))
        try driver.map(.allocation, into: &runs)
        #expect(runs.count == 1)
        let report = try VHDXCheckTests.check(storage)
        #expect(report.findings.isEmpty)
        #expect(report.allocatedBytes == 0)
        #expect(report.imageEnd == storage.size)
    }

    @Test(arguments: [("block_size", "2M"), ("block_size", "256M"), ("log_size", "1M"), ("log_size", "16M")])
    func sizesAreTaken(option: String, value: String) throws {
        let directory = try TemporaryDirectory("create")
        let driver = try Self.open(try Self.create(directory.file("new.vhdx"), size: 1 << 30, [option: value]))
        let bytes = try #require(UInt64(value.dropLast())) << 20
        if option == "block_size" { #expect(driver.shape.allocationUnit == bytes) }
        #expect(driver.shape.fact("logSize") == .bytes(option == "log_size" ? bytes : 4 << 20))
    }

    @Test func largestDiskHasBlocksThatKeepItsTableSmall() throws {
        let directory = try TemporaryDirectory("create")
        let storage = try Self.create(directory.file("new.vhdx"), size: 64 << 40)
        #expect(try Self.open(storage).shape.allocationUnit == 32 << 20)
        #expect(storage.size < 32 << 20)
        #expect(try VHDXCheckTests.check(storage).findings.isEmpty)
    }

    @Test func tableOfTheLargestDiskWithTheSmallestBlocksFits() throws {
        let directory = try TemporaryDirectory("create")
        let storage = try Self.create(directory.file("new.vhdx"), size: 64 << 40, ["block_size": "1M"])
        #expect(storage.size == (1 + 4 + 1 + 513) << 20)
        #expect(try Self.open(storage).shape.virtualSize == 64 << 40)
        #expect(try storage.allocatedBytes() < 1 << 20)
        #expect(try VHDXCheckTests.check(storage).findings.isEmpty)
    }

    @Test func fixedDiskIsDataFromTheStart() throws {
        let directory = try TemporaryDirectory("create")
        let size = 70 * Self.mib + 512
        let storage = try Self.create(directory.file("new.vhdx"), size: size, ["subformat": "fixed"])
        let driver = try Self.open(storage)
        #expect(driver.shape.subformat == "fixed")
        #expect(storage.size == (1 + 4 + 1 + 1 + 96) << 20)
        var runs = ExtentList(for: ByteRange(0, to: size))
        try driver.map(.placement, into: &runs)
        #expect(runs.covered == size)
        #expect(runs.count == 1)
        #expect("\(runs[0].place)" == "\(Extent.Place.data(file: .image, offset: HostOffset(7 << 20)))")
        #expect(try VHDXCheckTests.check(storage).findings.isEmpty)
    }

    @Test(arguments: ["falloc", "full"])
    func preallocationTakesTheHostsSpace(kind: String) throws {
        let directory = try TemporaryDirectory("create")
        let options = ["subformat": "fixed", "preallocation": kind]
        let storage = try Self.create(directory.file("new.vhdx"), size: 8 << 20, options)
        #expect(try storage.allocatedBytes() >= 8 << 20)
        let sparse = try Self.create(directory.file("sparse.vhdx"), size: 8 << 20, ["subformat": "fixed"])
        #expect(try sparse.allocatedBytes() < 1 << 20)
    }

    @Test func zeroStatesAreZerosAndNotHoles() throws {
        let directory = try TemporaryDirectory("create")
        let storage = try Self.create(directory.file("new.vhdx"), size: 9 << 30, ["block_state_zero": "on"])
        let driver = try Self.open(storage)
        var runs = ExtentList(for: ByteRange(0, to: 9 << 30))
        try driver.map(.placement, into: &runs)
        #expect("\(runs[0].place)" == "\(Extent.Place.zero)")
        #expect(try VHDXCheckTests.check(storage).findings.isEmpty)
    }

    // MARK: - Children

    @Test func childFindsItsParentAndShowsIt() throws {
        let directory = try TemporaryDirectory("create")
        try Self.create(directory.file("base.vhdx"), size: 8 << 20, ["subformat": "fixed"])
        let base = directory.file("base.vhdx")
        let places = try Self.open(try FileStorage(path: base))
        var runs = ExtentList(for: ByteRange(3 << 20, to: (3 << 20) + 512))
        try places.map(.placement, into: &runs)
        guard case .data(_, let offset) = runs[0].place else {
            Issue.record("a fixed disk without data")
            return
        }
        try HostFiles.patch(Array("hello".utf8), at: Int64(offset.rawValue), of: base)
        try Self.create(directory.file("child.vhdx"), size: 0, parent: try Self.parent(base))
        let disk = try Disk.open(path: directory.file("child.vhdx"), options: DiskOptions())
        #expect(disk.size == 8 << 20)
        var bytes = [UInt8](repeating: 0xA5, count: 8)
        try bytes.withUnsafeMutableBytes { try disk.read(ByteRange(3 << 20, to: (3 << 20) + 8), into: $0) }
        #expect(bytes == Array("hello".utf8) + [0, 0, 0])
        #expect(try VHDXCheckTests.check(try FileStorage(path: directory.file("child.vhdx"))).findings.isEmpty)
    }

    @Test func childOfAChildInAnotherDirectoryIsFound() throws {
        let directory = try TemporaryDirectory("create")
        try runSuccessfully("mkdir", directory.file("deep"))
        try Self.create(directory.file("deep/base.vhdx"), size: 64 << 20)
        try Self.create(
            directory.file("middle.vhdx"), size: 0,
            parent: try Self.parent(directory.file("deep/base.vhdx"), recorded: "deep/base.vhdx"))
        let reference = try #require(
            try Self.open(
                try Self.create(
                    directory.file("top.vhdx"), size: 0, parent: try Self.parent(directory.file("middle.vhdx")))
            ).parent)
        #expect(reference.paths.map(\.base) == [.image, .windows])
        #expect(reference.paths.map(\.text) == ["./middle.vhdx", directory.file("middle.vhdx")])
        #expect(try Disk.open(path: directory.file("top.vhdx"), options: DiskOptions()).size == 64 << 20)
    }

    @Test func identityOfTheDiskIsCarriedOverAndThatOfTheFileIsNot() throws {
        let directory = try TemporaryDirectory("create")
        let base = try Self.create(directory.file("base.vhdx"), size: 8 << 20)
        let child = try Self.create(
            directory.file("child.vhdx"), size: 0, parent: try Self.parent(directory.file("base.vhdx")))
        func fact(_ key: String, _ storage: any Storage) throws -> Fact.Value {
            try #require(try Self.open(storage).shape.fact(key))
        }
        #expect(try fact("virtualDiskId", child) == fact("virtualDiskId", base))
        #expect(try fact("dataWriteGuid", child) != fact("dataWriteGuid", base))
        #expect(try Self.open(child).parent?.identities == [try #require(try Self.open(base).shape.identity)])
    }

    /// [MS-VHDX] 2.6.1.2: what belongs to the virtual disk goes with it, what belongs to the file does not.
    @Test func unknownItemsOfTheDiskAreCarriedOver() throws {
        var builder = VHDXBuilder(size: 8 << 20)
        let guid = "12345678-0000-0000-0000-00000000000"
        builder.items += [
            .init(guid: guid + "1", bytes: Array("of the disk".utf8), flags: 2),
            .init(guid: guid + "2", bytes: Array("of the file".utf8), flags: 0),
            .init(guid: guid + "3", bytes: Array("of a user, of the disk".utf8), flags: 3),
            .init(guid: guid + "4", bytes: [], flags: 2),
        ]
        let base = builder.build()
        let shape = try Self.open(base).shape
        let directory = try TemporaryDirectory("create")
        let child = try Self.create(
            directory.file("child.vhdx"), size: 16 << 20,
            parent: .init(
                absolutePath: "/images/base.vhdx", recordedPath: "base.vhdx", shape: shape, modified: 0, storage: base))
        let driver = try Self.open(child)
        #expect(driver.shape.fact("unknownMetadataItems") == .number(3))
        let bytes = try child.bytes(at: HostOffset(5 << 20), count: 1 << 20)
        let text = String(decoding: bytes, as: Unicode.ASCII.self)
        #expect(text.contains("of the disk"))
        #expect(text.contains("of a user, of the disk"))
        #expect(!text.contains("of the file"))
        #expect(try VHDXCheckTests.check(child).corruptions == 0)
    }

    // MARK: - Refusals

    @Test func sizesThatNoDiskHasAreRefused() throws {
        #expect(try refusal(size: 0, [:]) == .outOfRange)
        #expect(try refusal(size: 1000, [:]) == .outOfRange)
        #expect(try refusal(size: 512, ["logical_sector_size": "4096"]) == .outOfRange)
        #expect(try refusal(size: (64 << 40) + 512, [:]) == .outOfRange)
        #expect(try refusal(size: .max, [:]) == .outOfRange)
        #expect(try refusal(size: 512, [:]) == nil)
    }

    @Test(
        arguments: [
            ("block_size", "3M"), ("block_size", "512k"), ("block_size", "512M"), ("block_size", "big"),
            ("log_size", "1000000"), ("log_size", "2G"), ("logical_sector_size", "1024"),
            ("physical_sector_size", "8k"), ("subformat", "sparse"), ("block_state_zero", "maybe"),
            ("preallocation", "some"), ("block_size", "99999999999999999999"), ("block_size", "18446744073709551615T"),
        ])
    func valuesThatDoNotExistAreRefused(option: String, value: String) throws {
        #expect(try refusal(size: 1 << 20, [option: value]) == .outOfRange)
    }

    @Test func optionsThatDoNotGoTogetherAreRefused() throws {
        #expect(try refusal(size: 1 << 20, ["cluster_size": "64k"]) == .unsupported)
        #expect(try refusal(size: 1 << 20, ["preallocation": "full"]) == .unsupported)
        #expect(try refusal(size: 1 << 20, ["subformat": "fixed", "block_state_zero": "on"]) == .unsupported)
        #expect(
            try refusal(size: 1 << 20, ["logical_sector_size": "4096", "physical_sector_size": "512"]) == .unsupported)
        let directory = try TemporaryDirectory("create")
        try Self.create(directory.file("base.vhdx"), size: 1 << 20)
        let parent = try Self.parent(directory.file("base.vhdx"))
        #expect(try refusal(size: 0, ["subformat": "fixed"], parent: parent) == .unsupported)
        #expect(try refusal(size: 0, ["block_state_zero": "on"], parent: parent) == .unsupported)
        #expect(try refusal(size: 0, ["logical_sector_size": "4096"], parent: parent) == .unsupported)
        var other = parent
        other.shape.formatName = "qcow2"
        #expect(try refusal(size: 0, [:], parent: other) == .unsupported)
        other = parent
        other.recordedPath = "a\\b.vhdx"
        #expect(try refusal(size: 0, [:], parent: other) == .unsupported)
        other = parent
        other.recordedPath = String(repeating: "x", count: 40_000)
        #expect(try refusal(size: 0, [:], parent: other) == .unsupported)
    }

    @Test func aFileThatHoldsSomethingIsNotOverwritten() throws {
        let directory = try TemporaryDirectory("create")
        let path = try directory.write([1, 2, 3], to: "new.vhdx")
        let storage = try FileStorage(path: path, isWritable: true)
        #expect(throws: ImageError.self) { try VHDX.create(CreateRequest(storage: storage, virtualSize: 1 << 20)) }
        #expect(try HostFiles.read(path) == [1, 2, 3])
    }
}
