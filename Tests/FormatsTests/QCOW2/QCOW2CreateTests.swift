import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// Images that `QCOW2.create` makes, as QEMU and platter's own reader see them.
@Suite struct QCOW2CreateTests {
    struct Kind: Sendable, CustomStringConvertible {
        var size: UInt64
        var options: [String: String]
        var description: String { "\(size) \(options.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" })" }

        init(_ size: UInt64, _ options: [String: String] = [:]) {
            self.size = size
            self.options = options
        }
    }

    /// Makes an image file, and the data file that it asks for, in `directory`.
    static func make(
        _ kind: Kind, parent: CreateRequest.Parent? = nil, in directory: TemporaryDirectory,
        name: String = "image.qcow2"
    ) throws -> String {
        let path = try directory.write([], to: name)
        let storage = try FileStorage(path: path, isWritable: true)
        var options = kind.options
        // QEMU takes a data file's name from its own working directory, not from the image's.
        if let name = options["data_file"], !name.contains(":") { options["data_file"] = directory.file(name) }
        try QCOW2.create(
            CreateRequest(storage: storage, virtualSize: kind.size, options: options, parent: parent) {
                (name) throws(ImageError) in
                do { try HostFiles.write([], to: name) } catch {
                    throw ImageError(.io, "cannot make the data file", detail: name)
                }
                return try FileStorage(path: name, isWritable: true)
            })
        storage.close()
        return path
    }

    static let kinds: [Kind] = {
        var kinds = [Kind(0), Kind(1), Kind(512), Kind(1 << 40), Kind(8 << 50, ["cluster_size": "2M"])]
        for preallocation in ["off", "metadata", "falloc", "full"] {
            kinds.append(Kind(Oracle.oddSize, ["preallocation": preallocation]))
            for cluster in ["512", "4k", "2M"] {
                kinds.append(Kind(Oracle.oddSize, ["preallocation": preallocation, "cluster_size": cluster]))
            }
            for version in ["0.10", "1.1", "v2", "v3"] {
                kinds.append(Kind(Oracle.oddSize, ["preallocation": preallocation, "compat": version]))
            }
            for width in [1, 2, 4, 8, 16, 32, 64] {
                kinds.append(
                    Kind(
                        Oracle.oddSize,
                        [
                            "preallocation": preallocation, "refcount_bits": "\(width)", "cluster_size": "1K",
                        ]))
            }
            kinds.append(Kind(Oracle.oddSize, ["preallocation": preallocation, "extended_l2": "on"]))
            for raw in ["on", "off"] {
                kinds.append(
                    Kind(
                        Oracle.oddSize,
                        [
                            "preallocation": preallocation, "data_file": "data.bin", "data_file_raw": raw,
                            "extended_l2": raw,
                        ]))
            }
        }
        kinds.append(Kind(Oracle.oddSize, ["compression_type": "zstd", "lazy_refcounts": "on"]))
        kinds.append(Kind(1 << 38, ["preallocation": "metadata", "refcount_bits": "64"]))
        return kinds
    }()

    @Test(.enabled(if: Oracle.isPresent, Oracle.skipReason), arguments: kinds)
    func isCleanAndZeroAndWritableForQEMU(kind: Kind) throws {
        let directory = try TemporaryDirectory("create")
        let path = try Self.make(kind, in: directory)
        try Oracle.run("qemu-img", ["check", "-q", "-f", "qcow2", path])
        try checkFacts(path, kind)
        let size = (kind.size + 511) / 512 * 512
        #expect(try Disk.open(path: path, options: DiskOptions()).size == size)
        guard (512...64 << 20).contains(size) else { return }
        try Oracle.checkContent(path, "qcow2", in: directory)
        let zeros = directory.file("zeros.img")
        try HostFiles.write([UInt8](repeating: 0, count: Int(size)), to: zeros)
        try Oracle.run("qemu-img", ["compare", "-q", "-f", "qcow2", "-F", "raw", path, zeros])
        try Oracle.scribble(path, "qcow2", size: size, unit: 65_536, seed: size)
        try Oracle.run("qemu-img", ["check", "-q", "-f", "qcow2", path])
        try Oracle.checkContent(path, "qcow2", in: directory)
    }

    /// What QEMU says that the image is.
    private func checkFacts(_ path: String, _ kind: Kind) throws {
        let text = try Oracle.run("qemu-img", ["info", "--output=json", "-f", "qcow2", path])
        let data = try #require(try JSON(parsing: text)["format-specific"]?["data"])
        let isOld = ["0.10", "v2"].contains(kind.options["compat"])
        #expect(data["compat"]?.string == (isOld ? "0.10" : "1.1"))
        #expect(data["refcount-bits"]?.int == Int(kind.options["refcount_bits"] ?? "16"))
        guard !isOld else { return }
        #expect(data["lazy-refcounts"]?.bool == (kind.options["lazy_refcounts"] == "on"))
        #expect(data["extended-l2"]?.bool == (kind.options["extended_l2"] == "on"))
        #expect(data["compression-type"]?.string == kind.options["compression_type"] ?? "zlib")
        #expect(data["data-file"]?.string?.hasSuffix("/data.bin") == (kind.options["data_file"].map { _ in true }))
        if kind.options["data_file"] != nil {
            #expect(data["data-file-raw"]?.bool == (kind.options["data_file_raw"] == "on"))
        }
    }

    @Test(.enabled(if: Oracle.isPresent, Oracle.skipReason), arguments: ["raw", "qcow2", "vpc", "vhdx"])
    func childrenShowTheirParent(format: String) throws {
        let directory = try TemporaryDirectory("create")
        let size: UInt64 = 4 << 20
        let base = directory.file("a:base")
        try Oracle.create(base, format, format == "vpc" ? ["force_size=on"] : [], size: size)
        try Oracle.scribble(base, format, size: size, unit: 65_536, seed: 3)
        let below = try #require(Registry.format(named: format)).open(
            OpenRequest(storage: FileStorage(path: base), companions: NoCompanions()))
        for options in [[:], ["compat": "0.10"], ["extended_l2": "on", "preallocation": "metadata"]] {
            let parent = CreateRequest.Parent(
                absolutePath: base, recordedPath: "a:base", shape: below.shape, modified: 0)
            let child = try Self.make(Kind(size + 70_000, options), parent: parent, in: directory)
            try Oracle.run("qemu-img", ["check", "-q", "-f", "qcow2", child])
            let text = try Oracle.run("qemu-img", ["info", "--output=json", "-f", "qcow2", child])
            #expect(try JSON(parsing: text)["backing-filename-format"]?.string == format)
            try Oracle.checkContent(child, "qcow2", in: directory)
            let raw = directory.file("base.raw")
            try Oracle.run("qemu-img", ["convert", "-f", format, "-O", "raw", base, raw])
            try Oracle.run("qemu-img", ["compare", "-q", "-f", "qcow2", "-F", "raw", child, raw])
        }
    }

    @Test(arguments: [
        Kind(1 << 20, ["cluster_size": "3000"]), Kind(1 << 20, ["cluster_size": "256"]),
        Kind(1 << 20, ["cluster_size": "4M"]), Kind(1 << 20, ["cluster_size": "1Q"]),
        Kind(1 << 20, ["refcount_bits": "3"]), Kind(1 << 20, ["refcount_bits": "128"]),
        Kind(1 << 20, ["compat": "0.11"]), Kind(1 << 20, ["preallocation": "some"]),
        Kind(1 << 20, ["compat": "0.10", "lazy_refcounts": "on"]),
        Kind(1 << 20, ["compat": "0.10", "extended_l2": "on"]),
        Kind(1 << 20, ["compat": "0.10", "refcount_bits": "8"]),
        Kind(1 << 20, ["compat": "0.10", "compression_type": "zstd"]),
        Kind(1 << 20, ["compat": "0.10", "data_file": "x"]),
        Kind(1 << 20, ["extended_l2": "on", "cluster_size": "8K"]), Kind(1 << 20, ["data_file_raw": "on"]),
        Kind(1 << 20, ["data_file": "nbd:x"]), Kind(1 << 20, ["lazy_refcounts": "maybe"]),
        Kind(8 << 50), Kind(.max), Kind(1 << 40, ["cluster_size": "512"]),
    ])
    func impossibleWishesAreRefusedBeforeAnythingIsWritten(kind: Kind) throws {
        let directory = try TemporaryDirectory("create")
        let failure = imageError { _ = try Self.make(kind, in: directory) }
        #expect(failure?.kind == .outOfRange || failure?.kind == .unsupported)
        #expect(try HostFiles.read(directory.file("image.qcow2")).isEmpty)
    }

    @Test func aRawDiskIsMadeAsLargeAsAsked() throws {
        for preallocation in ["off", "falloc", "full"] {
            let directory = try TemporaryDirectory("create")
            let path = try directory.write([], to: "disk.raw")
            let storage = try FileStorage(path: path, isWritable: true)
            try Raw.create(
                CreateRequest(storage: storage, virtualSize: 3_000_001, options: ["preallocation": preallocation]))
            #expect(try HostFiles.read(path) == [UInt8](repeating: 0, count: 3_000_001))
            #expect((try storage.allocatedBytes() >= 3_000_001) == (preallocation != "off"))
            let report = try Raw.check(OpenRequest(storage: storage, companions: NoCompanions()), repairs: false)
            #expect(report.corruptions == 0 && report.leaks == 0 && report.findings.count == 1)
        }
    }
}
