import Bytes
import Formats
import Storage
import TestSupport
import Testing

@Suite(.enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"))
struct VHDSharedImageTests {
    /// What is hashed; an empty disk beyond that is compared with what its manifest says it is.
    private static let hashLimit: UInt64 = 4 << 30

    private static func images(_ expect: SharedImage.Expectation) -> [SharedImage] {
        SharedImages.all.filter { $0.format == "vhd" && $0.expect == expect && !$0.isBundle }
    }

    /// The image's driver and those of its parents, found by the manifest's names.
    private func chain(_ image: SharedImage) throws -> [any FormatDriver] {
        let driver = try Asking.open(try FileStorage(path: try image.path()))
        guard let parent = image.parent else { return [driver] }
        let rest = try chain(try SharedImages.named(parent))
        let reference = try #require(driver.parent)
        #expect(reference.identities == [try #require(rest.first?.shape.identity)])
        #expect(reference.paths.contains { $0.text.split(separator: "/").last.map(String.init) == parent })
        return [driver] + rest
    }

    private func hash(_ chain: [any FormatDriver]) throws -> String {
        let size = try #require(chain.first).shape.virtualSize
        let hash = try SHA256()
        var position: UInt64 = 0
        while position < size {
            let part = ByteRange(position, to: size).keeping(first: 1 << 20)
            let bytes = try Asking.read(chain, part)
            bytes.withUnsafeBytes { hash.add($0) }
            position += part.length
        }
        return hash.finish()
    }

    @Test(arguments: images(.equal)) func contentIsRight(image: SharedImage) throws {
        let storage = try FileStorage(path: try image.path())
        #expect(try VHD.recognises(storage))
        #expect(try VHD.virtualSize(of: storage, options: FormatOptions()) == image.virtualSize)
        let chain = try chain(image)
        #expect(chain[0].shape.virtualSize == image.virtualSize)
        guard chain[0].shape.virtualSize <= Self.hashLimit else {
            // Hashing 127 GiB of zeros takes minutes and says no more than this.
            #expect(image.notes.contains("GiB of zeros"))
            #expect(try Asking.words(chain[0]) == ["hole \(chain[0].shape.virtualSize)"])
            return
        }
        #expect(try hash(chain) == image.rawSHA256)
    }

    @Test(arguments: images(.equal)) func contractIsKept(image: SharedImage) throws {
        let chain = try chain(image)
        let parent = chain.dropFirst().reversed().reduce(nil) { DriverReader($1, parent: $0) }
        try checkFormatDriver(chain[0], parent: parent)
    }

    @Test(arguments: images(.refuse)) func damageIsRefused(image: SharedImage) throws {
        let storage = try FileStorage(path: try image.path())
        #expect(throws: ImageError.self) { try Asking.open(storage) }
    }

    @Test(arguments: images(.error)) func damagedRangeIsAnError(image: SharedImage) throws {
        let driver = try Asking.open(try FileStorage(path: try image.path()))
        let error = #expect(throws: ImageError.self) { try Asking.words(driver) }
        #expect(error?.kind == .corrupt)
    }

    /// Their footers' checksums are wrong, in the copies too: nothing says which of their bytes can be believed.
    @Test(arguments: images(.policy)) func badChecksumsAreRefused(image: SharedImage) throws {
        let storage = try FileStorage(path: try image.path())
        #expect(try VHD.recognises(storage))
        let error = #expect(throws: ImageError.self) { try Asking.open(storage) }
        #expect(error?.kind == .malformed)
    }

    @Test(arguments: SharedImages.all.filter { $0.format == "vhd" && $0.isBundle })
    func fuzzedFootersDoNoHarm(bundle: SharedImage) throws {
        let root = try bundle.path()
        for name in try HostFiles.list(root) {
            let bytes = try HostFiles.read("\(root)/\(name)")
            guard let driver = try? Asking.open(bytes) else { continue }
            #expect(driver.shape.virtualSize <= UInt64(bytes.count))
        }
    }
}
