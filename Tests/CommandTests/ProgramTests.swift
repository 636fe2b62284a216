internal import Glibc
import TestSupport
import Testing

/// The built program without a mount: help, usage, exit statuses, info and map.
@Suite struct ProgramTests {
    @Test func helpAndVersion() throws {
        for arguments in [
            ["--help"], ["mount", "--help"], ["umount", "-h"], ["list", "--help"], ["info", "--help"],
            ["check", "--help"], ["create", "--help"],
        ] {
            let result = try ChildProcess(Product.path, arguments).wait()
            #expect(result.succeeded, "\(result)")
            #expect(result.text.hasPrefix("usage: platter"), "\(result)")
            #expect(result.errors.isEmpty)
        }
        #expect(try Product.run("--version").text.hasPrefix("platter 0."))
    }

    @Test(arguments: [
        [], ["only-a-source"], ["a", "b", "c"], ["-o", "colour", "a", "b"], ["--colour", "a", "b"],
        ["-o", "ro,write", "a", "b"], ["-w", "--overlay", "tmp", "a", "b"], ["--overlay", "tmp", "/", "a"],
        ["-o", "remount", "a", "b"], ["info"], ["map"],
        ["map", "a", "b"], ["umount"], ["umount", "--wait", "--lazy", "a"], ["umount", "--timeout", "soon", "a"],
        ["list", "a", "b"], ["check"],
        ["check", "a", "b"], ["check", "--colour", "a"], ["create"], ["create", "a.qcow2"], ["convert"], ["resize"],
        ["compact"], ["commit"], ["snapshot"],
    ])
    func usageErrorsAreOneLineAndStatus1(_ arguments: [String]) throws {
        let result = try ChildProcess(Product.path, arguments).wait()
        #expect(result.status == 1, "\(result)")
        #expect(result.output.isEmpty)
        #expect(result.errors.hasPrefix("platter: ") && result.errors.hasSuffix("\n"), "\(result)")
        #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
        // The help that it names is about the command that was typed.
        if arguments.first == "umount" { #expect(!result.errors.contains("see platter mount"), "\(result)") }
    }

    @Test func aCommandsNameWithASlashIsAnImage() throws {
        let result = try Product.run("./info", "/nowhere")
        #expect(result.status == 32, "\(result)")
        #expect(result.errors.contains("./info: no such file"), "\(result)")
    }

    @Test func closedStreamsAreOpenedFirst() throws {
        let playground = try Playground()
        let command = "'\(Product.path)' info --json '\(playground.image)' 0<&- 2>&- | head -c 1"
        #expect(try runSuccessfully("sh", "-c", command) == "{")
        let full = try run("sh", "-c", "'\(Product.path)' info '\(playground.image)' > /dev/full")
        #expect(full.status == 2, "\(full)")
        #expect(full.errors.contains("standard output"), "\(full)")
    }

    @Test func infoAndMapOfARawImage() throws {
        let playground = try Playground()
        try HostFiles.truncate(playground.image, to: 4 << 20)
        let info = try JSON(parsing: try Product.run("info", "--json", playground.image).output)
        #expect(info["format"]?.string == "raw")
        #expect(info["virtualSize"]?.uint64 == 4 << 20)
        #expect(info["allocatedBytes"]?.uint64 == 1 << 20)
        let map = try #require(try JSON(parsing: Product.run("map", "--json", playground.image).output).array)
        #expect(map.count == 2)
        #expect(map[0]["data"]?.bool == true && map[0]["offset"]?.uint64 == 0)
        #expect(map[0]["file"]?.string == playground.image)
        #expect(map[1]["zero"]?.bool == true && map[1]["start"]?.uint64 == 1 << 20)
        let text = try Product.run("map", playground.image).text
        #expect(
            text == """
                  start   length  place    layer   offset  file
                      0  1048576  data         0        0  \(playground.image)
                1048576  3145728  zero         0        -  -

                """)
        let facts = try Product.run("info", playground.image).text
        #expect(facts.contains("4194304 bytes (4 MiB)"))
        let format = facts.split(separator: "\n").first { $0.hasPrefix("format:") }
        #expect(format?.split(separator: " ").dropFirst() == ["raw"], "\(facts)")
    }

