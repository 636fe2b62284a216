internal import Glibc
import TestSupport
import Testing

/// `platter create` that is cut short: there is no file then, or a whole one.
///
/// A loss of power is the order of calls: what was written is on the medium before the name is, and the name before the
/// program says so. A kill is done for real, at every call that changes something.
@Suite(.enabled(if: Traced.isUsable, Traced.skipReason))
struct CreateCrashTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("create") }

    /// What is made: the arguments, and the names of the files.
    private static let kinds: [(arguments: [String], names: [String])] = [
        (["-f", "vhdx"], ["disk"]), (["-f", "vhdx", "-o", "subformat=fixed"], ["disk"]), (["-f", "vhd"], ["disk"]),
        (["-f", "vhd", "-o", "subformat=fixed"], ["disk"]), (["-f", "qcow2"], ["disk"]),
        (["-f", "qcow2", "-o", "data_file=bytes"], ["bytes", "disk"]), (["-f", "raw"], ["disk"]),
    ]

    /// The calls of a run, in order, each with its name and the rest of its line.
    private func calls(_ arguments: [String], _ rules: [String] = []) throws -> (CommandResult, [Traced.Call]) {
        let log = directory.file("log")
        let result = try ChildProcess(
            "strace",
            ["-f", "-qq", "-y", "-o", log, "-e", "trace=\(Traced.changes.joined(separator: ","))"] + rules
                + [Product.path, "create", "-q"] + arguments + [directory.file("made/disk"), "3M"]
        ).wait()
        return (result, try Traced.calls(in: log, below: directory.file("made")))
    }

    @Test(arguments: kinds)
    func theBytesAreOnTheMediumBeforeTheNameIs(_ arguments: [String], _ names: [String]) throws {
        mkdir(directory.file("made"), 0o755)
        let (result, calls) = try calls(arguments)
        #expect(result.succeeded, "\(result)")
        let named = calls.indices.filter { Traced.naming.contains(calls[$0].name) }
        #expect(named.count == names.count)
        let first = try #require(named.first)
        var written: Set<String> = []
        for call in calls[..<first] {
            if Traced.flushing.contains(call.name) { written.remove(call.file) } else { written.insert(call.file) }
        }
        #expect(written.isEmpty, "not flushed: \(written)")
        #expect(calls[first...].allSatisfy { Traced.naming.contains($0.name) || Traced.flushing.contains($0.name) })
        // The entry of the directory too, before it is said that all went well.
        let last = try #require(named.last)
        #expect(calls[last...].contains { $0.name == "fsync" && $0.file.hasSuffix("/made") })
    }

    @Test(arguments: kinds)
    func aKillAtAnyCallLeavesNoFileOrAWholeOne(_ arguments: [String], _ names: [String]) throws {
        let path = directory.file("made")
        var number = 1
        while true {
            mkdir(path, 0o755)
            let (result, _) = try calls(
                arguments, ["-e", "inject=\(Traced.changes.joined(separator: ",")):signal=SIGKILL:when=\(number)"])
            let left = try HostFiles.list(path).sorted()
            if result.succeeded {
                #expect(left == names)
                break
            }
            #expect(result.status == 128 + SIGKILL, "\(result)")
            if left.contains("disk") {
                let image = "\(path)/disk"
                #expect(left == names, "killed at call \(number)")
                #expect(try Product.run("info", image).succeeded, "killed at call \(number)")
                if !arguments.contains("raw") { #expect(try Product.run("check", image).succeeded) }
            } else {
                // A data file may be there before its image: nothing names it yet.
                #expect(Set(left).isSubset(of: names), "killed at call \(number): \(left)")
            }
            HostFiles.removeTree(path)
            number += 1
            try #require(number < 200, "the program never ends")
        }
        #expect(number > 3)
    }
}

/// What strace says of a program's calls.
enum Traced {
    struct Call {
        var name: String
        /// The file of its descriptor.
        var file: String
    }

    static let flushing: Set = ["fdatasync", "fsync"]
    static let naming: Set = ["linkat", "renameat", "renameat2"]
    static let changes = ["pwrite64", "pwritev", "ftruncate", "fallocate", "fdatasync", "fsync", "linkat", "renameat2"]

    static let skipReason: Comment = "needs strace, and to be allowed to use it"
    static let isUsable =
        (try? ChildProcess("strace", ["-qq", "-o", "/dev/null", "-y", "-e", "trace=fsync", "true"]).wait())?.succeeded
        ?? false

    /// The calls on descriptors of files below `directory` in a log of `strace -f -y`.
    static func calls(in log: String, below directory: String) throws -> [Call] {
        try HostFiles.text(log).split(separator: "\n").compactMap { line in
            // "PID name(FD</path>…"; the path of a file without a name has " (deleted)" behind it.
            let parts = line.split(separator: "(", maxSplits: 1)
            guard parts.count == 2, let name = parts[0].split(separator: " ").last else { return nil }
            let marks = parts[1].split(separator: "<", maxSplits: 1)
            guard marks.count == 2, let path = marks[1].split(separator: ">").first else { return nil }
            let isNaming = naming.contains(String(name))
            guard isNaming || path.hasPrefix(directory) else { return nil }
            return Call(name: String(name), file: String(path))
        }
    }
}
