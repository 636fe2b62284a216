internal import Bytes
@testable internal import Disk
internal import Formats
internal import Glibc
internal import Storage
internal import TestSupport
internal import Testing

/// Which files an image may name (DESIGN.md, "Trust"), with real directories and symbolic links.
struct OpenGateTests {
    private let scratch: TemporaryDirectory
    private let image: String

    /// home/image, home/sub/inside, other/outside, and links in home.
    init() throws {
        scratch = try TemporaryDirectory("gate")
        for directory in ["home", "home/sub", "other", "homely"] {
            try #require(mkdir(scratch.file(directory), 0o755) == 0)
        }
        image = try scratch.write([1], to: "home/image")
        try scratch.write([2], to: "home/sub/inside")
        try scratch.write([3], to: "other/outside")
        try scratch.write([4], to: "homely/neighbour")
        try scratch.write([5], to: "home/base.vhd")
        try link("home/good", to: "sub/inside")
        try link("home/bad", to: "../other/outside")
        try link("home/absolute", to: scratch.file("home/sub/inside"))
        try link("home/loop", to: "loop")
        try link("home/away", to: "../other")
        try #require(mkfifo(scratch.file("home/fifo"), 0o644) == 0)
    }

    private func link(_ name: String, to target: String) throws {
        try #require(symlink(target, scratch.file(name)) == 0)
    }

    /// What `text` leads to when the image at `path` names it: the first byte of the file.
    private func open(
        _ text: String, base: ParentReference.Path.Base = .image, from path: String? = nil, allowed: [String] = []
    ) throws -> UInt8 {
        let image = path ?? self.image
        let gate = try OpenGate(image: image, allowed: allowed)
        var last: OpenGate.Refusal?
        for candidate in try gate.candidates(ParentReference.Path(base: base, text: text), namedBy: image) {
            do {
                return try gate.open(candidate).bytes(at: .init(0), count: 1)[0]
            } catch let refusal as OpenGate.Refusal { last = refusal }
        }
        throw last?.error ?? ImageError(.missing, "no candidate")
    }

    @Test(arguments: [
        ("sub/inside", 2), ("./sub//inside", 2), ("sub/../sub/inside", 2), ("../home/sub/inside", 2), ("good", 2),
        ("sub/../base.vhd", 5),
    ])
    func opensWhatLiesBelow(_ text: String, _ byte: UInt8) throws {
        #expect(try open(text) == byte)
        #expect(try open(scratch.file("home/\(text)"), base: .host) == byte)
    }

    @Test(arguments: [
        "../other/outside", "../homely/neighbour", "bad", "away/outside", "sub/../../other/outside",
        "/etc/passwd", "../../../../../../../../etc/passwd",
    ])
    func refusesWhatLiesOutside(_ text: String) throws {
        let error = try failure { try open(text, base: text.hasPrefix("/") ? .host : .image) }
        #expect(error.kind == .denied)
        #expect("\(error)".contains("--allow-parents DIR"))
        #expect(error.file?.isEmpty == false)
    }

    @Test func allowedDirectoriesOpenMore() throws {
        let other = scratch.file("other")
        #expect(try open("../other/outside", allowed: [other]) == 3)
        #expect(try open("\(other)/outside", base: .host, allowed: [other + "/"]) == 3)
        #expect(try open("../homely/neighbour", allowed: [scratch.path]) == 4)
        // An absolute link that leads back is no way out.
        #expect(try open("absolute") == 2)
        // A link may lead from one directory to another, or within a wider one; to no third one.
        #expect(try open("bad", allowed: [scratch.path]) == 3)
        #expect(try open("bad", allowed: [other]) == 3)
        #expect(try failure { try open("bad", allowed: [scratch.file("home/sub")]) }.kind == .denied)
        // The directory may be named through a link, and the image may spell it so.
        try link("alias", to: "other")
        let alias = scratch.file("alias")
        #expect(try open("\(alias)/outside", base: .host, allowed: [alias]) == 3)
        #expect(try open("\(other)/outside", base: .host, allowed: [alias]) == 3)
    }

    @Test func anAllowedDirectoryThatDoesNotExistIsNamed() throws {
        let error = try failure { try open("sub/inside", allowed: [scratch.file("other"), "/nonexistent"]) }
        #expect(error.kind == .missing && error.file == "/nonexistent")
        #expect(try failure { try open("sub/inside", allowed: [image]) }.file == image)
    }

    @Test func imagesBehindLinksHaveTwoDirectories() throws {
        try link("other/entry", to: "../home/image")
        let entry = scratch.file("other/entry")
        #expect(try open("sub/inside", from: entry) == 2)
        #expect(try open("outside", from: entry) == 3)
        #expect(try failure { try open("../homely/neighbour", from: entry) }.kind == .denied)
    }

    @Test func textualParentsOfLinksAreNotTrusted() throws {
        // home/away/.. is the scratch directory's "other/..", not home.
        let roundabout = scratch.file("home/away/../homely/neighbour")
        #expect(OpenGate.directories(of: roundabout) == [scratch.file("homely")])
    }

    @Test func windowsPathsMeanTheirLongestEnd() throws {
        #expect(try open("C:/home/sub/inside", base: .windows) == 2)
        #expect(try open("C:/x/../sub/inside", base: .windows) == 2)
        #expect(try open("C:/Images/base.vhd", base: .windows) == 5)
        #expect(try open("\\\\?\\Volume{1}\\sub\\base.vhd", base: .windows) == 5)
        #expect(try open("//server/share/outside", base: .windows, allowed: [scratch.file("other")]) == 3)
        #expect(try failure { try open("C:/Images/none.vhd", base: .windows) }.kind == .missing)
        #expect(try failure { try open("C:/Images/..", base: .windows) }.kind == .missing)
    }

    @Test(arguments: ["json:{\"driver\":\"file\"}", "nbd:localhost:10809", "http://host/a", "fd:3", "a:b", "", "a\0b"])
    func refusesWhatIsNoFile(_ text: String) throws {
        #expect(try failure { try open(text) }.kind == .denied)
    }

    @Test func refusesWhatIsNoRegularFile() throws {
        #expect(try failure { try open("fifo") }.kind == .unsupported)
        #expect(try failure { try open("sub") }.kind == .unsupported)
        #expect(try failure { try open("none") }.kind == .missing)
        #expect(try failure { try open("loop") }.kind == .denied)
    }

    @Test(
        arguments: [
            ("D:/vm/base/x", ["vm/base/x", "base/x", "x"]), ("\\\\?\\C:\\a\\x", ["a/x", "x"]),
            ("//?/Volume{1}/a/./x", ["a/x", "x"]), ("//nas/s/x", ["nas/s/x", "s/x", "x"]), ("a/../x", ["x"]),
            ("../../a/x", ["a/x", "x"]), ("x", ["x"]), ("C:", []), ("a/..", []), ("a/.", []), ("", []),
            ("C:/../..", []),
        ] as [(String, [String])])
    func pathsHaveEnds(_ text: String, _ ends: [String]) {
        #expect(PathText.tails(text) == ends)
        #expect(PathText.tails(String(repeating: "a/", count: 2000) + "x").count == 16)
    }

    @Test(arguments: [
        ("/a/b", "../c", "/a/c"), ("/", "../../x", "/x"), ("/a", "./b//c/.", "/a/b/c"), ("/a", "/b/../c", "/c"),
    ])
    func joinsPaths(_ directory: String, _ text: String, _ expected: String) {
        #expect(PathText.join(directory, text) == expected)
    }
}
