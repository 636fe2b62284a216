import Glibc
import TestSupport
import Testing

/// `platter list`, `umount` and `mount` by every name that a mount has, in every state that it can be in.
@Suite(.serialized, .enabled(if: FUSE.isThere, "\(FUSE.skipReason)"))
struct ListTests {
    private let playground: Playground

    init() throws { playground = try Playground() }

    private func mount(_ arguments: String...) throws {
        let result = try ChildProcess(Product.path, arguments + [playground.mountpoint]).wait(timeout: 30)
        guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
    }

    private func list(_ target: String? = nil) throws -> JSON? {
        let result = try ChildProcess(Product.path, ["list", "--json"] + (target.map { [$0] } ?? [])).wait()
        guard result.succeeded else { return nil }
        let mounts = try #require(try JSON(parsing: result.output).array)
        return mounts.first { $0["mountpoint"]?.string == playground.mountpoint }
    }

    @Test func anOverlayIsShownAsOne() throws {
        let overlay = playground.directory.file("changes.qcow2")
        for (option, file) in [(overlay, overlay as String?), ("tmp", nil)] {
            try mount("--overlay", option, playground.image)
            let entry = try #require(try list())
            #expect(entry["mode"]?.string == "overlay" && entry["state"]?.string == "mounted", "\(entry)")
            #expect(entry["overlay"]?.string == file, "\(entry)")
            #expect(entry["image"]?.string == playground.image)
            let text = try Product.run("list", playground.mountpoint).text
            #expect(text.contains("overlay") && text.contains("STATE"), "\(text)")
            #expect(try Product.run("umount", playground.mountpoint).succeeded)
        }
    }

    @Test func theOperandNamesOneMount() throws {
        try mount(playground.image)
        defer { _ = try? Product.run("umount", playground.mountpoint) }
        let link = playground.directory.file("link")
        #expect(symlink("mnt", link) == 0 && symlink("disk.raw", playground.directory.file("image-link")) == 0)
        let names = [
            playground.mountpoint, playground.image, link, link + "/", playground.directory.file("image-link"),
        ]
        for name in names {
            #expect(try list(name)?["state"]?.string == "mounted", "\(name)")
            #expect(try JSON(parsing: Product.run("list", "--json", name).output).array?.count == 1, "\(name)")
        }
        let other = try Product.run("list", playground.directory.path)
        #expect(other.status == 2 && other.errors.contains("not a mount of platter"), "\(other)")
    }

    @Test func theServerOfADeadMountHasDied() throws {
        try mount(playground.image)
        let pid = try #require(try list()?["pid"]?.int)
        let descriptor = open(playground.disk, O_RDONLY)
        defer { close(descriptor) }
        #expect(kill(Int32(pid), SIGKILL) == 0)
        #expect(try playground.eventually { try list()?["state"]?.string == "dead" })
        let listed = try Product.run("list", playground.mountpoint)
        #expect(listed.text.contains("dead"), "\(listed)")
        #expect(listed.errors.contains("platter umount \(playground.mountpoint)"), "\(listed)")
        #expect(try list()?["pid"] == .null)
        // Somebody still has a file in it.
        let ended = try Product.run("umount", playground.mountpoint)
        #expect(ended.succeeded, "\(ended)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
        #expect(try list() == nil)
    }

    /// Until its parent asks for its status, a server that was killed is still a process.
    @Test func aServerThatIsAZombieHasDied() throws {
        let server = try ChildProcess(Product.path, ["-f", playground.image, playground.mountpoint])
        #expect(playground.eventually { HostFiles.exists(playground.disk) })
        #expect(kill(server.pid, SIGKILL) == 0)
        #expect(try playground.eventually { try HostFiles.text("/proc/\(server.pid)/stat").contains(") Z ") })
        let entry = try #require(try list())
        #expect(entry["state"]?.string == "dead" && entry["pid"] == .null, "\(entry)")
        #expect(try HostFiles.text("/proc/\(server.pid)/stat").contains(") Z "), "somebody has asked")
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
        _ = server.wait(timeout: 10)
    }

