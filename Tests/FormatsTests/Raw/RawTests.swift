import Bytes
import Formats
import Storage
import TestSupport
import Testing

@Suite struct RawTests {
    private func open(_ storage: any Storage) throws -> any FormatDriver {
        try Raw.open(OpenRequest(storage: storage, companions: NoCompanions()))
    }

    @Test func contentNeverSaysRaw() throws {
        #expect(try !Raw.recognises(MemoryStorage([UInt8](repeating: 0, count: 1024))))
    }

    @Test(arguments: [0, 1, 511, 513, 70_001]) func anySizeIsTheFilesSize(size: Int) throws {
        let storage = MemoryStorage([UInt8](repeating: 5, count: size))
        #expect(try Raw.virtualSize(of: storage, options: FormatOptions()) == UInt64(size))
        let driver = try open(storage)
        #expect(driver.shape.virtualSize == UInt64(size))
        #expect(try Asking.words(driver) == (size == 0 ? [] : ["data 0+\(size)"]))
    }

    @Test func placementDoesNotAskForHoles() throws {
        let driver = try open(MemoryStorage([UInt8](repeating: 0, count: 4096)))
        #expect(try Asking.words(driver, ByteRange(7, to: 1000)) == ["data 7+993"])
    }

    /// A file of 1 MiB with data in its middle, as the host keeps it.
    @Test func holesOfTheHostAreZeros() throws {
        let directory = try TemporaryDirectory("raw")
        let path = try directory.write([], to: "sparse.raw")
        try HostFiles.patch([UInt8](repeating: 9, count: 65536), at: 262_144, of: path)
        try HostFiles.patch([9], at: 1_048_575, of: path)
        let storage = try FileStorage(path: path)
        let driver = try open(storage)
        let runs = try Asking.runs(driver, ByteRange(0, to: 1 << 20), .allocation)
        try #require(runs.count >= 4, "the host's filesystem keeps no holes")
        #expect(runs[0].place.isZero && runs[0].length == 262_144)
        #expect(runs[1].place.offset == 262_144 && runs[1].length == 65536)
        #expect(runs[2].place.isZero)
        #expect(runs.reduce(0) { $0 + $1.length } == 1 << 20)
        let inside = try Asking.runs(driver, ByteRange(300_000, to: 400_000), .allocation)
        #expect(inside[0].place.offset == 300_000 && inside[0].length == 327_680 - 300_000)
        #expect(inside[1].place.isZero)
    }
}

extension Extent.Place {
    fileprivate var isZero: Bool {
        if case .zero = self { true } else { false }
    }

    fileprivate var offset: UInt64? {
        if case .data(_, let offset) = self { offset.rawValue } else { nil }
    }
}
