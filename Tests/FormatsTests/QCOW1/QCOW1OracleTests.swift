import TestSupport
import Testing

/// Images of the first qcow format made by QEMU, against what QEMU reads from them.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct QCOW1OracleTests {
    private static let size = Oracle.oddSize

    @Test(arguments: [1, 2] as [UInt64])
    func plainClusters(seed: UInt64) throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.qcow")
        try Oracle.create(path, "qcow", size: Self.size)
        try Oracle.scribble(path, "qcow", size: Self.size, unit: 4096, seed: seed)
        try Oracle.checkContent(path, "qcow", in: directory)
        try Oracle.checkDriver(path, "qcow", in: directory)
        try Oracle.checkMap(path, "qcow")
    }

    @Test func compressedClusters() throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.qcow")
        try Oracle.create(path, "qcow", size: Self.size)
        // Cluster by cluster: "qemu-img convert -c" ends with an error for this format.
        let text = try directory.write(
            Array(String(repeating: "some text, again and again; ", count: 40).utf8), to: "text")
        var commands: [String] = []
        for index in 0..<100 {
            let source = index % 3 == 0 ? "-s \(text)" : "-P \(index)"
            commands += ["-c", "write -q -c \(source) \(index * 11 * 4096) 4096"]
        }
        try Oracle.run("qemu-io", ["-f", "qcow"] + commands + [path])
        try Oracle.checkContent(path, "qcow", in: directory)
        try Oracle.scribble(path, "qcow", size: Self.size, unit: 4096, seed: 3)
        try Oracle.checkContent(path, "qcow", in: directory)
        try Oracle.checkDriver(path, "qcow", in: directory)
        try Oracle.checkMap(path, "qcow")
    }

    @Test func belowAnotherImage() throws {
        let directory = try TemporaryDirectory("oracle")
        let (base, path) = (directory.file("base.qcow"), directory.file("image.qcow2"))
        try Oracle.create(base, "qcow", size: Self.size)
        try Oracle.scribble(base, "qcow", size: Self.size, unit: 4096, seed: 4)
        try Oracle.create(path, "qcow2", size: Self.size + 4096, base: (base, "qcow"))
        try Oracle.scribble(path, "qcow2", size: Self.size, unit: 65_536, seed: 5)
        try Oracle.checkContent(path, "qcow2", in: directory)
        try Oracle.checkMap(path, "qcow2")
    }
}