    @Test(arguments: ["lazy", "TERM"])
    func aDetachedServerIsShownUntilItsLastUserIsDone(_ way: String) throws {
        try mount(playground.image)
        let pid = try #require(try list()?["pid"]?.int)
        let user = try ChildProcess("sh", ["-c", "exec sleep 60 < '\(playground.disk)'"])
        #expect(try playground.eventually { try HostFiles.text("/proc/\(user.pid)/comm") == "sleep\n" })
        if way == "lazy" {
            #expect(try Product.run("umount", "--lazy", playground.mountpoint).succeeded)
        } else {
            #expect(kill(Int32(pid), SIGTERM) == 0)
        }
        #expect(try playground.eventually { try FUSE.mountinfo(playground.mountpoint) == nil })
        let entry = try #require(try list())
        #expect(entry["state"]?.string == "detached" && entry["pid"]?.int == pid, "\(entry)")
        #expect(entry["image"]?.string == playground.image && entry["mode"]?.string == "ro", "\(entry)")
        #expect(entry["users"]?[0]?.string == "sleep (pid \(user.pid))", "\(entry)")
        let said = try Product.run("list", playground.image)
        #expect(said.errors.contains("(pid \(pid)) goes on until sleep"), "\(said)")
        let again = try Product.run("umount", playground.mountpoint)
        #expect(again.status == 32 && again.errors.contains("not mounted any more"), "\(again)")
        user.stop(SIGKILL)
        #expect(try playground.eventually { try list() == nil })
    }

    @Test func anImageIsCalledAsItWasTyped() throws {
        let link = playground.directory.file("called.raw")
        #expect(symlink("disk.raw", link) == 0)
        for target in [link, playground.image, playground.mountpoint] {
            let mounted = try Product.run(link, playground.mountpoint)
            #expect(mounted.text == playground.mountpoint + "/called.raw\n", "\(mounted)")
            #expect(try HostFiles.read(playground.mountpoint + "/called.raw") == playground.content)
            #expect(try list()?["image"]?.string == playground.image, "the device is the file itself")
            #expect(try Product.run("umount", "--wait", target).succeeded, "\(target)")
        }
    }

    @Test func aChildFindsItsParentBesideTheLinkToo() throws {
        let directory = playground.directory
        for name in ["far", "near"] { #expect(mkdir(directory.file(name), 0o755) == 0) }
        let (parent, child) = (directory.file("near/parent.qcow2"), directory.file("near/child.qcow2"))
        #expect(try Product.run("create", "-q", parent, "1M").succeeded)
        #expect(try Product.run("create", "-q", "--parent", parent, child).succeeded)
        #expect(rename(child, directory.file("far/child.qcow2")) == 0)
        #expect(symlink("../far/child.qcow2", child) == 0)
        try mount(child)
        #expect(try HostFiles.read(playground.mountpoint + "/child.qcow2.raw").count == 1 << 20)
        #expect(try Product.run("umount", "--wait", child).succeeded)
    }

    @Test func aMountpointMayBeALink() throws {
        let (near, far) = (playground.directory.file("near"), playground.directory.file("far"))
        #expect(symlink("mnt", near) == 0 && symlink(near, far) == 0)
        for name in [near, far, far + "/"] {
            #expect(try Product.run(playground.image, name).succeeded, "\(name)")
            #expect(try FUSE.mountinfo(playground.mountpoint) != nil)
            #expect(try list(name)?["state"]?.string == "mounted")
            let ended = try Product.run("umount", "--wait", name)
            #expect(ended.succeeded, "\(ended)")
        }
        // One whose server has died answers no call by any name.
        try mount(playground.image)
        let pid = try #require(try list()?["pid"]?.int)
        #expect(kill(Int32(pid), SIGKILL) == 0)
        #expect(try playground.eventually { try list(far)?["state"]?.string == "dead" })
        let again = try Product.run(playground.image, far)
        #expect(again.succeeded && again.errors.contains("server had died"), "\(again)")
        #expect(try Product.run("umount", "--wait", far).succeeded)
    }
}
