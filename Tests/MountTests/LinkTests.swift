internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// Symbolic links in a directory of images: followed inside, and outside only where the user says so.
@Suite(.serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason), .timeLimit(.minutes(3)))
struct LinkTests {
    private let work: TemporaryDirectory
    private let source: String
    private let outside: String
    private let log: String

    init() throws {
        work = try TemporaryDirectory("links")
        (source, outside, log) = (work.file("source"), work.file("outside"), work.file("log"))
        try runSuccessfully("mkdir", "-p", source + "/sub", outside + "/deep")
        chmod(work.path, 0o755)
        try HostFiles.write([UInt8](repeating: 1, count: 8192), to: source + "/one.raw")
        try HostFiles.write([UInt8](repeating: 9, count: 4096), to: outside + "/deep/nine.raw")
    }

    private func logged() throws -> [String] {
        try HostFiles.text(log).split(separator: "\n").map(String.init).filter { $0.contains("link") }
    }

    @Test func whatLeadsOutsideIsListedAndRefused() throws {
        #expect(symlink("../outside/deep/nine.raw", source + "/relative.raw") == 0)
        #expect(symlink(outside + "/deep/nine.raw", source + "/sub/absolute.raw") == 0)
        #expect(symlink("nothing.vhd", source + "/nowhere.vhd") == 0)
        #expect(symlink("circle.raw", source + "/circle.raw") == 0)
        #expect(symlink("/etc/hostname", source + "/notes.txt") == 0)
        let served = try Served(source, "log=\(log)")
        let names = [".platter", "circle.raw", "nowhere.vhd.raw", "one.raw", "relative.raw", "sub"]
        #expect(try HostFiles.list(served.mountpoint) == names)
        #expect(try HostFiles.list(served.path("sub")) == ["absolute.raw"])
        for name in ["relative.raw", "sub/absolute.raw", "nowhere.vhd.raw", "circle.raw"] {
            #expect(try Seen.facts(served.path(name)).mode & 0o7777 == 0, "\(name)")
            #expect(Seen.openFailure(served.path(name), O_RDONLY) == EACCES, "\(name)")
        }
        _ = try HostFiles.list(served.mountpoint)
        let lines = try logged()
        #expect(lines.count == 4, "one for each link: \(lines)")
        for (link, words) in [
            ("/relative.raw", [outside + "/deep/nine.raw", "-o follow-links with --allow-parents"]),
            ("/sub/absolute.raw", [outside + "/deep/nine.raw", "-o follow-links with --allow-parents"]),
            ("/nowhere.vhd", ["leads nowhere", "nothing.vhd"]), ("/circle.raw", ["leads nowhere"]),
        ] {
            let line = lines.first { $0.contains(source + link + ":") } ?? ""
            #expect(words.allSatisfy(line.contains), "\(link): \(lines)")
        }
    }

    @Test func theOptionThatIsMissingIsNamed() throws {
        #expect(symlink("../outside/deep/nine.raw", source + "/out.raw") == 0)
        let allowed = try Served(source, "log=\(log)", "allow-parents=\(outside)")
        #expect(try HostFiles.list(allowed.mountpoint).contains("out.raw"))
        #expect(Seen.openFailure(allowed.path("out.raw"), O_RDONLY) == EACCES)
        #expect(try logged().first?.contains("; -o follow-links follows it") == true)
        allowed.end()
        unlink(log)
        let following = try Served(source, "log=\(log)", "follow-links")
        #expect(try HostFiles.list(following.mountpoint).contains("out.raw"))
        #expect(Seen.openFailure(following.path("out.raw"), O_RDONLY) == EACCES)
        #expect(try logged().first?.contains("--allow-parents DIR with its place") == true)
    }

