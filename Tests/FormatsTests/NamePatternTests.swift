import Bytes
import Formats
import Glibc
import TestSupport
import Testing

/// Patterns for names of files, against fnmatch(3) where that has the same rules.
struct NamePatternTests {
    @Test(
        arguments: [
            ("*.img", ["a.img", ".img", "a.b.img"], ["a.IMG", "img", "a.img.gz"]),
            ("disk?.raw", ["disk1.raw", "diskä.raw"], ["disk.raw", "disk12.raw"]),
            ("[a-c]*", ["a", "bcd", "c.img"], ["d", "", "A"]), ("[!a-c]x", ["dx", "äx"], ["ax", "x"]),
            ("[]x]", ["]", "x"], ["[", ""]), ("[a", ["[a"], ["a"]), ("a\\*b", ["a*b"], ["axb", "a\\*b"]),
            ("a**b", ["ab", "axxb"], ["a"]), ("[ä-ü]", ["ö"], ["o"]), ("noble", ["noble"], ["noble-", "nobl"]),
            ("[\\]]", ["]"], ["\\"]), ("[z-a]", [], ["a", "z", "m"]), ("[a-]", ["-", "a"], ["b"]),
        ] as [(String, [String], [String])])
    func matches(_ text: String, _ yes: [String], _ no: [String]) throws {
        let pattern = try #require(NamePattern(text))
        for name in yes { #expect(pattern.matches(name.utf8), "\(name)") }
        for name in no { #expect(!pattern.matches(name.utf8), "\(name)") }
    }

    @Test(arguments: ["", "a/b", "/", "[[:alpha:]]", "[a[.x.]]"])
    func whatIsNoPattern(_ text: String) { #expect(NamePattern(text) == nil) }

    /// A name need not be UTF-8; each odd byte is one that only wildcards match.
    @Test func namesAreBytes() throws {
        let name: [UInt8] = [0x66, 0xFF, 0xC3] + Array(".img".utf8)
        for text in ["*.img", "f??.img", "f*", "f[!a]?.img"] {
            #expect(try #require(NamePattern(text)).matches(name), "\(text)")
        }
        for text in ["f?.img", "f.img", "f[a-z]?.img"] {
            #expect(try !#require(NamePattern(text)).matches(name), "\(text)")
        }
    }

    @Test func agreesWithTheHost() throws {
        var random = SeededRandom(seed: 11)
        func text(_ letters: [Character], _ longest: UInt64) -> String {
            String((0..<(1 + random.next() % longest)).map { _ in letters[Int(random.next() % UInt64(letters.count))] })
        }
        var agreed = 0
        for _ in 0..<20_000 {
            let pattern = text(["a", "b", "c", "*", "?", "[", "]", "!", "-", "a", "b"], 9)
            let name = text(["a", "b", "c", "-", "]", "!"], 7)
            guard let ours = NamePattern(pattern) else { continue }
            let host = fnmatch(pattern, name, 0) == 0
            #expect(ours.matches(name.utf8) == host, "\(pattern) \(name)")
            agreed += host ? 1 : 0
        }
        #expect(agreed > 400)
    }

    @Test func manyStarsTakeNoTime() throws {
        let pattern = try #require(NamePattern(String(repeating: "a*", count: 120) + "b"))
        let start = ContinuousClock.now
        #expect(!pattern.matches([UInt8](repeating: 0x61, count: 255)))
        #expect(ContinuousClock.now - start < .seconds(1))
    }
}
