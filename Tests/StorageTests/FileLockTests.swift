import Bytes
import Storage
import TestSupport
import Testing

/// QEMU's locks against a real QEMU: the numbers in `FileLock` are right only if both keep each other out.
@Suite(.enabled(if: Tool.has("qemu-img", "qemu-io"), "qemu-img or qemu-io is missing"))
struct FileLockTests {
    let directory: TemporaryDirectory
    let path: String

    init() throws {
        directory = try TemporaryDirectory("locks")
        path = directory.file("image.qcow2")
        try runSuccessfully("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    }

    private func write() throws -> CommandResult {
        try run("qemu-io", "-f", "qcow2", "-c", "write 0 512", path)
    }

    @Test func twoReadersCoexist() throws {
        let first = try FileStorage(path: path)
        let second = try FileStorage(path: path)
        #expect(try FileLock.lockForReading(first))
        #expect(try FileLock.lockForReading(second))
        let reader = try run("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", path)
        #expect(reader.succeeded, "\(reader)")
    }

    @Test func aReaderKeepsAWriterOut() throws {
        let storage = try FileStorage(path: path)
        #expect(try FileLock.lockForReading(storage))
        let refused = try write()
        #expect(!refused.succeeded, "\(refused)")
        #expect((refused.text + refused.errors).contains("lock"), "\(refused)")
        storage.close()
        let allowed = try write()
        #expect(allowed.succeeded, "\(allowed)")
    }

    @Test func whatTheProcessItselfHoldsIsSaidToBeIts() throws {
        let first = try FileStorage(path: path, isWritable: true)
        #expect(try FileLock.lockForWriting(first))
        let second = try FileStorage(path: path)
        let error = try #require(throws: ImageError.self) { try FileLock.lockForReading(second) }
        #expect(error.kind == .busy && error.detail?.contains("this server") == true, "\(error)")
        first.close()
        #expect(try FileLock.lockForReading(second))
    }

    /// Who has the file open and holds no lock is not in the way, this process neither.
    @Test func whoHoldsNoLockIsNotNamed() throws {
        let qemu = try ChildProcess("qemu-io", ["-f", "qcow2", "-c", "sleep 20000", path])
        defer { qemu.stop() }
        let reader = try ChildProcess("sh", ["-c", "exec 7<'\(path)'; sleep 20"])
        defer { reader.stop() }
        let (other, storage) = (try FileStorage(path: path), try FileStorage(path: path))
        // A lock of ours that came first would keep qemu out.
        let inode = try #require(storage.identity?.inode)
        for _ in 0..<500 where try !HostFiles.text("/proc/locks").contains(":\(inode) 103 103") {
            _ = try run("sleep", "0.01")
        }
        let error = try #require(throws: ImageError.self) { try FileLock.lockForReading(storage) }
        #expect(error.detail == "held by qemu-io (pid \(qemu.pid))", "\(error)")
        #expect(other.size > 0)
    }

    @Test func withoutTheLockTheWriterGoesAhead() throws {
        let storage = try FileStorage(path: path)
        let allowed = try write()
        #expect(allowed.succeeded && storage.size > 0, "\(allowed)")
    }

    @Test(.enabled(if: Tool.has("qemu-storage-daemon"), "qemu-storage-daemon is missing"))
    func aWriterKeepsUsOutByName() throws {
        let pidFile = directory.file("pid")
        let daemon = try ChildProcess(
            "qemu-storage-daemon",
            [
                "--blockdev", "driver=file,node-name=file,filename=\(path)",
                "--blockdev", "driver=qcow2,node-name=disk,file=file",
                "--nbd-server", "addr.type=unix,addr.path=\(directory.file("socket"))",
                "--export", "type=nbd,id=export,node-name=disk,writable=on",
                "--pidfile", pidFile,
            ])
        defer { daemon.stop() }
        for _ in 0..<500 where daemon.isRunning && !HostFiles.exists(pidFile) { _ = try run("sleep", "0.01") }
        if !daemon.isRunning { Issue.record("qemu-storage-daemon did not start: \(daemon.wait())") }

        let storage = try FileStorage(path: path)
        do {
            _ = try FileLock.lockForReading(storage)
            Issue.record("took the lock of an image that is being written")
        } catch {
            #expect(error.kind == .busy)
            #expect("\(error)".contains("(pid \(daemon.pid))"), "\(error)")
            #expect("\(error)".contains("qemu-storage"), "\(error)")
        }
        daemon.stop()
        #expect(try FileLock.lockForReading(storage))
    }

    @Test func aRefusedLockLeavesNothingBehind() throws {
        let first = try FileStorage(path: path)
        #expect(try FileLock.lockForReading(first))
        // A writer that was refused must not keep later readers out, nor must our own release keep a writer out.
        _ = try write()
        let second = try FileStorage(path: path)
        #expect(try FileLock.lockForReading(second))
        first.close()
        #expect(try !write().succeeded)
        second.close()
        #expect(try write().succeeded)
    }
}
