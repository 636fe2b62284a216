import Glibc
import TestSupport
import Testing

@testable import platter

/// What the program says to somebody who does not know it well: help that fits a terminal, and the nearest word for one
/// that it does not know.
@Suite struct HelpTests {
    private func run(_ arguments: [String], in directory: String? = nil) throws -> CommandResult {
        try ChildProcess(Product.path, arguments, directory: directory).wait()
    }

    // MARK: - Help

    @Test(arguments: [nil] + Command.all.map { $0.name as String? })
    func helpGoesToStandardOutputAndFits80Columns(_ name: String?) throws {
        let words = name.map { [$0] } ?? []
        let text = try run(words + ["--help"])
        #expect(text.succeeded && text.errors.isEmpty && text.text.hasPrefix("usage: platter"), "\(text)")
        for line in text.text.split(separator: "\n") { #expect(line.count <= 80, "\(line)") }
        let other = try run(["help"] + words)
        #expect(other.succeeded && other.output == text.output, "\(other)")
    }

    @Test(arguments: ["qcow2", "vhdx", "vhd", "raw"])
    func helpOnAFormatsOptionsFits(_ format: String) throws {
        let result = try run(["create", "-f", format, "-o", "help"])
        #expect(result.succeeded && result.text.hasPrefix("options of \(format):\n"), "\(result)")
        for line in result.text.split(separator: "\n") { #expect(line.count <= 80, "\(line)") }
    }

    @Test func everyOptionThatHasHelpIsInItWhole() {
        let text = OptionTable.mount.helpText.split(whereSeparator: { $0 == " " || $0 == "\n" }).joined(separator: " ")
        for option in OptionTable.mount.options {
            if let help = option.help { #expect(text.contains(help), "\(help)") }
        }
    }

    @Test func textIsWrappedAtSpaces() {
        #expect(Wrapping.lines("one two  three\nfour", width: 8) == ["one two", "three", "four"])
        #expect(Wrapping.lines("a-word-that-is-too-long b", width: 4) == ["a-word-that-is-too-long", "b"])
        #expect(Wrapping.lines("", width: 4).isEmpty)
        #expect(Wrapping.paragraphs("a\nb\n\nc") == "a b\n\nc\n")
        let synopsis = Wrapping.synopsis("usage: platter ", "create " + String(repeating: "[-o KEY VALUE] ", count: 5))
        #expect(synopsis.split(separator: "\n").count == 2)
        #expect(synopsis.split(separator: "\n")[1].hasPrefix(String(repeating: " ", count: 22) + "[-o KEY VALUE]"))
    }

    // MARK: - Commands

    @Test(arguments: [
        (["lst"], "platter list"), (["mout", "img", "dir"], "platter mount"), (["chek", "x"], "platter check"),
        (["unmount", "/mnt"], "platter umount"), (["Info", "x"], "platter info"),
        (["craete", "-f", "raw"], "platter create"),
        (["convrt"], "platter convert"), (["hlep"], "platter help"), (["help", "lst"], "platter help list"),
        (["ls"], "platter list"),
    ])
    func aTypoInACommandNamesTheNearest(_ arguments: [String], _ nearest: String) throws {
        let result = try run(arguments)
        #expect(result.status == 1 && result.output.isEmpty, "\(result)")
        #expect(result.errors.contains("no such command"), "\(result)")
        #expect(result.errors.contains("(did you mean '\(nearest)'?); see platter --help\n"), "\(result)")
    }

    @Test func whatIsNearNothingIsSaidToBeNeither() throws {
        let alone = try run(["quux"])
        #expect(alone.status == 1 && alone.errors == "platter: quux: no such command or file; see platter --help\n")
        // With a mountpoint it is taken for an image.
        let two = try run(["quux", "/mnt"])
        #expect(two.status != 0 && two.errors.contains("quux: no such file"), "\(two)")
        let help = try run(["help", "quux"])
        #expect(help.status == 1 && help.errors.contains("quux: no such command;"), "\(help)")
        for words in [["convert"], ["help", "convert"]] {
            #expect(try run(words).errors.contains("this version of platter has no such command yet"))
        }
    }

    /// A file whose name looks like a command's is an image all the same, and so is whatever has a slash.
    @Test func aFileOfThatNameIsStillAnImage() throws {
        let directory = try TemporaryDirectory("typo")
        try directory.write([UInt8](repeating: 0, count: 4096), to: "lst")
        symlink("nowhere", directory.file("mout"))
        for (arguments, says) in [
            (["lst", "nowhere"], "nowhere"), (["mout", "nowhere"], "mout"),
            (["./chek", "nowhere"], "./chek: no such file"),
        ] {
            let result = try run(arguments, in: directory.path)
            #expect(result.status != 0 && result.errors.contains(says), "\(result)")
            #expect(!result.errors.contains("no such command"), "\(result)")
        }
    }

    // MARK: - Options

    @Test(arguments: [
        (["--alow-parents", "/x", "a", "b"], "--allow-parents"), (["-o", "partitons", "a", "b"], "partitions"),
        (["--hlep"], "--help"), (["--vresion"], "--version"), (["info", "--hlep"], "--help"), (["-help"], "--help"),
        (["--partitions", "a", "b"], "-o partitions"), (["-partitions", "a", "b"], "-o partitions"),
        (["-o", "foreground", "a", "b"], "--foreground"), (["-o", "nofial", "a", "b"], "nofail"),
        (["check", "--repiar", "a"], "--repair"), (["umount", "--timout", "3", "a"], "--timeout"),
        (["info", "-o", "fromat=raw", "a"], "format"), (["list", "--jason"], "--json"),
        (["create", "-f", "qcow2", "-o", "cluster_sise=4096", "a", "1M"], "cluster_size"),
    ])
    func aTypoInAnOptionNamesTheNearest(_ arguments: [String], _ nearest: String) throws {
        let result = try run(arguments)
        #expect(result.status == 1 && result.output.isEmpty, "\(result)")
        #expect(result.errors.contains("(did you mean '\(nearest)'?)"), "\(result)")
        #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
    }

    @Test func aWrongValueNamesTheHelpOfItsCommand() throws {
        for (arguments, command) in [
            (["-o", "threads=0", "a", "b"], "mount"), (["check", "-o", "cache-size=x", "a"], "check"),
            (["umount", "--timeout", "soon", "a"], "umount"),
        ] {
            let result = try run(arguments)
            #expect(result.status == 1 && result.errors.hasSuffix("; see platter \(command) --help\n"), "\(result)")
        }
    }

    @Test(arguments: [
        ("", "", 0), ("list", "list", 0), ("lst", "list", 1), ("lsit", "list", 1), ("list", "", 4),
        ("chek", "check", 1),
        ("partitons", "partitions", 1), ("abc", "xyz", 3), ("ca", "abc", 3),
    ])
    func distances(_ first: String, _ second: String, _ distance: Int) {
        #expect(Suggestion.distance(Array(first.utf8), Array(second.utf8)) == distance)
        #expect(Suggestion.distance(Array(second.utf8), Array(first.utf8)) == distance)
    }

    @Test func longWordsAreNearNothing() {
        #expect(Suggestion.nearest(to: String(repeating: "list", count: 100_000), among: ["list"]) == nil)
    }
}
