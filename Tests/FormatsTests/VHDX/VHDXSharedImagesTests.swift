import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// What the manifest of the shared images says about VHDX beyond their content, which `SharedImageTests` compares.
@Suite(.enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"))
struct VHDXSharedImagesTests {
    private static var readable: [SharedImage] { SharedImages.images(.equal).filter { $0.format == "vhdx" } }

    private func open(_ image: SharedImage) throws -> any FormatDriver {
        try VHDXBuilder.open(try FileStorage(path: try image.path())).driver
    }

    @Test(arguments: readable)
    func sizeWithoutOpeningIsTheDisksSize(_ image: SharedImage) throws {
        let storage = try FileStorage(path: try image.path())
        #expect(try VHDX.recognises(storage))
        #expect(try VHDX.virtualSize(of: storage, options: FormatOptions()) == image.virtualSize)
    }

    @Test(arguments: readable.filter { $0.parent != nil })
    func locatorOfWindowsNamesTheParent(_ image: SharedImage) throws {
        let reference = try #require(try open(image).parent)
        let parent = try #require(image.parent)
        let identity = try #require(try open(try SharedImages.named(parent)).shape.identity)
        #expect(reference.identities == [identity])
        #expect(reference.paths.map(\.base) == [.image, .windows, .windows])
        #expect(reference.paths.first?.text == "./" + parent)
        #expect(reference.format == "vhdx")
    }

    @Test func dirtyLogOfWindowsIsSaidToBeReplayed() throws {
        let driver = try open(try SharedImages.named("win10-discutils-vhdx-log-replay.vhdx"))
        #expect(driver.shape.remarks.contains { $0.contains("replayed in memory") })
        #expect(driver.files.count == 2)
    }

    @Test func unmappedBlocksOfWindowsAreZerosWithoutSpace() throws {
        let driver = try open(try SharedImages.named("win10-discutils-lvm2.vhdx"))
        var rest = ByteRange(0, to: driver.shape.virtualSize)
        var zeros: UInt64 = 0
        while !rest.isEmpty {
            var runs = ExtentList(for: rest)
            try driver.map(.placement, into: &runs)
            for index in 0..<runs.count {
                if case .zero = runs[index].place { zeros += runs[index].length }
            }
            rest = rest.dropping(first: runs.covered)
        }
        #expect(zeros == 64 * (32 << 20))
    }
}
