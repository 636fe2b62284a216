import Disk
import TestSupport
import Testing

/// Images made by QEMU against what QEMU reads from them.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct VHDOracleTests {
    private static let kinds = [("dynamic", "on"), ("dynamic", "off"), ("fixed", "on"), ("fixed", "off")]

    @Test(arguments: kinds, [1, 9, 4096, 10_247, 70_001] as [UInt64])
    func everyKindAndSize(kind: (String, String), sectors: UInt64) throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.vhd")
        try Oracle.create(path, "vpc", ["subformat=\(kind.0)", "force_size=\(kind.1)"], size: sectors * 512)
        let size = try Disk.virtualSize(path: path, options: DiskOptions())
        #expect(size >= sectors * 512)
        try Oracle.scribble(path, "vpc", size: min(size, 5 << 20), unit: 2 << 20, seed: sectors)
        try Oracle.checkContent(path, "vpc", in: directory)
        try Oracle.checkMap(path, "vpc")
    }
}
