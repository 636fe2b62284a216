import Bytes
internal import Glibc
@testable import Disk
import Glibc
import TestSupport
import Testing

@testable import platter

/// What is read from /proc and written for other programs.
@Suite struct MountTableTests {
    private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

    @Test func aLineOfMountinfo() throws {
        let line =
            "42 27 0:39 / /mnt/my\\040disk ro,nosuid shared:1 master:2 - fuse.platter /img/a\\134b.vhdx ro,user_id=0"
        let entry = try #require(MountEntry(line.utf8))
        #expect(entry.device.description == "0:39")
        #expect(entry.mountpoint == bytes("/mnt/my disk"))
        #expect(entry.source == bytes("/img/a\\b.vhdx"))
        #expect(entry.isPlatter)
        #expect(entry.has("ro") && entry.has("user_id=0") && !entry.has("rw"))
    }

    @Test(arguments: ["", "42 27 0:39 / /mnt ro", "42 27 x / /mnt ro - fuse.platter a ro", "a b c d e f g h i j"])
    func whatIsNoLine(_ line: String) {
        #expect(MountEntry(line.utf8) == nil)
    }

    @Test func escapesAreDecodedByteByByte() {
        #expect(MountEntry.decoded(bytes("a\\040b\\011c\\012d\\134e")) == bytes("a b\tc\nd\\e"))
        #expect(MountEntry.decoded(bytes("\\377\\200") + [0xFE]) == [0xFF, 0x80, 0xFE])
        #expect(MountEntry.decoded(bytes("\\04")) == bytes("\\04"))
        #expect(MountEntry.decoded(bytes("\\999")) == bytes("\\999"))
    }

    @Test func namesThatAreNoUTF8ReachJSONWhole() throws {
        let members = JSONText.name("image", [0x2F, 0xFF, 0x61])
        let json = try JSON(parsing: JSONText.object(members).text)
        #expect(json["image"]?.string == "/\u{FFFD}a")
        #expect(json["imageBytes"]?.string == "2fff61")
        #expect(JSONText.name("image", bytes("/a")).count == 1)
    }

    @Test func jsonIsEscaped() throws {
        let odd = "quote\" back\\slash \n\t\r \u{1}\u{7F} é 😀"
        let value = JSONText.object([
            (odd, .string(odd)), ("numbers", .array([.number(.max), .signed(.min)])), ("empty", .array([])),
            ("none", .null), ("nested", .array([.object([("a", .array([.bool(true)]))]), .object([])])),
        ])
        for text in [value.text, value.line] {
            let json = try JSON(parsing: text)
            #expect(json[odd]?.string == odd)
            #expect(json["numbers"]?[0]?.uint64 == .max)
            #expect(json["nested"]?[0]?["a"]?[0]?.bool == true)
        }
        #expect(!value.line.contains("\n"))
    }

    @Test(.enabled(if: Tool.has("sh", "sleep"), "sh or sleep is missing"))
    func aServerIsNoUserOfItsOwnMount() throws {
        let directory = try TemporaryDirectory("users")
        let file = try directory.write([1], to: "held")
        let process = try ChildProcess("sh", ["-c", "exec sleep 60 5<'\(file)'"])
        defer { process.stop(SIGKILL) }
        let path = bytes(directory.path)
        for _ in 0..<500 where MountUsers.of([path])[0].isEmpty { usleep(10_000) }
        let user = try #require(MountUsers.of([path])[0].first)
        let pid = try #require(Int32(user.split(separator: " ").last?.dropLast() ?? ""))
        #expect(user.hasPrefix("sleep (pid "))
        #expect(MountUsers.of([path], servers: [pid]) == [[]])
        #expect(MountUsers.of([path, path], servers: [nil, pid]) == [[user], []])
    }

    @Test func aNameCannotBreakALine() {
        #expect(Printable.line("a\nb\u{1B}[31m\u{85}") == "a\\x0ab\\x1b[31m\\x85")
        #expect(Failure(.mount, "x\ny").line == "platter: x\\x0ay\n")
    }

    @Test func sizesForPeople() {
        #expect(Printable.size(0) == "0 bytes")
        #expect(Printable.size(1023) == "1023 bytes")
        #expect(Printable.size(1536) == "1.5 KiB")
        #expect(Printable.size(64 << 40) == "64 TiB")
        #expect(Printable.size(.max) == "15.9 EiB")
    }

    @Test func notesOfServersAreReadBack() throws {
        let device = try #require(MountEntry.Device("0:57"))
        let entry = RuntimeEntry(pid: 1234, startTime: 99, device: device, noted: 7)
        #expect(RuntimeEntry(entry.text) == entry)
        #expect(RuntimeEntry(entry.text + "later something\n") == entry)
        #expect(RuntimeEntry("pid 1234\n") == nil)
        #expect(RuntimeEntry("pid 1\nstart 2\ndevice 0:57\n") == nil)
        #expect(!entry.isAlive, "no process 1234 started at tick 99")
        #expect(entry.place == nil)
        var placed = entry
        placed.place = RuntimeEntry.Place(
            source: [0x2F, 0xFF, 0x0A, 0x5C, 0x20], mountpoint: bytes("/mnt/a b"), mode: "overlay",
            overlay: bytes("/x\ny\\040"))
        #expect(RuntimeEntry(placed.text) == placed, "\(placed.text)")
        #expect(placed.text.split(separator: "\n").count == 8)
    }