    @Test func whatIsAllowedIsFollowed() throws {
        #expect(symlink("../outside/deep/nine.raw", source + "/out.raw") == 0)
        #expect(symlink(work.file("else.raw"), source + "/else.raw") == 0)
        try HostFiles.write([UInt8](repeating: 4, count: 512), to: work.file("else.raw"))
        // By way of a link in the allowed directory that leads out of it again.
        #expect(symlink("../else.raw", outside + "/back.raw") == 0)
        #expect(symlink("../outside/back.raw", source + "/back.raw") == 0)
        let served = try Served(source, "follow-links", "allow-parents=\(outside)")
        #expect(
            try HostFiles.list(served.mountpoint) == [".platter", "back.raw", "else.raw", "one.raw", "out.raw", "sub"])
        #expect(try HostFiles.read(served.path("out.raw")) == [UInt8](repeating: 9, count: 4096))
        for name in ["back.raw", "else.raw"] {
            #expect(Seen.openFailure(served.path(name), O_RDONLY) == EACCES, "\(name)")
        }
        // A link that is turned elsewhere.
        unlink(source + "/out.raw")
        #expect(symlink("/etc/passwd", source + "/out.raw") == 0)
        #expect(Seen.soon { Seen.openFailure(served.path("out.raw"), O_RDONLY) == EACCES })
        // An allowed file that comes to be.
        try HostFiles.write([UInt8](repeating: 7, count: 512), to: outside + "/new.raw")
        #expect(symlink("../outside/new.raw", source + "/new.raw") == 0)
        #expect(Seen.soon { (try? HostFiles.read(served.path("new.raw"))) == [UInt8](repeating: 7, count: 512) })
    }

    @Test func linksInsideAreAlwaysFollowed() throws {
        #expect(symlink("../one.raw", source + "/sub/relative.raw") == 0)
        #expect(symlink(source + "/one.raw", source + "/sub/absolute.raw") == 0)
        #expect(symlink("..", source + "/sub/up") == 0)
        let served = try Served(source)
        #expect(try HostFiles.list(served.path("sub")) == ["absolute.raw", "relative.raw"])
        for name in ["absolute.raw", "relative.raw"] {
            #expect(try HostFiles.read(served.path("sub/\(name)")) == [UInt8](repeating: 1, count: 8192))
        }
        #expect(Seen.openFailure(served.path("sub/up/one.raw"), O_RDONLY) == ENOENT)
    }

    @Test func aDirectoryOfNothingButLinksSaysSo() throws {
        unlink(source + "/one.raw")
        let point = work.file("point")
        #expect(mkdir(point, 0o755) == 0)
        #expect(symlink("sub", source + "/directory") == 0)
        let directories = try run(Served.program, "mount", "-f", source, point, timeout: 20)
        #expect(directories.status == 32 && directories.errors.contains("name one of those (1 link)"), "\(directories)")
        #expect(symlink("../outside/deep/nine.raw", source + "/a.raw") == 0)
        #expect(symlink("../outside/deep/nine.raw", source + "/sub/plain") == 0)
        let files = try run(Served.program, "mount", "-f", source, point, timeout: 20)
        #expect(files.status == 32 && files.errors.contains("(2 links)"), "\(files)")
        #expect(files.errors.contains("-o follow-links with --allow-parents DIR"), "\(files)")
        let served = try Served(source, "follow-links", "allow-parents=\(outside)")
        #expect(try HostFiles.list(served.mountpoint) == [".platter", "a.raw", "sub"])
    }

    /// A server that walks a link into its own mount waits for itself, and so does everybody else then, beyond SIGKILL.
    @Test func aLinkIntoTheMountItselfIsNotWalked() throws {
        let served = try Served(source, "follow-links", "allow-parents=/")
        for name in ["self.raw", "other.raw"] {
            #expect(symlink(served.path("self.raw"), source + "/" + name) == 0)
        }
        #expect(symlink(served.mountpoint, source + "/whole.raw") == 0)
        #expect(Seen.soon { (try? HostFiles.list(served.mountpoint).contains("self.raw")) == true })
        for name in ["self.raw", "other.raw", "whole.raw"] {
            #expect(Seen.openFailure(served.path(name), O_RDONLY) == EACCES, "\(name)")
        }
        #expect(try HostFiles.read(served.path("one.raw")).count == 8192)
    }

    @Test func linksOfLinksAreFollowedAsFarAsTheyMayBe() throws {
        #expect(symlink("sub/second.raw", source + "/first.raw") == 0)
        #expect(symlink(source + "/one.raw", source + "/sub/second.raw") == 0)
        #expect(symlink("../../outside/deep/nine.raw", source + "/sub/out.raw") == 0)
        #expect(symlink("sub/out.raw", source + "/far.raw") == 0)
        let served = try Served(source)
        #expect(try HostFiles.read(served.path("first.raw")).count == 8192)
        #expect(Seen.openFailure(served.path("far.raw"), O_RDONLY) == EACCES)
        served.end()
        let following = try Served(source, "follow-links", "allow-parents=\(outside)")
        #expect(try HostFiles.read(following.path("far.raw")) == [UInt8](repeating: 9, count: 4096))
    }

    @Test func aFollowedLinkIsWritten() throws {
        #expect(symlink("../outside/deep/nine.raw", source + "/out.raw") == 0)
        let served = try Served.writable(source, "follow-links", "allow-parents=\(outside)")
        try HostFiles.patch([1, 2, 3], at: 100, of: served.path("out.raw"))
        #expect(try served.unmount() == 0)
        #expect(try HostFiles.read(outside + "/deep/nine.raw")[99..<104] == [9, 1, 2, 3, 9])
    }

    @Test func aFollowedChildFindsItsParentBesideItself() throws {
        let parent = outside + "/deep/parent.qcow2"
        for arguments in [["-q", parent, "1M"], ["-q", "--parent", parent, outside + "/deep/child.qcow2"]] {
            #expect(try ChildProcess(Served.program, ["create"] + arguments).wait().succeeded)
        }
        #expect(symlink("../outside/deep/child.qcow2", source + "/disk.qcow2") == 0)
        let served = try Served(source, "follow-links", "allow-parents=\(outside)")
        #expect(try HostFiles.read(served.path("disk.qcow2.raw")).count == 1 << 20)
    }

    /// A mount for all users gives nobody more than the directories that the link leads through.
    @Test(.enabled(if: Fuse.isRoot && Tool.has("setpriv"), "needs root and setpriv"))
    func aClosedDirectoryStaysClosed() throws {
        let closed = outside + "/closed"
        for directory in [closed, source + "/private"] {
            try runSuccessfully("mkdir", directory)
            try HostFiles.write([UInt8](repeating: 5, count: 512), to: directory + "/secret.raw")
            #expect(chmod(directory + "/secret.raw", 0o644) == 0 && chmod(directory, 0o700) == 0)
        }
        #expect(symlink("../outside/closed/secret.raw", source + "/out.raw") == 0)
        #expect(symlink("private/secret.raw", source + "/in.raw") == 0)
        #expect(symlink("../outside/deep/nine.raw", source + "/open.raw") == 0)
        let served = try Served(source, "allow_other", "follow-links", "allow-parents=\(outside)", "partitions")
        chmod(work.path, 0o755)
        func read(_ name: String) throws -> Bool {
            try run(
                "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "head", "-c", "1", served.path(name)
            ).succeeded
        }
        #expect(try read("open.raw"))
        for name in ["out.raw", "in.raw", "private/secret.raw"] { #expect(try !read(name), "\(name)") }
        #expect(try HostFiles.read(served.path("in.raw")).count == 512, "root reads it")
        #expect(try Seen.facts(served.path("out.raw")).mode & 0o077 == 0)
    }
}
