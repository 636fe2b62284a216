import Glibc
import TestSupport
import Testing

/// What `info` and `map` say: facts with types, partition tables, numbers of layers, columns.
@Suite struct InfoTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("info") }

    private func info(_ path: String, _ options: String...) throws -> JSON {
        try JSON(parsing: ChildProcess(Product.path, ["info", "--json"] + options + [path]).wait().output)
    }

    /// A raw disk with a GPT of one partition.
    private func partitioned(_ change: (inout [UInt8]) -> Void = { _ in }) throws -> String {
        var bytes = GPTBuilder([(2, 1024, 1535)]).build()
        change(&bytes)
        return try directory.write(bytes, to: "gpt.raw")
    }

    @Test func aPartitionTableIsPrinted() throws {
        let path = try partitioned()
        let text = try Product.run("info", path).text
        #expect(text.contains("partition table:  GPT, 1 partition, in sectors of 512 bytes\n"), "\(text)")
        #expect(text.contains("disk identifier:  04030201-0605-0807-090a-0b0c0d0e0f10\n"), "\(text)")
        let type = "0fc63daf-8483-4772-8e79-3d69d8477de4"
        #expect(
            text.hasSuffix(
                """

                partition  start in bytes    size in bytes     type                                                     name
                2          524288 (512 KiB)  262144 (256 KiB)  Linux filesystem (\(type))  name

                """), "\(text)")
        let table = try #require(try info(path)["partitionTable"])
        #expect(table["kind"]?.string == "gpt" && table["sectorSize"]?.uint64 == 512)
        #expect(table["diskId"]?.string == "04030201-0605-0807-090a-0b0c0d0e0f10")
        #expect(table["problem"] == .null && table["remarks"]?.array?.isEmpty == true)
        let entry = try #require(table["partitions"]?[0])
        #expect(entry["number"]?.uint64 == 2 && entry["type"]?.string == type)
        #expect(entry["typeName"]?.string == "Linux filesystem" && entry["name"]?.string == "name")
        #expect(entry["id"]?.string == "00000002-0000-0000-0000-000000000000" && entry["bootable"]?.bool == false)
        #expect(entry["start"]?.uint64 == 1024 * 512 && entry["size"]?.uint64 == 512 * 512)
    }

    @Test func anMBRIsPrinted() throws {
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        bytes.put(slots: [mbrSlot(0x69, 63, 1, status: 0x80), mbrSlot(0x0C, 1000, 9000)], at: 0)
        let path = try directory.write(bytes, to: "mbr.raw")
        let text = try Product.run("info", path).text
        #expect(text.contains("MBR, 2 partitions, in sectors of 512 bytes"), "\(text)")
        #expect(text.contains("table note:       cut at the end of the disk: partition 2"), "\(text)")
        #expect(text.contains("1 (boot)   32256 (31.5 KiB)  512  "), "\(text)")
        let table = try #require(try info(path)["partitionTable"])
        #expect(table["kind"]?.string == "mbr" && table["diskId"]?.string == "0x00000000")
        #expect(table["partitions"]?[0]?["typeName"] == .null && table["partitions"]?[0]?["bootable"]?.bool == true)
        #expect(table["partitions"]?[1]?["type"]?.string == "0x0c" && table["partitions"]?[1]?["id"] == .null)
        let large = try #require(try info(path, "-o", "sector-size=4096")["partitionTable"])
        #expect(large["sectorSize"]?.uint64 == 4096)
        #expect(large["partitions"]?[0]?["start"]?.uint64 == 63 * 4096)
    }

    /// `info` does not fail where there is no table, and says why.
    @Test func aTableThatIsNotThereHasAReason() throws {
        let path = try partitioned { bytes in
            bytes[512 + 60] ^= 1
            bytes[bytes.count - 512 + 60] ^= 1
        }
        let result = try Product.run("info", path)
        #expect(result.succeeded)
        #expect(result.text.contains("partition table:  none: no copy of the GPT is whole (primary: the checksum"))
        let table = try #require(try info(path)["partitionTable"])
        #expect(table["kind"] == .null && table["partitions"]?.array?.isEmpty == true)
        #expect(table["problem"]?.string?.contains("backup in sector 2047") == true)
    }

    @Test func aDiskWithLargeSectorsSaysWhatLosetupNeeds() throws {
        let path = directory.file("large.vhdx")
        let made = try Product.run("create", "-q", "-o", "logical_sector_size=4096", path, "8M")
        #expect(made.succeeded, "\(made)")
        let text = try Product.run("info", path).text
        #expect(text.contains("4096 logical") && text.contains("losetup -b 4096"), "\(text)")
        #expect(try info(path)["remarks"]?.array?.contains { $0.string?.contains("losetup -b 4096") == true } == true)
    }

    /// Keys are words without spaces, values have types.
    @Test func factsHaveKeysAndTypes() throws {
        for (name, expected) in [
            (
                "a.qcow2",
                [
                    "clusterSize": JSON.number("65536"), "lazyRefcounts": .bool(false),
                    "compressionType": .string("zlib"),
                ]
            ),
            ("a.vhdx", ["log": .string("clean"), "logSize": .number("4194304"), "unknownRegions": .number("0")]),
            ("a.vhd", ["savedState": .bool(false), "blockSize": .number("2097152"), "heads": .number("4")]),
        ] {
            let path = directory.file(name)
            #expect(try Product.run("create", "-q", path, "8M").succeeded)
            let facts = try #require(try info(path)["facts"])
            for (key, value) in expected { #expect(facts[key] == value, "\(name) \(key): \(facts)") }
            guard case .object(let members) = facts else { continue }
            for key in members.keys {
                #expect(
                    key.utf8.allSatisfy { ($0 | 0x20) >= 0x61 && ($0 | 0x20) <= 0x7A || $0 >= 0x30 && $0 <= 0x39 },
                    "\(key)")
            }
        }
    }

    /// Whoever adds a key describes it.
    @Test func everyKeyIsInTheManual() throws {
        let manual = try HostFiles.text(SharedImages.packageRoot + "/man/platter.1")
        let section = manual[try #require(manual.firstRange(of: ".Sh JSON")).lowerBound...]
        let words = Set(section.split { !($0.isASCII && ($0.isLetter || $0.isNumber)) })
        var keys: Set<String> = []
        func collect(_ value: JSON) {
            for element in value.array ?? [] { collect(element) }
            for (key, member) in value.object ?? [:] {
                keys.insert(key)
                collect(member)
            }
        }
        for ending in ["qcow2", "vhdx", "vhd"] {
            let (base, child) = (directory.file("base.\(ending)"), directory.file("child.\(ending)"))
            #expect(try Product.run("create", "-q", base, "8M").succeeded)
            #expect(try Product.run("create", "-q", "--parent", base, child).succeeded)
            for command in ["info", "map", "check"] {
                collect(try JSON(parsing: Product.run(command, "--json", child).output))
            }
        }
        collect(try info(partitioned()))
        #expect(keys.count > 60)
        for key in keys { #expect(words.contains(key[...]), "\(key) is not in the manual") }
    }

    /// The base is 0 in `map`, `info --chain` and the files of `-o layers`; `depth` is qemu-img's.
    @Test func layersHaveOneNumber() throws {
        let (base, middle, top) = (
            directory.file("base.qcow2"), directory.file("middle.qcow2"), directory.file("top.qcow2")
        )
        #expect(try Product.run("create", "-q", base, "8M").succeeded)
        for (parent, child) in [(base, middle), (middle, top)] {
            #expect(try Product.run("create", "-q", "--parent", parent, child).succeeded)
        }
        let chain = try #require(try info(top, "--chain").array)
        #expect(chain.map { $0["layer"]?.uint64 } == [2, 1, 0])
        #expect(try info(top)["layer"]?.uint64 == 2)
        let text = try Product.run("info", "--chain", top).text
        let rows = text.split(separator: "\n").filter { $0.hasPrefix("layer:") }
        #expect(rows.map { $0.last } == ["2", "1", "0"], "\(text)")
        let run = try #require(try JSON(parsing: Product.run("map", "--json", top).output)[0])
        #expect(run["depth"]?.uint64 == 2 && run["layer"]?.uint64 == 0)
        let map = try Product.run("map", top).text.split(separator: "\n")
        #expect(map.last?.split(separator: " ")[3] == "0", "\(map)")
        unlink(base)
        #expect(try info(top)["layer"] == .null)
        let orphan = try #require(try JSON(parsing: Product.run("map", "--json", top).output)[0])
        #expect(orphan["layer"] == .null && orphan["depth"]?.uint64 == 1)
        #expect(try info(top)["partitionTable"]?["problem"]?.string?.contains("the table cannot be read") == true)
    }

    /// Every line of a map has its columns where the first has them.
    @Test(.enabled(if: Tool.has("qemu-img"), "qemu-img is missing"))
    func columnsAreAligned() throws {
        let raw = directory.file("disk.raw")
        try HostFiles.truncate(raw, to: 64 << 20)
        try HostFiles.patch([UInt8](repeating: 7, count: 300_000), at: 0, of: raw)
        try HostFiles.patch([1], at: 50 << 20, of: raw)
        let packed = directory.file("packed.qcow2")
        try runSuccessfully("qemu-img", "convert", "-c", "-O", "qcow2", raw, packed)
        let lines = try Product.run("map", packed).text.split(separator: "\n").map { Array($0.utf8) }
        #expect(lines.count > 4)
        let title = String(decoding: lines[0], as: UTF8.self)
        #expect(
            title.split(separator: " ").map(String.init) == ["start", "length", "place", "layer", "offset", "file"])
        let file = try #require(title.firstRange(of: "file")).lowerBound.utf16Offset(in: title)
        let place = try #require(title.firstRange(of: "place")).lowerBound.utf16Offset(in: title)
        for line in lines {
            for column in [file, place] {
                #expect(line[column] != 0x20 && line[column - 1] == 0x20, "\(String(decoding: line, as: UTF8.self))")
            }
        }
    }
}

