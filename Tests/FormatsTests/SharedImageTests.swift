import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Every image of the shared collection, against what its manifest says a correct reader does.
@Suite(.enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"))
struct SharedImageTests {
    /// Refused until encryption is supported, although the manifest has the hash of its content.
    static let encrypted = "gen-luks.qcow2"
    /// Hashing zeros for longer than this takes minutes without showing anything.
    static let hashLimit: UInt64 = 16 << 30

    static var readable: [SharedImage] { SharedImages.images(.equal).filter { $0.name != encrypted } }

    @Test(arguments: readable.filter { ($0.virtualSize ?? 0) <= hashLimit })
    func contentIsWhatOtherReadersSee(image: SharedImage) throws {
        let reader = try TestChain.open(image.path())
        #expect(reader.size == image.virtualSize)
        #expect(try reader.hash() == image.rawSHA256)
    }

    @Test(arguments: readable.filter { ($0.virtualSize ?? 0) > hashLimit })
    func largeImagesHoldNothingButZeros(image: SharedImage) throws {
        let reader = try TestChain.open(image.path())
        #expect(reader.size == image.virtualSize)
        // The only such image is 127 GiB of zeros: that nothing is mapped shows the same as the hash.
        try reader.forEachPiece(in: .init(0, to: reader.size)) { piece in
            if case .bytes(let bytes) = piece { #expect(bytes.allSatisfy { $0 == 0 }) }
        }
    }

    @Test(arguments: SharedImages.images(.refuse))
    func isRefused(image: SharedImage) throws {
        let path = try image.path()
        let kind = failureKind { _ = try TestChain.open(path) }
        #expect(kind != nil, "opened")
        #expect(kind != .io)
    }

    @Test(arguments: SharedImages.images(.equal).filter { $0.name == encrypted })
    func encryptedImagesAreRefused(image: SharedImage) throws {
        let path = try image.path()
        #expect(failureKind { _ = try TestChain.open(path) } == .unsupported)
    }

    @Test(arguments: SharedImages.images(.error))
    func damageIsAnErrorNeverBytes(image: SharedImage) throws {
        let path = try image.path()
        let kind = failureKind {
            let reader = try TestChain.open(path)
            try reader.forEachPiece(in: .init(0, to: reader.size)) { _ in }
        }
        #expect([.corrupt, .malformed].contains(kind), "\(String(describing: kind))")
    }

    @Test(arguments: SharedImages.images(.safe, .policy))
    func endsSoon(image: SharedImage) throws { try survive(image.path()) }

    @Test(arguments: SharedImages.bundles)
    func bundleMembersEndSoon(bundle: SharedImage) throws {
        let directory = try bundle.path()
        for name in try members(of: directory) { try survive(name) }
    }

    private func members(of directory: String) throws -> [String] {
        try HostFiles.list(directory).flatMap { name in
            let path = "\(directory)/\(name)"
            return HostFiles.isDirectory(path) ? try members(of: path) : [path]
        }
    }

    /// Opens, maps and reads what there is, snapshots included, as far as one second goes. Any error will do.
    private func survive(_ path: String) throws {
        let start = monotonicSeconds()
        do {
            let reader = try TestChain.open(path)
            try readSome(reader)
            for index in reader.driver.snapshots.indices.prefix(16) {
                _ = try? readSome(DriverReader(reader.driver.openSnapshot(index), parent: reader.parent))
            }
        } catch let error as ImageError {
            #expect(error.kind != .io, "\(path): \(error)")
        }
        #expect(monotonicSeconds() - start < 2, "\(path)")
    }

    private func readSome(_ reader: DriverReader) throws {
        let deadline = monotonicSeconds() + 1
        var position: UInt64 = 0
        while position < reader.size, monotonicSeconds() < deadline {
            let end = position + min(16 << 20, reader.size - position)
            try reader.forEachPiece(in: .init(position, to: end)) { _ in }
            position = end
        }
    }

    @Test(arguments: SharedImages.images(.equal, .refuse, .error, .safe, .policy))
    func readingChangesNoFile(image: SharedImage) throws {
        let path = try image.path()
        _ = failureKind { try readSome(TestChain.open(path)) }
        #expect(try SHA256.ofFile(path) == image.fileSHA256)
    }
}
