import Formats
import Storage
import TestSupport
import Testing

/// What the name of a backing file means in images of the QEMU family.
@Suite struct RecordedNameTests {
    typealias Path = ParentReference.Path

    private func reference(_ name: String, format: String? = nil) throws -> ParentReference {
        var builder = QCOW2Builder()
        builder.backingName = Array(name.utf8)
        if let format { builder.extensions = [(0xE279_2ACA, Array(format.utf8))] }
        let parent = try #require(try builder.open().driver.parent)
        #expect(parent.recorded == [name])
        #expect(parent.identities.isEmpty)
        return parent
    }

    @Test(
        arguments: [
            ("file:base.raw", .image, "base.raw"), ("file:/srv/base.raw", .host, "/srv/base.raw"),
            ("file:///srv/base", .host, "///srv/base"), ("file:10:30.qcow2", .image, "./10:30.qcow2"),
            ("file:a%20b", .image, "a%20b"), ("file:../a", .image, "../a"),
            ("host_device:/dev/vg/base", .host, "/dev/vg/base"),
        ] as [(String, Path.Base, String)])
    func prefixesOfLocalFilesAreTakenAway(_ name: String, _ base: Path.Base, _ text: String) throws {
        #expect(try reference(name).paths == [Path(base: base, text: text)])
    }

    @Test(
        arguments: [
            (#"C:\VM\base.qcow2"#, "C:/VM/base.qcow2"), ("D:/VM/base.qcow2", "D:/VM/base.qcow2"),
            ("z:base.qcow2", "z:base.qcow2"),
        ])
    func aDriveIsNoProtocol(_ name: String, _ text: String) throws {
        #expect(try reference(name).paths == [Path(base: .windows, text: text)])
    }

    @Test func aNameWithBackslashesIsTakenLiterallyFirst() throws {
        #expect(
            try reference(#"\\nas\vm\base.qcow2"#).paths == [
                Path(base: .image, text: #"\\nas\vm\base.qcow2"#), Path(base: .windows, text: "//nas/vm/base.qcow2"),
            ])
        #expect(
            try reference("//nas/vm/base.qcow2").paths == [
                Path(base: .host, text: "//nas/vm/base.qcow2"), Path(base: .windows, text: "//nas/vm/base.qcow2"),
            ])
        #expect(
            try reference(#"\\?\C:\base.qcow2"#).paths == [
                Path(base: .image, text: #"./\\?\C:\base.qcow2"#), Path(base: .windows, text: "//?/C:/base.qcow2"),
            ])
        #expect(
            try reference(#"..\vm\base.qcow2"#).paths == [
                Path(base: .image, text: #"..\vm\base.qcow2"#), Path(base: .image, text: "../vm/base.qcow2"),
            ])
        #expect(try reference(#"dir/a\b"#).paths == [Path(base: .image, text: #"dir/a\b"#)])
    }

    @Test(arguments: [
        "nbd:127.0.0.1:1", "http://host/x", "rbd:pool/image", "ssh://host/x", "iscsi://host/x", "fat:/dir", "ab:c", ":",
        "file:", "1:x", "host_cdrom:/dev/sr0",
    ])
    func protocolsLeadNowhere(_ name: String) throws {
        #expect(try reference(name).paths == [Path(base: .elsewhere, text: name)])
    }

    // MARK: - json:

