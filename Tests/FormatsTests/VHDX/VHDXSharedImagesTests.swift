import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// The images that other software made, against the hashes in their manifest.
@Suite(.enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"))
struct VHDXSharedImagesTests {
    private static func images(_ expectation: SharedImage.Expectation) -> [SharedImage] {
        SharedImages.images(expectation).filter { $0.format == "vhdx" }
    }

    private func open(_ image: SharedImage) throws -> any FormatDriver {
        let storage = try FileStorage(path: try image.path())
        return try VHDX.open(OpenRequest(storage: storage, companions: NoCompanions()))
    }

    private func hash(_ layers: [any FormatDriver]) throws -> String {
        let reader = VHDXReader(layers)
        let hash = try SHA256()
        try reader.visit(ByteRange(0, to: reader.size)) { chunk in chunk.withUnsafeBytes { hash.add($0) } }
        return hash.finish()
    }

    @Test(arguments: images(.equal))
    func readableImagesHaveTheManifestsContent(_ image: SharedImage) throws {
        let driver = try open(image)
        #expect(driver.shape.virtualSize == image.virtualSize)
        var layers = [driver]
        if let parent = image.parent {
            let below = try open(try SharedImages.named(parent))
            let reference = try #require(driver.parent)
            let identity = try #require(below.shape.identity)
            #expect(reference.identities.contains(identity))
            #expect(reference.paths.first == .init(base: .image, text: "./" + parent))
            #expect(reference.format == "vhdx")
            layers.append(below)
        } else {
            #expect(driver.parent == nil)
        }
        #expect(try hash(layers) == image.rawSHA256)
        #expect(try SHA256.ofFile(try image.path()) == image.fileSHA256)
    }

    @Test(arguments: images(.equal))
    func sizeWithoutOpeningIsTheDisksSize(_ image: SharedImage) throws {
        let storage = try FileStorage(path: try image.path())
        #expect(try VHDX.recognises(storage))
        #expect(try VHDX.virtualSize(of: storage, options: FormatOptions()) == image.virtualSize)
    }

    @Test(arguments: images(.refuse))
    func badImagesAreRefused(_ image: SharedImage) throws {
        #expect(throws: ImageError.self) { try open(image) }
    }

    @Test(arguments: images(.error))
    func damagedImagesReadAsAnError(_ image: SharedImage) throws {
        #expect {
            _ = try hash([try open(image)])
        } throws: { ($0 as? ImageError)?.kind == .corrupt }
    }

    @Test func dirtyLogOfWindowsIsSaidToBeReplayed() throws {
        let driver = try open(try SharedImages.named("win10-discutils-vhdx-log-replay.vhdx"))
        #expect(driver.shape.remarks.contains { $0.contains("replayed in memory") })
        #expect(driver.files.count == 2)
    }

    @Test func unmappedBlocksOfWindowsAreZerosWithoutSpace() throws {
        let driver = try open(try SharedImages.named("win10-discutils-lvm2.vhdx"))
        var runs = ExtentList(for: ByteRange(0, to: driver.shape.virtualSize))
        var zeros: UInt64 = 0
        while !runs.remaining.isEmpty {
            let before = runs.remaining
            var part = ExtentList(for: before)
            try driver.map(.placement, into: &part)
            for index in 0..<part.count {
                if case .zero = part[index].place { zeros += part[index].length }
            }
            runs = ExtentList(for: before.dropping(first: part.covered))
        }
        #expect(zeros == 64 * (32 << 20))
    }
}