/// What a mount says of partition tables and sectors, in the log and on the terminal.
@Suite(.serialized, .enabled(if: FUSE.isThere, "\(FUSE.skipReason)"))
struct TableLogTests {
    private let playground: Playground

    init() throws { playground = try Playground() }

    /// What is on the terminal and in the log after a mount with `options`, and a look at everything in it, twice.
    private func said(_ image: String, _ options: String...) throws -> (terminal: String, log: String) {
        let log = playground.directory.file("log-\(image.split(separator: "/").last ?? "")-\(options.count)")
        let mounted = try ChildProcess(
            Product.path, options.flatMap { ["-o", $0] } + [image, playground.mountpoint]
        ).wait()
        #expect(mounted.succeeded, "\(mounted)")
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
        let again = try ChildProcess(
            Product.path, ["--log", log] + options.flatMap { ["-o", $0] } + [image, playground.mountpoint]
        ).wait()
        #expect(again.succeeded, "\(again)")
        for _ in 0..<2 { _ = try run("ls", "-lR", playground.mountpoint) }
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
        return (mounted.errors, try HostFiles.text(log))
    }

    @Test func anImageWithoutPartitionsSaysWhyOnce() throws {
        var bytes = GPTBuilder([(1, 1000, 1999)]).build()
        for place in [1, 2047] { bytes[place * 512 + 60] ^= 1 }
        let image = try playground.directory.write(bytes, to: "gpt.raw")
        let (terminal, log) = try said(image, "partitions")
        let words = "\(image): no partitions: no copy of the GPT is whole"
        #expect(terminal.contains(words), "\(terminal)")
        #expect(log.split(separator: "\n").filter { $0.contains(words) }.count == 1, "\(log)")
        let quiet = try said(image)
        #expect(!quiet.terminal.contains("partition") && !quiet.log.contains("partition"), "\(quiet)")
    }

