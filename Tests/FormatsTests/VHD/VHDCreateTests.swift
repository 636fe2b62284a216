import Bytes
import Formats
import Storage
import TestSupport
import Testing

struct VHDCreateTests {
    @Test(arguments: ["dynamic", "fixed"], [512, 40_960, (5 << 20) + 512, 3 << 30] as [UInt64])
    func sizeIsExact(subformat: String, size: UInt64) throws {
        guard subformat == "dynamic" || size < 1 << 30 else { return }
        let file = try Asking.create(size: size, ["subformat": subformat])
        let driver = try Asking.open(file.bytes)
        #expect(driver.shape.virtualSize == size)
        #expect(driver.shape.subformat == subformat)
        #expect(driver.shape.remarks.isEmpty)
        #expect(try Asking.check(file.bytes).findings.filter { $0.severity != .note }.isEmpty)
        #expect(try Asking.open(Asking.create(size: size).bytes).shape.identity != driver.shape.identity)
    }

    private func refusal(
        _ size: UInt64, _ options: [String: String] = [:], _ parent: CreateRequest.Parent? = nil
    ) -> ImageError.Kind? {
        do throws(ImageError) {
            try VHD.create(
                CreateRequest(storage: VHDScratch([]), virtualSize: size, options: options, parent: parent))
            return nil
        } catch { return error.kind }
    }

    @Test func whatAVHDCannotBeIsRefused() throws {
        #expect(refusal(0) == .outOfRange)
        #expect(refusal(1000) == .outOfRange)
        #expect(refusal(2040 << 30) == nil)
        #expect(refusal((2040 << 30) + 512) == .outOfRange)
        #expect(refusal(1 << 20, ["subformat": "best"]) == .outOfRange)
        #expect(refusal(1 << 20, ["subformat": "differencing"]) == .unsupported)
        #expect(refusal(1 << 20, ["block_size": "3M"]) == .outOfRange)
        #expect(refusal(1 << 20, ["block_size": "2K"]) == .outOfRange)
        #expect(refusal(1 << 40, ["block_size": "4K"]) == .outOfRange)
        #expect(refusal(1 << 20, ["force_size": "maybe"]) == .outOfRange)
        #expect(refusal(1 << 20, ["preallocation": "falloc"]) == .outOfRange)
        #expect(refusal(1 << 20, ["preallocation": "metadata", "subformat": "fixed"]) == .unsupported)
        let foreign = CreateRequest.Parent(
            absolutePath: "/a", recordedPath: "a",
            shape: DiskShape(virtualSize: 512, allocationUnit: 512, formatName: "raw", subformat: "x"), modified: 0)
        #expect(refusal(1 << 20, [:], foreign) == .unsupported)
    }

    @Test func sizeThatAGeometryCanSayIsRoundedUpToWhereAsked() throws {
        for sectors in [1, 68, 69, 2049, 100_000, 1_000_003, 40_000_001] as [UInt64] {
            let driver = try Asking.open(try Asking.create(size: sectors * 512, ["force_size": "off"]).bytes)
            let chs = try Asking.open(
                try Asking.create(size: driver.shape.virtualSize).bytes, options: FormatOptions(vhdSize: .chs))
            #expect(driver.shape.virtualSize >= sectors * 512)
            #expect(driver.shape.virtualSize < sectors * 512 + 16 * 255 * 512 * 2)
            #expect(chs.shape.virtualSize == driver.shape.virtualSize)
        }
    }

    @Test(arguments: ["metadata", "full"]) func preallocatedImageHasAllItsBlocks(preallocation: String) throws {
        let file = try Asking.create(
            size: (300 << 10) + 512, ["preallocation": preallocation, "block_size": "64K"])
        let end = file.size
        #expect(try Asking.faults(file.bytes).isEmpty)
        #expect(try Asking.check(file.bytes).allocatedBytes == 5 << 16)
        var writer = try VHDWriter(file)
        #expect(writer.model.allSatisfy { $0 == 0 })
        try writer.write([UInt8](repeating: 4, count: 200_000), at: 77)
        try writer.finish()
        try writer.verify(fresh: true)
        #expect(file.size == end)
    }

    /// The node of a device is as old as the system is up, and says nothing of the image.
    @Test func anImageOnADeviceIsMadeNow() throws {
        let target = VHDScratch([])
        let before = WallClock.seconds
        try VHD.create(CreateRequest(storage: target, deviceBytes: 1 << 20, virtualSize: 64 << 10))
        let created = Int64(target.bytes.span.bytes.big(UInt32.self, at: 24)) + 946_684_800
        #expect(before > 1_700_000_000 && (before...WallClock.seconds).contains(created), "\(created)")
    }

    // MARK: - Children

    private func child(_ absolute: String, _ recorded: String) throws -> any FormatDriver {
        let base = try Asking.open(try Asking.create(size: 1 << 20).bytes)
        let parent = CreateRequest.Parent(
            absolutePath: absolute, recordedPath: recorded, shape: base.shape, modified: 946_684_800 + 12)
        let file = try Asking.create(size: 1 << 20, parent: parent)
        #expect(file.bytes.span.bytes.big(UInt32.self, at: 512 + 56) == 12)
        #expect(try Asking.faults(file.bytes).isEmpty)
        let driver = try Asking.open(file.bytes)
        #expect(driver.shape.subformat == "differencing")
        #expect(driver.parent?.identities == [try #require(base.shape.identity)])
        #expect(driver.parent?.format == "vhd")
        return driver
    }

    private typealias Path = ParentReference.Path

    @Test func childNamesItsParentInEveryWay() throws {
        let paths = try child("/srv/a b/größe.vhd", "../a b/größe.vhd").parent?.paths
        #expect(
            paths == [
                Path(base: .image, text: "../a b/größe.vhd"), Path(base: .windows, text: "/srv/a b/größe.vhd"),
                Path(base: .host, text: "/srv/a b/größe.vhd"), Path(base: .image, text: "größe.vhd"),
            ])
    }

    @Test func parentBesideTheChildIsNamedAsWindowsDoes() throws {
        #expect(try child("/srv/p.vhd", "p.vhd").parent?.paths.first == Path(base: .image, text: "./p.vhd"))
    }

    @Test func absoluteNameStaysAbsolute() throws {
        let paths = try child("/srv/p.vhd", "/srv/p.vhd").parent?.paths ?? []
        #expect(paths.contains(Path(base: .host, text: "/srv/p.vhd")))
        #expect(!paths.contains(Path(base: .image, text: "/srv/p.vhd")))
    }

    @Test func nameWithABackslashIsNotGivenToWindows() throws {
        #expect(try child("/srv/a\\b.vhd", "a\\b.vhd").parent?.paths == [Path(base: .image, text: "./a\\b.vhd")])
    }

    @Test func nameThatIsTooLongForTheHeaderIsInTheLocators() throws {
        let name = String(repeating: "ä", count: 300) + ".vhd"
        let paths = try child("/srv/" + name, name).parent?.paths ?? []
        #expect(paths.first == Path(base: .image, text: "./" + name))
        #expect(paths.contains(Path(base: .host, text: "/srv/" + name)))
    }
}
