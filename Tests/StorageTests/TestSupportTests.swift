import TestSupport
import Testing

/// The helpers that other tests trust.
@Suite struct TestSupportTests {
    @Test func readsJSON() throws {
        let json = try JSON(parsing: #" {"a": [1, -2.5e3, "x\né\ud83d\ude00"], "b": {"c": null, "d": true}} "#)
        #expect(json["a"]?[0]?.int == 1)
        #expect(json["a"]?[1] == .number("-2.5e3"))
        #expect(json["a"]?[2]?.string == "x\né😀")
        #expect(json["b"]?["c"] == .null)
        #expect(json["b"]?["d"]?.bool == true)
        #expect(try JSON(parsing: "18446744073709551615").uint64 == .max)
    }

    @Test(arguments: [
        "", "{", "[1,]", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "01", "+1", "nul", "[1] 2", "\"\u{1}\"", "\"\\x\"", "'a'",
        #""\ud800""#, "-", "1.e", "NaN",
    ])
    func refusesWhatIsNotJSON(text: String) {
        #expect(throws: JSON.SyntaxError.self) { try JSON(parsing: text) }
    }

    @Test func refusesDeepNesting() {
        #expect(throws: JSON.SyntaxError.self) { try JSON(parsing: String(repeating: "[", count: 100_000)) }
    }

    @Test func hashes() throws {
        #expect(
            try SHA256.of(Array("abc".utf8)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        let zeros = try SHA256()
        zeros.addZeros(3 << 20 | 5)
        #expect(zeros.finish() == (try SHA256.of([UInt8](repeating: 0, count: 3 << 20 | 5))))
    }

    @Test func runsPrograms() throws {
        let both = try run("sh", "-c", "printf out; printf err >&2; exit 3")
        #expect(both.text == "out")
        #expect(both.errors == "err")
        #expect(both.status == 3)
        #expect(try run("sh", "-c", "kill -9 $$").status == 128 + 9)
        let slow = try run("sleep", "30", timeout: 0.1)
        #expect(slow.timedOut && !slow.succeeded)
        #expect(try run("sh", "-c", "printf %s \"$X\"", environment: ["X": "a b"]).text == "a b")
        #expect(try run("pwd", directory: "/").text == "/\n")
        let large = try run("head", "-c", "3000000", "/dev/zero")
        #expect(large.output.count == 3_000_000)
        #expect(throws: HostFailure.self) { try run("no-such-program") }
    }

    @Test func aLeftBehindDaemonDoesNotHoldTheResult() throws {
        let result = try run("sh", "-c", "sleep 5 & echo started", timeout: 4)
        #expect(result.succeeded)
        #expect(result.text == "started\n")
    }

    @Test func temporaryDirectoriesVanish() throws {
        let path: String
        do {
            let directory = try TemporaryDirectory()
            path = directory.path
            try directory.write([1, 2, 3], to: "file")
            try runSuccessfully("mkdir", "-p", directory.file("a/b"))
            #expect(try HostFiles.read(directory.file("file")) == [1, 2, 3])
            #expect(try HostFiles.list(path) == ["a", "file"])
        }
        #expect(!HostFiles.exists(path))
    }

    @Test(
        .enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"),
        arguments: SharedImages.all.filter { ($0.fileBytes ?? 0) < 32 << 20 })
    func unpackedImagesAreTheOnesDescribed(image: SharedImage) throws {
        let path = try image.path()
        guard !image.isBundle else {
            #expect(try HostFiles.list(path).count > 1)
            return
        }
        #expect(try SHA256.ofFile(path) == image.fileSHA256)
    }
}