    @Test(
        arguments: [
            (#"{"driver":"qcow2","file":{"driver":"file","filename":"/srv/base"}}"#, "qcow2", "/srv/base"),
            (#"{"driver": "qcow2", "file.driver": "file", "file.filename": "/srv/base"}"#, "qcow2", "/srv/base"),
            (#"{"file.filename":"/srv/base","driver":"vpc"}"#, "vpc", "/srv/base"),
            (#"{"file":{"driver":"host_device","filename":"/dev/vg/a"}}"#, nil, "/dev/vg/a"),
            (#"{"driver":"file","filename":"/srv/base"}"#, "raw", "/srv/base"),
            (#"{"filename":"/srv/base"}"#, nil, "/srv/base"),
            (#"{"driver":"raw","offset":0,"file":{"driver":"file","filename":"/a"}}"#, "raw", "/a"),
            (#"{"driver":"qcow2","file":{"driver":"raw","file":{"driver":"file","filename":"/a"}}}"#, "qcow2", "/a"),
            (#"{'driver':'qcow2','file':{'filename':'/a\'b'}}"#, "qcow2", "/a'b"),
            (#"{"driver":"qcow2","file":{"filename":"/gr\u00f6\u00DFe \ud83d\ude00\/x"}}"#, "qcow2", "/größe 😀/x"),
            (
                #"{"driver":"qcow2","node-name":"n1","read-only":true,"cache":{"direct":true,"no-flush":false},"#
                    + #""file":{"driver":"file","filename":"/a","aio":"io_uring","locking":"off"},"cache-size":1048576}"#,
                "qcow2", "/a"
            ),
        ] as [(String, String?, String)])
    func plainFilesAreUnderstood(_ json: String, _ format: String?, _ file: String) throws {
        let parent = try reference("json:" + json)
        #expect(parent.paths == [Path(base: .host, text: file)])
        #expect(parent.format == format && !parent.endsChain)
    }

    /// Inside of the object a name is a name, whatever it looks like.
    @Test func namesInTheObjectAreLiteral() throws {
        for (name, text) in [("nbd:x", "./nbd:x"), ("file:x", "./file:x"), ("base", "base"), (#"C:\\x"#, #"./C:\x"#)] {
            let json = #"json:{"file":{"filename":"\#(name)"}}"#
            #expect(try reference(json).paths == [Path(base: .image, text: text)])
        }
    }

    @Test func theFormatInTheHeaderCountsFirst() throws {
        let json = #"json:{"driver":"raw","file":{"filename":"/a"}}"#
        #expect(try reference(json, format: "qcow2").format == "qcow2")
        #expect(try reference(#"json:{"driver":"file","filename":"/a"}"#, format: "vpc").format == "vpc")
    }

    @Test func nothingBelowIsUnderstood() throws {
        #expect(try reference(#"json:{"driver":"qcow2","backing":null,"file":{"filename":"/a"}}"#).endsChain)
    }

    @Test(
        arguments: [
            (#"{"driver":"nbd","host":"h"}"#, "nbd"),
            (#"{"driver":"qcow2","file":{"driver":"ssh","path":"/a"}}"#, "ssh"),
            (#"{"driver":"raw","offset":512,"file":{"filename":"/a"}}"#, "offset"),
            (#"{"driver":"raw","size":512,"file":{"filename":"/a"}}"#, "size"),
            (#"{"driver":"qcow2","backing":"n1","file":{"filename":"/a"}}"#, "backing"),
            (#"{"driver":"qcow2","backing":{"filename":"/b"},"file":{"filename":"/a"}}"#, "backing.filename"),
            (#"{"driver":"qcow2","data-file":{"filename":"/b"},"file":{"filename":"/a"}}"#, "data-file"),
            (#"{"driver":"qcow2","encrypt.key-secret":"s","file":{"filename":"/a"}}"#, "encrypt"),
            (#"{"driver":"qcow2","file":"node"}"#, "file"), (#"{"driver":"qcow2"}"#, "names no file"),
            (#"{"file":{"driver":"file"}}"#, "names no file"), (#"{"file":{"filename":""}}"#, "names no file"),
            (#"{"driver":7,"file":{"filename":"/a"}}"#, "no text"), ("{}", "names no file"), ("", "no JSON"),
            (#"{"driver":"throttle","file":{"filename":"/a"}}"#, "throttle"),
            (#"{"driver":"qcow2","file":{"driver":"qcow2","file":{"filename":"/a"}}}"#, "qcow2"),
            (#"{"filename":"/a","filename":"/b"}"#, "twice"),
            (#"{"file.filename":"/a","file":{"filename":"/b"}}"#, "twice"),
            (#"{"filename":"/a"} x"#, "follows"), (#"{"filename":"/a",}"#, "no JSON"),
            (#"{"filename":"/a""#, "no JSON"),
            (#"{"filename":"/a\u0000b"}"#, "character"), (#"{"filename":"/a\ud800"}"#, "character"),
            (#"{"filename":["/a"]}"#, "no JSON"), (#"{"filename":/a}"#, "no JSON"), (#"["filename"]"#, "no JSON"),
            (#"{"filename":"/a","x":0x10}"#, "no JSON"), (#"{"filename":"\q"}"#, "no JSON"),
            (#"{"filename":"\u12"}"#, "no JSON"), (#"{"filename":"\u+123"}"#, "no JSON"),
            (String(repeating: #"{"a":"#, count: 9) + "1" + String(repeating: "}", count: 9), "deep"),
        ])
    func everythingElseIsRefusedByItsName(_ json: String, _ word: String) throws {
        let parent = try reference("json:" + json)
        let path = try #require(parent.paths.first)
        #expect(path.base == .elsewhere && parent.paths.count == 1)
        #expect(path.refusal?.contains(word) == true, "\(path.refusal ?? "nothing")")
    }

    @Test func manyValuesAreRefused() throws {
        let json = "json:{" + (36..<176).map { "\"\(String($0, radix: 36))\":1" }.joined(separator: ",") + "}"
        let path = try #require(try reference(json).paths.first)
        #expect(path.refusal?.contains("too many") == true)
    }

    /// A data file is what it is called and nothing more: QEMU's own mistake with such names was CVE-2024-4467.
    @Test(arguments: ["json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}", "nbd:h:1", "file:data"])
    func dataFilesByProtocolAreDenied(_ name: String) {
        var builder = QCOW2Builder()
        builder.incompatible = 4
        builder.extensions = [(0x4441_5441, Array(name.utf8))]
        let error = builder.openFailure()
        #expect(error?.kind == .denied && error?.detail == name)
    }
}