    @Test(
        .enabled(if: Tool.has("qemu-img"), "qemu-img is missing"),
        arguments: ["qcow2", "vhdx", "vpc"])
    func mapAgreesWithQemuOnWhatIsData(_ format: String) throws {
        let directory = try TemporaryDirectory("map")
        let raw = directory.file("disk.raw")
        try HostFiles.truncate(raw, to: 16 << 20)
        var random = SeededRandom(seed: 3)
        for block: Int64 in [0, 3, 4, 7] { try HostFiles.patch(random.bytes(2 << 20), at: block << 21, of: raw) }
        let image = directory.file("disk.\(format)")
        try runSuccessfully("qemu-img", "convert", "-f", "raw", "-O", format, raw, image)
        let runs = try #require(try JSON(parsing: Product.run("map", "--json", image).output).array)
        var position: UInt64 = 0
        let file = try HostFiles.read(image)
        let content = try HostFiles.read(raw)
        let zeros = [UInt8](repeating: 0, count: content.count)
        for run in runs {
            let start = try #require(run["start"]?.uint64)
            let length = try #require(run["length"]?.uint64)
            #expect(start == position)
            position += length
            let count = min(content.count, Int(start + length)) - Int(start)
            guard count > 0 else { continue }
            let offset = run["data"]?.bool == true ? Int(try #require(run["offset"]?.uint64)) : nil
            let isEqual = content.withUnsafeBytes { content in
                (offset == nil ? zeros : file).withUnsafeBytes { stored in
                    memcmp(content.baseAddress! + Int(start), stored.baseAddress! + (offset ?? 0), count) == 0
                }
            }
            #expect(isEqual, "\(start)")
        }
        #expect(position >= 16 << 20)
    }

    @Test func infoSaysWhatIsWrong() throws {
        let directory = try TemporaryDirectory("info")
        let cases = [
            (directory.file("missing.vhdx"), "no such file"),
            (directory.path, "directory"),
            (try directory.write([], to: "empty.qcow2"), "empty"),
            (try directory.write(Array("no image at all".utf8), to: "text.vhdx"), "holds text and no disk image"),
        ]
        for (path, reason) in cases {
            for command in ["info", "map"] {
                let result = try Product.run(command, path)
                #expect(result.status == 2, "\(result)")
                #expect(result.errors.contains(path) && result.errors.contains(reason), "\(result)")
                #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
            }
        }
    }

    @Test func whoHasTooFewDescriptorsIsToldWhatToRaise() throws {
        let directory = try TemporaryDirectory("few")
        let image = try directory.write([UInt8](repeating: 0, count: 4096), to: "disk.raw")
        for command in ["info", "map", "check"] {
            let result = try run(
                "sh", "-c", "ulimit -n 4; exec \"$1\" \(command) \"$2\"", "sh", Product.path, image)
            #expect(result.status == (command == "check" ? 1 : 2), "\(result)")
            #expect(result.errors.hasSuffix("; raise the limit on open files (ulimit -n)\n"), "\(result)")
            #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
        }
    }

    @Test(.enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"))
    func jsonOfEverySharedImageIsValid() throws {
        for image in SharedImages.images(.equal) {
            let path = try image.path()
            let info = try Product.run("info", "--json", "--chain", path)
            // The one that cannot be read yet, and says so.
            guard image.name != "gen-luks.qcow2" else {
                #expect(info.status == 2 && info.errors.contains("encrypted"), "\(info)")
                continue
            }
            #expect(info.succeeded, "\(info)")
            let first = try #require(try JSON(parsing: info.output)[0])
            if let size = image.virtualSize { #expect(first["virtualSize"]?.uint64 == size, "\(image)") }
            let runs = try #require(try JSON(parsing: Product.run("map", "--json", path).output).array, "\(image)")
            var position: UInt64 = 0
            for run in runs {
                #expect(run["start"]?.uint64 == position, "\(image)")
                position += run["length"]?.uint64 ?? 0
            }
            #expect(position == first["virtualSize"]?.uint64, "\(image)")
        }
    }

    @Test(.enabled(if: Tool.has("ldd"), "ldd is missing"))
    func foundationIsNotLinked() throws {
        let libraries = try runSuccessfully("ldd", Product.path)
        #expect(libraries.contains("libfuse3"), "\(libraries)")
        #expect(!libraries.contains("Foundation"), "\(libraries)")
        let release = SharedImages.packageRoot + "/.build/release/platter"
        for binary in [Product.path, release] where HostFiles.exists(binary) && Tool.has("nm") {
            // The mangled name of the module: $s10Foundation…, $s20FoundationEssentials….
            let symbols = try run("sh", "-c", "nm '\(binary)' | grep -c -E '[$]s(10Foundation|20FoundationEssentials)'")
            #expect(symbols.text == "0\n", "\(binary)")
        }
    }
}