    /// A process that was killed stays in /proc until its parent has asked for its status.
    @Test func aProcessThatHasEndedDoesNotRun() {
        let rest = "1 " + (5...21).map(String.init).joined(separator: " ") + " 4711 23 24"
        let states: [(String, UInt64?)] = [("S", 4711), ("R", 4711), ("D", 4711), ("Z", nil), ("X", nil), ("x", nil)]
        for (state, start) in states {
            let stat = bytes("77 (pla) t (er) \(state) \(rest)\n")
            #expect(RuntimeDirectory.startTime(inStat: stat) == start, "\(state)")
        }
        #expect(RuntimeDirectory.startTime(inStat: bytes("77 (x)")) == nil)
        #expect(RuntimeDirectory.startTime(inStat: []) == nil)
    }

    /// The number of a device goes to the next mount while the server of the last one is still about to end.
    @Test func ofTwoServersOnOneDeviceTheLaterIsRight() throws {
        let device = try #require(MountEntry.Device("0:57"))
        let ending = RuntimeEntry(pid: 1234, startTime: 99, device: device, noted: 7)
        let serving = RuntimeEntry(pid: 77, startTime: 99, device: device, noted: 8)
        for entries in [[ending, serving], [serving, ending]] {
            #expect(RuntimeDirectory.latestFirst(entries).first { $0.device == device } == serving)
        }
    }

    @Test func pathsInsideAMount() {
        #expect(MountUsers.isInside(bytes("/mnt/a"), bytes("/mnt")))
        #expect(MountUsers.isInside(bytes("/mnt"), bytes("/mnt")))
        #expect(!MountUsers.isInside(bytes("/mnt2"), bytes("/mnt")))
        #expect(MountUsers.isInside(bytes("/a"), bytes("/")))
    }

    @Test func aMountIsFoundByPlaceAndByImage() throws {
        let lines = """
            1 0 0:1 / /mnt/a ro - fuse.platter /img/one ro
            2 0 0:2 / /mnt/b ro - fuse.platter /img/two ro
            3 0 0:3 / /mnt/c ro - fuse.platter /img/two ro
            4 0 0:4 / /mnt/a ro - fuse.platter /img/top ro
            """
        let mounts = MountTable.entries(of: bytes(lines))
        #expect(mounts.count == 4)
        #expect(try Unmounter.find("/img/one", in: mounts).device.minor == 1)
        #expect(try Unmounter.find("/mnt/b/", in: mounts).device.minor == 2)
        #expect(try Unmounter.find("/mnt/a", in: mounts).device.minor == 4, "the one on top")
        let twice = #expect(throws: Failure.self) { try Unmounter.find("/img/two", in: mounts) }
        #expect(twice?.message.contains("/mnt/b, /mnt/c") == true)
        #expect(throws: Failure.self) { try Unmounter.find("/img/three", in: mounts) }
    }

    @Test func neighbouringRunsAreJoined() throws {
        let runs = [("/a", UInt64(0)), ("/a", 4096), ("/b", 8192)].enumerated().map { index, place in
            let start = UInt64(index) * 4096
            return MappedRun(
                range: ByteRange(start, to: start + 4096), place: .data(file: place.0, offset: place.1), layer: 0)
        }
        let joined = try #require(MapReport.join(runs[0], runs[1]))
        #expect(joined.range.length == 8192)
        #expect(MapReport.join(joined, runs[2]) == nil)
    }

    /// Root reads the notes of all users, who may have put anything there.
    @Test(.enabled(if: geteuid() == 0 && access("/run", W_OK) == 0, "needs root and /run"))
    func notesOfOthersAreNotTrusted() throws {
        let (user, home): (UInt32, String) = (54_321, "/run/user/54321")
        defer { _ = try? TestSupport.run("rm", "-rf", home) }
        mkdir("/run/user", 0o755)
        mkdir(home, 0o700)
        mkdir(home + "/platter", 0o755)
        let start = try #require(RuntimeDirectory.startTime(of: getpid()))
        let device = try #require(MountEntry.Device("0:999"))
        let entry = RuntimeEntry(pid: getpid(), startTime: start, device: device, noted: .max)
        let lie = home + "/platter/\(getpid())"
        try HostFiles.write(Array(entry.text.utf8), to: lie)
        #expect(mkfifo(home + "/platter/1", 0o644) == 0)
        #expect(symlink(lie, home + "/platter/2") == 0)
        for path in [home, home + "/platter", lie, home + "/platter/1"] { #expect(chown(path, user, user) == 0) }
        #expect(RuntimeDirectory.entries().allSatisfy { $0.device != device }, "a process of root's, said by another")
        var claimed = entry
        (claimed.path, claimed.owner) = (lie, user)
        #expect(RuntimeDirectory.takeFailure(of: claimed) == nil)
        #expect(access(lie, F_OK) == 0, "root removed a file from a directory of somebody else's")
    }
}
