internal import Bytes
package import Formats
internal import Storage

/// Ways to make fixtures: with content, on a parent, with a data file, by QEMU.
extension DiskFixture {
    /// The same files after a session of `operations` random writes and zeroes, so that a campaign begins on an image that
    /// has been in use.
    package func written(seed: UInt64, operations: Int = 24, largest: Int = 256 << 10) throws -> DiskFixture {
        let machine = PowerCutMachine(files.map(\.content), names: files.map(\.name))
        var workload = DiskWorkload(ModelDisk(try open(machine.storages, false).contents()), seed: seed)
        let disk = try open(machine.storages, true)
        try workload.run(operations, on: disk, machine, largest: largest)
        try workload.finish(disk, machine)
        var result = self
        for (index, content) in machine.contents.enumerated() { result.files[index].content = content }
        return result
    }

    /// An empty child, as the format's own `create` makes it, of an image in use.
    package static func child(
        _ format: any ImageFormat.Type, of below: any ImageFormat.Type, size: UInt64, belowSize: UInt64? = nil,
        options: [String: String] = [:], belowOptions: [String: String] = [:]
    ) throws -> DiskFixture {
        let base = try created(below, size: belowSize ?? size, options: belowOptions).written(seed: 5).files[0].content
        let storage = PowerCutMachine([base]).storages[0]
        let shape = try below.open(OpenRequest(storage: storage, companions: NoCompanions())).shape
        let parent = CreateRequest.Parent(
            absolutePath: "/parent", recordedPath: "parent", shape: shape, modified: 1_000_000_000, storage: storage)
        let content = try image(format, size: size, options: options, parent: parent)
        return DiskFixture(
            name: "\(format.name)\(text(options)) on \(below.name)\(text(belowOptions))",
            images: [(format, content), (below, base)])
    }

    /// An empty image whose bytes are in a file of their own.
    package static func withDataFile(
        _ format: any ImageFormat.Type, size: UInt64, options: [String: String]
    ) throws -> DiskFixture {
        var options = options
        options["data_file"] = "data.bin"
        let machine = PowerCutMachine([SparseBytes(), SparseBytes()], names: ["image", "data.bin"])
        let storages = machine.storages
        try format.create(
            CreateRequest(storage: storages[0], virtualSize: size, options: options, makeFile: { _ in storages[1] }))
        return DiskFixture(
            name: format.name + text(options), images: [(format, machine.contents[0])],
            extra: [File(name: "data.bin", content: machine.contents[1])])
    }

    /// What a fixture's name says of options.
    static func text(_ options: [String: String]) -> String {
        options.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
    }
}

/// Images that QEMU made.
extension DiskFixture {
    /// A qcow2 image at `path`, alone: `qemu-img check` is asked about a sample of its states.
    package static func qcow2(_ name: String, at path: String) throws -> DiskFixture {
        var fixture = DiskFixture(name: name, images: [(QCOW2.self, SparseBytes(try HostFiles.read(path)))])
        fixture.oracle = askQEMU
        return fixture
    }

    /// `qemu-img check` finds leaks at the worst: status 3.
    @Sendable private static func askQEMU(_ state: [SparseBytes]) throws {
        let directory = try TemporaryDirectory("cut")
        let path = try directory.write(state[0].bytes, to: "state.qcow2")
        let result = try ChildProcess("qemu-img", ["check", "-f", "qcow2", path]).wait(timeout: 120)
        try ContractViolation.check(result.succeeded || result.text.contains("leaked"), "\(result)")
        try ContractViolation.check(!result.text.contains("ERROR"), "\(result)")
    }

    /// A qcow2 image in use with an internal snapshot that QEMU made of it.
    package static func withSnapshot(size: UInt64, options: [String: String]) throws -> DiskFixture {
        let directory = try TemporaryDirectory("snapshot")
        let start = try created(QCOW2.self, size: size, options: options).written(seed: 11)
        let path = try directory.write(start.files[0].content.bytes, to: "image.qcow2")
        try qemuImg(["snapshot", "-c", "kept", path])
        return try qcow2("\(start.name) with a snapshot", at: path).written(seed: 12, operations: 8)
    }

    /// A qcow2 image whose content QEMU compressed.
    package static func compressed(size: UInt64, options: [String: String]) throws -> DiskFixture {
        let directory = try TemporaryDirectory("compressed")
        var random = SeededRandom(seed: 13)
        let words = (0..<64).map { _ in random.bytes(16) }
        let content = (0..<Int(size / 16)).flatMap { _ in words[Int(random.next() % 64)] }
        let raw = try directory.write(content, to: "content.raw")
        let path = directory.file("image.qcow2")
        let list = options.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
        try qemuImg(["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", list, raw, path])
        return try qcow2("qcow2\(text(options)), compressed", at: path)
    }

    private static func qemuImg(_ arguments: [String]) throws {
        let result = try ChildProcess("qemu-img", arguments).wait(timeout: 120)
        guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
    }

    /// The same with the check that lazy refcounts allow: only an image whose dirty bit is set may have wrong counts, and
    /// all of them can be repaired.
    package func allowingLazyRefcounts() -> DiskFixture {
        var result = self
        result.oracle = nil
        result.check = { storages in
            let bytes = try storages[0].bytes(at: HostOffset(0), count: 104)
            guard bytes[79] & 1 == 1 else {
                return try QCOW2.check(OpenRequest(storage: storages[0], companions: NoCompanions()), repairs: false)
            }
            let content = try storages[0].bytes(at: HostOffset(0), count: Int(storages[0].size))
            let copy = PowerCutMachine([SparseBytes(content)]).storages[0]
            _ = try QCOW2.check(OpenRequest(storage: copy, companions: NoCompanions(), isWritable: true), repairs: true)
            return try QCOW2.check(OpenRequest(storage: copy, companions: NoCompanions()), repairs: false)
        }
        return result
    }
}
