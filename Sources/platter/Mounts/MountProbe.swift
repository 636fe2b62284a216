internal import CLinux
internal import Glibc

/// Tells a mount whose server has died from one that is served.
enum MountProbe {
    /// How long a mount may take to answer, in seconds. One that hangs is not dead.
    private static let patience = 1.0

    /// Whether every call on the mount gets ENOTCONN. Asked in a process of its own, which may hang in the kernel as long as
    /// the server does; a mount that lies under another one cannot be asked.
    static func isDead(_ entry: MountEntry) -> Bool {
        let path = String(decoding: entry.mountpoint, as: UTF8.self)
        var device: UInt64 = 0
        guard clinux_mount_device(path, &device) == 0 else { return errno == ENOTCONN }
        guard device == entry.device.number else { return false }
        let child = fork()
        if child == 0 {
            var type: Int64 = 0
            let isDead = clinux_filesystem_type(path, &type) != 0 && errno == ENOTCONN
            _exit(isDead ? 1 : 0)
        }
        guard child > 0 else { return false }
        let deadline = Clock.now() + patience
        var status: Int32 = 0
        while Clock.now() < deadline {
            let ended = waitpid(child, &status, WNOHANG)
            if ended == child { return status == 1 << 8 }
            if ended < 0, errno != EINTR { return false }
            usleep(1000)
        }
        kill(child, SIGKILL)
        return false
    }
}