    @Test func aPartitionThatIsCutIsSaidOnceInADirectoryToo() throws {
        let images = playground.directory.file("images")
        mkdir(images, 0o755)
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        bytes.put(slots: [mbrSlot(0x83, 1000, 9000)], at: 0)
        try HostFiles.write(bytes, to: images + "/disk.raw")
        let (_, log) = try said(images, "partitions")
        #expect(
            log.split(separator: "\n").filter { $0.contains("disk.raw: partition table: cut at the end") }.count == 1,
            "\(log)")
    }

    /// The example of the manual.
    @Test(.enabled(if: FUSE.isThereForRoot && Tool.has("losetup", "blockdev"), "needs root, losetup and blockdev"))
    func aLoopDeviceTakesTheSectorsOfTheDisk() throws {
        let image = playground.directory.file("large.vhdx")
        #expect(try Product.run("create", "-q", "-o", "logical_sector_size=4096", image, "8M").succeeded)
        #expect(try Product.run(image, playground.mountpoint).succeeded)
        let disk = playground.mountpoint + "/large.vhdx.raw"
        let device = try runSuccessfully("losetup", "-r", "-b", "4096", "-f", "--show", "-P", disk)
        let name = String(device.split(separator: "\n").first ?? "")
        let size = try run("blockdev", "--getss", name)
        try runSuccessfully("losetup", "-d", name)
        #expect(size.text == "4096\n", "\(size)")
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
    }

    @Test func largeSectorsAreSaid() throws {
        let image = playground.directory.file("large.vhdx")
        #expect(try Product.run("create", "-q", "-o", "logical_sector_size=4096", image, "8M").succeeded)
        let (terminal, log) = try said(image)
        #expect(terminal.contains("losetup -b 4096"), "\(terminal)")
        #expect(log.split(separator: "\n").filter { $0.contains("losetup -b 4096") }.count == 1, "\(log)")
        #expect(!(try said(playground.image).log.contains("losetup")))
    }
}
