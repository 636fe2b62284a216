import Testing

@testable import platter

/// The option table: command lines, lists of mount options, values.
@Suite struct OptionTests {
    private func mount(_ arguments: String...) throws -> (settings: MountSettings, operands: [String]) {
        guard case .run(let settings, let operands) = try OptionTable.mount.parse(arguments, into: MountSettings())
        else { throw Failure(.usage, "help") }
        return (settings, operands)
    }

    private func failure(_ arguments: String...) -> Failure? {
        do throws(Failure) {
            _ = try OptionTable.mount.parse(arguments, into: MountSettings())
            return nil
        } catch { return error }
    }

    @Test func whatMountFuse3Passes() throws {
        let (settings, operands) = try mount("/img/a.vhdx", "/mnt", "-o", "rw,nosuid,nodev,dev,suid")
        #expect(operands == ["/img/a.vhdx", "/mnt"])
        #expect(settings.saysReadWrite)
        #expect(!settings.wantsWriting)
        #expect(settings.kernelFlags == ["nosuid", "nodev", "dev", "suid"])
    }

    @Test func everySpellingOfAnOption() throws {
        #expect(try mount("-f", "a", "b").settings.isForeground)
        #expect(try mount("a", "--foreground", "b").settings.isForeground)
        #expect(try mount("-fr", "a", "b").settings.saysReadOnly)
        #expect(try mount("-ouid=5,gid=6").settings.uid == 5)
        #expect(try mount("--threads=3").settings.threads == 3)
        #expect(try mount("--threads", "3").settings.threads == 3)
        #expect(try mount("--", "-f", "b").operands == ["-f", "b"])
        #expect(
            try mount("--allow-parents", "/a", "-o", "allow-parents=/b").settings.image.allowedParents == ["/a", "/b"])
    }

    @Test func theUnitOfAPartitionTableIs512Or4096() throws {
        #expect(try mount("a", "b").settings.image.tableSectorSize == nil)
        #expect(try mount("-o", "sector-size=512").settings.image.tableSectorSize == 512)
        #expect(try mount("-o", "sector-size=4096").settings.image.tableSectorSize == 4096)
        for value in ["0", "520", "1024", "4k", "", "-512", "0512"] {
            let error = try #require(failure("-o", "sector-size=\(value)"))
            #expect(error.message.contains("sector-size") && error.message.contains("512 or 4096"), "\(error)")
        }
        #expect(throws: Failure.self) {
            try OptionTable.map.parse(["-o", "sector-size=512"], into: InspectSettings())
        }
    }

    @Test func optionsOfMountSystemdAndLibfuseAreAccepted() throws {
        let list =
            "defaults,ro,noexec,noatime,relatime,sync,allow_other,default_permissions,auto_unmount,fsname=x,subtype=y,"
            + "max_read=131072,uid=1,gid=2,umask=022,fmask=0133,dmask=22,entry_timeout=1.5,attr_timeout=0,kernel_cache,"
            + "direct_io,nonempty,nofail,_netdev,noauto,user,comment=hello,x-systemd.automount,x-gvfs-hide,"
            + "x-systemd.requires=/img"
        let settings = try mount("-o", list).settings
        #expect(settings.allowOther == true)
        #expect(settings.umask == 0o22)
        #expect(settings.fileMask == 0o133)
        #expect(settings.directoryMask == 0o22)
        #expect(settings.entryTimeout == 1.5)
        #expect(settings.attributeTimeout == 0)
        #expect(settings.allowsNonEmpty)
    }

    @Test(arguments: [
        (["-o", "colour=red"], "colour"), (["--colour"], "--colour"), (["-Q"], "-Q"), (["-o"], "-o"),
        (["-o", "partitions=1"], "partitions"), (["-o", "uid"], "uid"), (["-o", "uid=-1"], "uid"),
        (["-o", "umask=9"], "umask"), (["-o", "cache-size=12X"], "cache-size"), (["-o", "threads=0"], "threads"),
        (["-o", "vhd-size=big"], "vhd-size"), (["-o", "format=zip"], "format"), (["-o", "name=a/b"], "name"),
        (["-o", "attr_timeout=nan"], "attr_timeout"), (["--foreground=yes"], "--foreground"),
        (["-o", "remount"], "remount"), (["-o", "truncate=all"], "truncate"), (["-o", "overlay="], "overlay"),
        (["--overlay"], "--overlay"),
    ])
    func aWrongOptionIsNamed(_ arguments: [String], _ name: String) throws {
        var failure: Failure?
        do throws(Failure) { _ = try OptionTable.mount.parse(arguments, into: MountSettings()) } catch {
            failure = error
        }
        #expect(failure?.status == .usage)
        #expect(failure?.message.contains(name) == true, "\(failure?.message ?? "no failure")")
    }

    @Test func contradictionsAreRefused() throws {
        for list in ["ro,write", "ro,overlay=/x", "write,overlay=tmp"] {
            let refused = #expect(throws: Failure.self) { try mount("-o", list).settings.validate() }
            #expect(refused?.status == .usage && refused?.message.contains("say one of them") == true)
        }
        try mount("-o", "rw").settings.validate()
    }

    @Test func writingIsAskedForByItsOwnWordOnly() throws {
        #expect(try mount("-o", "write").settings.isWritable)
        #expect(try mount("-w").settings.wantsWriting)
        #expect(try mount("-o", "overlay=/x").settings.overlay == .file("/x"))
        #expect(try mount("--overlay", "tmp").settings.overlay == .temporary)
        #expect(try mount("--overlay=./tmp").settings.overlay == .file("./tmp"))
        #expect(try !mount("-o", "rw").settings.isWritable)
        #expect(try mount("-o", "truncate=discard").settings.truncationDiscards)
        #expect(try !mount("-o", "truncate=refuse").settings.truncationDiscards)
    }

    @Test(
        arguments: [
            ("0", 0), ("512", 512), ("1b", 1), ("1k", 1024), ("10G", 10 << 30), ("1.5T", 3 << 39), ("0.5k", 512),
            ("64MiB", 64 << 20), ("2gb", 2 << 30), ("1P", 1 << 50), ("15E", 15 << 60), ("1.0001k", 1024),
            ("18446744073709551615", .max), ("1.999999999999999999999T", (2 << 40) - 1),
        ] as [(String, UInt64)])
    func sizesOfDisks(_ text: String, _ bytes: UInt64) { #expect(DiskSize.bytes(text) == bytes) }

    @Test(arguments: [
        "", "G", "-1", "+1", "1.5", "1.5b", "1.G", ".5G", "1KK", "1 G", "16E", "18446744073709551616", "0x10", "1bb",
        "1bib", "٣G", "1G1",
    ])
    func whatIsNoSizeOfADisk(_ text: String) { #expect(DiskSize.bytes(text) == nil) }

    @Test func helpIsAskedForAnywhere() throws {
        guard case .help = try OptionTable.mount.parse(["a", "-f", "--help"], into: MountSettings()) else {
            Issue.record("--help was not seen")
            return
        }
        for option in ["--foreground", "-o partitions", "--allow-parents DIR", "-o cache-size=SIZE"] {
            #expect(OptionTable.mount.helpText.contains(option))
        }
    }

    @Test func helpersHaveLettersOfTheirOwn() throws {
        let arguments = [
            "/img", "/mnt", "-s", "-f", "-n", "-N", "/proc/1/ns/mnt", "-t", "fuse.platter", "-o", "ro,odd",
        ]
        guard
            case .run(let settings, let operands) = try OptionTable.mountHelper.parse(arguments, into: MountSettings())
        else { return }
        #expect(operands == ["/img", "/mnt"])
        #expect(settings.isFake && settings.isSloppy && !settings.isForeground)
    }

    @Test(
        arguments: [
            ("a,b=c", [("a", nil), ("b", "c")]), ("", []), (",,a,", [("a", nil)]),
            ("name=a\\,b,ro", [("name", "a,b"), ("ro", nil)]), ("name=a\\\\b", [("name", "a\\b")]),
            ("context=\"x,y\",z", [("context", "x,y"), ("z", nil)]), ("a=b=c", [("a", "b=c")]), ("a=", [("a", "")]),
            ("name=c:\\new", [("name", "c:\\new")]),
        ] as [(String, [(String, String?)])])
    func listsOfMountOptions(_ list: String, _ items: [(String, String?)]) {
        #expect(MountOptionList.items(of: list) == items.map { MountOptionList.Item(key: $0.0, value: $0.1) })
    }

    @Test(arguments: ["plain", "a,b", "a\\,b", "\\", ",", "c:\\x,y"])
    func escapedTextStaysOneValue(_ text: String) {
        let items = MountOptionList.items(of: "ro,fsname=\(MountOptionList.escaped(text)),rw")
        #expect(items.count == 3)
        #expect(items[1].value == text)
    }

    @Test(
        arguments: [
            ("0", 0), ("512", 512), ("1k", 1024), ("64K", 65536), ("32M", 32 << 20), ("1GiB", 1 << 30),
            ("2gb", 2 << 30),
            ("1T", 1 << 40),
        ] as [(String, UInt64)])
    func sizes(_ text: String, _ bytes: UInt64) throws {
        #expect(try Values.size(text, "cache-size") == bytes)
    }

    @Test(arguments: ["", "K", "-1", "1.5M", "1KK", "1 M", "99999999999T", "18446744073709551616", "0x10", "٣"])
    func whatIsNoSize(_ text: String) {
        #expect(throws: Failure.self) { try Values.size(text, "cache-size") }
    }
}
