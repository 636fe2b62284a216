internal import Bytes
@testable internal import Disk
internal import Formats
internal import Storage
internal import TestSupport
internal import Testing

/// What makes a file the parent that an image means, and what opening it does first.
struct ParentRuleTests {
    private func shape(_ identity: UInt64?, sectors: UInt32 = 512) -> DiskShape {
        DiskShape(
            virtualSize: 1 << 20, allocationUnit: 1 << 20, logicalSectorSize: sectors, formatName: "vhdx",
            subformat: "dynamic", identity: identity.map { GUID(low: $0, high: 0) })
    }

    @Test func aParentWithOtherSectorsIsRefused() throws {
        let reference = ParentReference(
            paths: [.init(base: .image, text: "base")], format: "vhdx",
            identities: [1, 2].map { GUID(low: $0, high: 0) })
        for identity in [UInt64(1), 2] { try reference.verify(shape(identity), of: shape(9)) }
        for identity in [nil, UInt64(3)] {
            #expect(try failure { try reference.verify(shape(identity), of: shape(9)) }.kind == .corrupt)
        }
        let error = try failure { try reference.verify(shape(1, sectors: 4096), of: shape(9)) }
        #expect(error.kind == .corrupt && "\(error)".contains("4096 and 512"))
        try reference.verify(shape(1, sectors: 4096), of: shape(9, sectors: 4096))
    }

    /// A program that held the image may have made it longer between our open and our lock.
    @Test func theSizeIsTakenUnderTheLock() throws {
        let scratch = try TemporaryDirectory("size")
        let path = try scratch.write([UInt8](repeating: 1, count: 1000), to: "image.raw")
        let file = try FileStorage(path: path)
        var opener = try ChainOpener(path: path, options: .quiet)
        try HostFiles.truncate(path, to: 5000)
        #expect(file.size == 1000)
        try opener.lock(file)
        #expect(file.size == 5000)
    }

    @Test func aParentWhoseNameIsNoFileNameIsNamed() throws {
        let scratch = try TemporaryDirectory("unnamed")
        let path = try scratch.write([1], to: "image")
        let gate = try OpenGate(image: path, allowed: [])
        #expect(try gate.candidates(.init(base: .windows, text: "C:/.."), namedBy: path).isEmpty)
    }
}
